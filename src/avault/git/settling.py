"""Both sides of a conflict, merged."""

from __future__ import annotations

from avault.client import ask_daemon
from avault.errors import Locked, Unavailable, Usage, printable
from avault.git.committed import HINTS, RECOVERY, VAULT, Conflict
from avault.git.copies import copies, has_all, inspect
from avault.places import Places
from avault.vault.files import VAULT_LIMIT, read_file
from avault.vault.own_files import decode_file


def merge_public(name: str, ours: bytes, theirs: bytes) -> None:
    """Merge nsec.enc or nip46.json, which needs no key: ours stays, if both sides are for the same agent and operator.

    Each machine that recovers or pairs anew writes its own, and the operator's phone opens either. Raises Conflict.
    """
    fields = {
        RECOVERY: ("vault", "agent", "operator", "name"),
        HINTS: ("agent_npub", "signer_npub", "name"),
    }
    kinds = {RECOVERY: "nsec", HINTS: "hints"}
    if name not in kinds:
        raise Usage(f"not a file of the vault: {printable(name)}")
    one, other = (decode_file(kinds[name], data, name) for data in (ours, theirs))
    if differing := [field for field in fields[name] if one[field] != other[field]]:
        raise Conflict(
            f"{name} is another on both sides: {', '.join(differing)}",
            f"choose one: git checkout --ours or --theirs {name}",
        )


def settle_vault(places: Places, ours: bytes, theirs: bytes) -> None:
    """Merge both sides of a conflict into the vault that is served; raises Conflict while it is locked or keys collide."""
    try:
        for side in (ours, theirs):
            served = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT))
            if not has_all(served, inspect(places, side)):
                with copies(places, side) as [name]:
                    ask_daemon(places, "merge", theirs=name)
        conflicts = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT)).conflicts
    except (Locked, Unavailable) as error:
        raise Conflict(
            f"avault.enc is in conflict, and {error.message}",
            "the next unlock merges it: avault unlock",
        ) from None
    if conflicts:
        many = "a key was" if len(conflicts) == 1 else f"{len(conflicts)} keys were"
        raise Conflict(
            f"{many} set on two machines; both values are in the vault",
            "see: avault list; settle with: avault set",
        )
