"""This machine in the vault's generations: its name, its counts, and the highest it has seen."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered
from avault.nostr import to_npub
from avault.places import Places, sha256
from avault.vault.files import read_file, write_file
from avault.vault.own_files import decode_file, encode_file
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any


# this machine's unlock.json, while `recover` goes over to the key that another has rotated to
SET_ASIDE = "unlock-before.json"


class Machine:
    """One machine among those that write to a vault; raises Tampered.

    `name` is what it counts its writes under, `warning` what should be known about the pin.
    """

    def __init__(self, places: Places) -> None:
        self.places, self.name, self.warning = places, machine_id(places), ""
        self.seen = ""  # the first operator (npub) whom a person has seen last, if another is now
        self.counted = 0  # the last count of a write of ours that anybody may have seen
        # the count that another has under our name, and when it had: see vault/doubts
        self.overtaken, self.since = 0, 0
        # the highest count under which this machine has given a merge to git
        path = places.own("offered.json")
        self.offered: int = (
            decode_file("offered", read_file(path), path)["count"] if os.path.lexists(path) else 0
        )

    def rename(self) -> None:
        """Take another name: it claims to know no more than it does."""
        self.counted = self.overtaken = self.since = 0
        os.unlink(self.places.own("machine.json"))
        self.name = machine_id(self.places)

    def keep_up(self, draft: Vault) -> None:
        """Let a draft's count be no lower than one that anybody may have seen."""
        draft.generation[self.name] = max(draft.generation.get(self.name, 0), self.counted)

    def count(self, draft: Vault) -> None:
        """Make a draft this machine's next generation."""
        self.counted = max(draft.generation.get(self.name, 0), self.counted) + 1
        draft.generation[self.name] = self.counted
        draft.generation = dict(sorted(draft.generation.items()))

    def count_offer(self, merged: Vault) -> None:
        """Count a merge that git is to put in place, under a name of its own, `<machine>-git`.

        Git merges old commits too, as in a rebase, and what comes of them must not claim to know
        our later writes.
        """
        name = f"{self.name}-git"
        self.offered = max(merged.generation.get(name, 0), self.offered) + 1
        path = self.places.own("offered.json")
        write_file(path, encode_file("offered", {"count": self.offered}))
        merged.generation = dict(sorted({**merged.generation, name: self.offered}.items()))

    def compare(self, pin: dict[str, Any], vault: Vault, digest: str) -> str | None:
        """Why a vault on the disk cannot be what follows the pinned one; None if it can."""
        pinned, found, me = pin["generation"], vault.generation, self.name
        if self.is_followed(pin, vault):
            return None
        if pin.get("agent", to_npub(vault.agent)) != to_npub(vault.agent):
            return "avault.enc is under another agent's key than this machine has seen"
        if found == pinned:
            other = "avault.enc is not what this machine has seen, though of the same generation"
            return None if pin["hash"] == digest else other
        if not vault.is_after(pinned):
            if any(count > pinned.get(machine, 0) for machine, count in found.items()):
                return "avault.enc is another machine's, without the last writes of this one"
            return "avault.enc is older than what this machine has seen"
        if found.get(me, 0) > pinned.get(me, 0) and pin["hash"] not in vault.sources:
            return "another machine writes under this one's name: is one a clone of the other?"
        return None

    def is_followed(self, pin: dict[str, Any], vault: Vault) -> bool:
        """Whether a pin is of a key before this vault's agent: it was rotated, on another machine.

        Or of another key, while `recover` goes over to the one that the operator has named.
        """
        before = pin.get("agent")
        if before in (None, to_npub(vault.agent)):
            return False
        return f"agent/{before}" in vault.facts or os.path.lexists(self.places.own(SET_ASIDE))

    def pin(self, vault: Vault, digest: str) -> None:
        """Remember the highest generation seen; nothing older is accepted again.

        What cannot be pinned is served all the same: the vault itself is written.
        """
        overtaken = {self.name: self.overtaken} if self.overtaken else {}
        content = encode_pin(vault, digest, self.seen, overtaken, self.since)
        try:
            write_file(self.places.own("pin.json"), content)
            self.warning = ""
        except AvaultError as error:
            self.warning = f"an older copy of the vault would not be noticed: {error.message}"


def encode_pin(
    vault: Vault,
    digest: str,
    seen: str = "",
    overtaken: dict[str, int] | None = None,
    since: int = 0,
) -> bytes:
    """pin.json for a vault whose avault.enc has this SHA-256 (hex).

    `seen` is the first operator (an npub) whom a person has seen last, where another is now;
    `overtaken` what another has written under this machine's name, and `since` when.
    """
    names = {"agent": to_npub(vault.agent), "operator": seen or to_npub(vault.operator)}
    generation = {**vault.generation, **(overtaken or {})}
    told = {**names, "generation": generation, "hash": digest}
    return encode_file("pin", {**told, "since": since} if overtaken else told)


def read_pin(places: Places) -> dict[str, Any] | None:
    """The highest generation that this machine has seen, and its hash; None at first.

    Raises Tampered.
    """
    path = places.own("pin.json")
    try:
        pin = decode_file("pin", read_file(path), path)
    except NotFound:  # and nothing else: a disk that fails is not a machine that has seen nothing
        return None
    if any(type(count) is not int for count in pin["generation"].values()):
        raise Tampered(f"{path} is damaged")
    return pin


def machine_id(places: Places) -> str:
    """This machine's random name in generations, made when it is first asked for.

    A machine made from the image of another gets a name of its own, if
    /etc/machine-id tells them apart (machine-id(5)).
    """
    path, host = places.own("machine.json"), ""
    if os.path.exists("/etc/machine-id"):
        host = sha256(read_file("/etc/machine-id")).hex()
    content = decode_file("machine", read_file(path), path) if os.path.lexists(path) else {}
    if content.get("host") != host:
        content = {"id": secrets.token_hex(8), "host": host}
        write_file(path, encode_file("machine", content))
    return str(content["id"])
