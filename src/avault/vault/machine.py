"""This machine in the vault's generations: its name, its counts, and the highest it has seen."""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered
from avault.keys.nostr import to_npub
from avault.places import Places, sha256
from avault.vault.files import read_file, write_file
from avault.vault.own_files import decode_file, encode_file
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any


SHORT = 16  # characters of a hash that tell it from others
MOST_SERVED = 200  # states of the vault that a machine knows as served by itself
RETIRED = "retired"  # facts: "retired/DIGEST", of shared custodians that are used no more
GIVEN = "given"  # facts: "given/DIGEST", of shared custodians: what they are
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
        self.served = read_served(places, self.name)
        # the highest count under which this machine has given a merge to git
        path = places.own("offered.json")
        self.offered: int = (
            decode_file("offered", read_file(path), path)["count"] if os.path.lexists(path) else 0
        )

    def rename(self) -> None:
        """Take another name: it claims to know no more than it does."""
        self.counted = self.overtaken = self.since = 0
        self.served = []
        os.unlink(self.places.own("machine.json"))
        self.name = machine_id(self.places)

    def is_strange(self, count: int, digest: str) -> bool:
        """Whether another has served a state of the vault under this name.

        With this count of its writes, and this hash. Of states before the first that is known
        nobody can tell.
        """
        state = count, digest[:SHORT]
        return bool(self.served) and count > self.served[0][0] and state not in self.served

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
        state = vault.generation.get(self.name, 0), digest[:SHORT]
        if state not in self.served:
            self.served = [*self.served, state][-MOST_SERVED:]
        try:
            write_file(self.places.own("pin.json"), self.encode_pin(vault, digest))
            self.warning = ""
        except AvaultError as error:
            self.warning = f"an older copy of the vault would not be noticed: {error.message}"

    def encode_pin(self, vault: Vault, digest: str) -> bytes:
        """pin.json as it is to be beside a vault whose avault.enc has this SHA-256 (hex)."""
        told = describe_pin(vault, digest)
        if self.seen:
            told["operator"] = self.seen
        if retired := sorted(vault.facts_of(RETIRED)):
            told["retired"] = retired
        if given := vault.facts_of(GIVEN):
            told["given"] = dict(sorted(given.items()))
        if self.overtaken:
            told["generation"] = {**told["generation"], self.name: self.overtaken}
            told["since"] = self.since
        if self.served:
            told["served"] = {self.name: [f"{count} {digest}" for count, digest in self.served]}
        return encode_file("pin", told)


def describe_pin(vault: Vault, digest: str) -> dict[str, Any]:
    """What pin.json says of a vault whose avault.enc has this SHA-256 (hex)."""
    names = {"agent": to_npub(vault.agent), "operator": to_npub(vault.operator)}
    return {**names, "generation": vault.generation, "hash": digest}


def read_served(places: Places, name: str) -> list[tuple[int, str]]:
    """The states that a machine has served: its count of writes, and how the hash begins.

    Of a damaged pin.json whoever asks for the pin is told.
    """
    try:
        found = (read_pin(places) or {}).get("served", {}).get(name, [])
        return [(int(count), digest) for count, digest in (each.split() for each in found)]
    except (Tampered, ValueError, TypeError, AttributeError):
        return []


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


def read_retired(places: Places) -> dict[str, str]:
    """The digests of shared custodians that are used no more, as the pinned vault knew them.

    What became of each is not told. Raises Tampered.
    """
    found = (read_pin(places) or {}).get(RETIRED, [])
    return {str(digest): "" for digest in found}


def read_given(pin: dict[str, Any]) -> dict[str, str]:
    """What the pinned vault knew of shared custodians, as it states it; raises Tampered."""
    found: dict[str, str] = pin.get(GIVEN, {})
    try:
        if all(len(bytes.fromhex(each)) == 32 for each in found) and all(
            isinstance(json.loads(text), dict) for text in found.values()
        ):
            return found
    except (ValueError, TypeError, RecursionError):
        pass
    raise Tampered("pin.json is damaged", "move it away, then: avault unlock")


def keep_retired(draft: Vault, pin: dict[str, Any], machine: str) -> None:
    """State what the pin knows to be given, or used no more, where an older vault is taken.

    What became of each the pin does not say; a merge with who knows brings that back, as what is
    said here is older than any time.
    """
    for digest in pin.get(RETIRED, []):
        if f"{RETIRED}/{digest}" not in draft.facts:
            draft.state(f"{RETIRED}/{digest}", "", 0, machine)
    for digest, text in read_given(pin).items():
        if f"{GIVEN}/{digest}" not in draft.facts:
            draft.state(f"{GIVEN}/{digest}", text, 0, machine)


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
