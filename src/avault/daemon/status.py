"""What `status` says."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from avault import __version__
from avault.custody.stale import warn_of_stale
from avault.daemon.keeper import Warden
from avault.errors import AvaultError
from avault.keys.seal import request_code
from avault.places import Places
from avault.vault.files import read_file
from avault.vault.own_files import decode_file
from avault.vault.presence import read_unlock
from avault.vault.recovery import check_recovery
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message


def describe_status(places: Places, warden: Warden) -> Message:
    """Everything that is known of a vault and its daemon, without a secret."""
    fields = describe_disk(places, warden.condition.state == "unlocked")
    if warden.child.control:
        known = {
            name: value for name, value in warden.condition.report.items() if value is not None
        }
        fields |= {name: value for name, value in known.items() if name in fields}
        now = render_time(time.time())
        fields["pauses"] = [each for each in fields["pauses"] or [] if each["until"] > now]
    if problem := fields.pop("problem"):
        fields["warnings"] = [*fields["warnings"], problem]
    if warden.condition.state != "unlocked" and os.path.lexists(places.own("unsaved.enc")):
        kept = (
            "avault.enc could not be used when the vault locked; what was served is kept:"
            " the next unlock serves it"
        )
        fields["warnings"] = [*fields["warnings"], kept]
    fields["warnings"] = [*fields["warnings"], *warn_of_stale(places)]
    pause, failure = warden.question.pauses.end(), warden.condition.failure
    is_failed = failure and warden.condition.state == "locked"
    return {
        "ok": True,
        **fields,
        "state": warden.condition.current_state(),
        "asks_again": None if pause is None else render_time(pause),
        "hint": next_step(warden, fields),
        "error": failure.to_dict()["error"] if failure and is_failed else None,
        "dir": places.dir,
        "vault_id": places.id,
        "socket": places.socket,
        "pid": os.getpid(),
        "keyholder_pid": warden.child.pid(),
        "locks_after": warden.child.limits[0],
        "locks_idle": warden.child.limits[1],
        "custodians": warden.custody.order(),
        "roots": os.environ.get("AVAULT_ROOTS") or None,
        "asked": warden.phones.describe(),
        "version": __version__,
    }


def describe_disk(places: Places, is_open: bool) -> dict[str, Any]:
    """What the vault's files say, for what the keyholder does not; an open vault knows more."""
    public: dict[str, Any] = {}
    pairing: dict[str, Any] = {}
    relays: list[Any] | None = None
    problem = ""
    try:
        public, own = read_unlock(places)
        path = places.own("pairing.json")
        if os.path.lexists(path):
            pairing = decode_file("pairing", read_file(path), path)
            urls = pairing["relays"]
            relays = [{"url": url, "connected": None, "said": None} for url in urls]
        if own and not is_open:
            check_recovery(places)
    except AvaultError as error:
        pairing, problem = {}, error.message
    unknown = (
        "first_operator",
        "operators",
        "groups",
        "secrets",
        "guards",
        "asks",
        "questions",
        "pauses",
        "grants",
        "since",
        "until",
        "waiting",
        "listening",
    )
    return {
        **dict.fromkeys(unknown),
        "agent_npub": public.get("agent"),
        "signer_npub": public.get("operator"),
        "name": public.get("name"),
        "code": request_code(public["sealed"]) if public and not is_open else None,
        "proven": bool(public.get("proven")) if public else None,
        "phone_opened": public.get("proven") if pairing else None,
        "relays": relays,
        "warnings": [],
        "signer_approves_by_itself": pairing.get("approves_by_itself"),
        "problem": problem,
    }


def next_step(warden: Warden, fields: dict[str, Any]) -> str | None:
    """What the operator might type next."""
    if warden.condition.state != "unlocked":
        return warden.condition.locked().hint
    return warden.condition.pairing_hint() if fields["proven"] is False else None
