"""The custodians of this machine's vault: in which order they are tried, and what each has.

custodians.json has the order, and when each last opened the vault; custody-NAME.json what one of
them needs for that. Neither opens anything by itself.
"""

from __future__ import annotations

import glob
import os
import time
from typing import TYPE_CHECKING

from avault.errors import NotFound, Tampered, Usage, printable
from avault.places import Places
from avault.vault.files import read_file, write_file
from avault.vault.names import PHONE, check_operator
from avault.vault.own_files import decode_file, encode_file
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any


CANDIDATE = ".new"  # in the file's name of one that is still to be tried


def check_custodian(name: str) -> str:
    """`name` if a custodian can have it; raises Usage."""
    if check_operator(name) != PHONE:
        return name
    raise Usage("that name is the phone's of this machine", "name it: --name NAME")


class Custodians:
    """The register of custodians, on the disk. Raises Tampered where that is damaged."""

    def __init__(self, places: Places) -> None:
        self.places, self.path = places, places.own("custodians.json")

    def read(self) -> dict[str, Any]:
        """The order, and when each last opened the vault; without a register, all and the phone."""
        if not os.path.lexists(self.path):
            return {"order": [*self.names(), PHONE], "opened": {}}
        found = decode_file("custodians", read_file(self.path), self.path)
        words = [*found["order"], *found["opened"], *found["opened"].values()]
        if not all(isinstance(each, str) for each in words):
            raise Tampered(f"{self.path} is damaged", "move it away, then: avault custody list")
        return found

    def names(self, candidate: bool = False) -> list[str]:
        """Those that have a file, by their names; or those that are still to be tried."""
        paths = glob.glob("custody-*.json", root_dir=self.places.state)
        found = [path[len("custody-") : -len(".json")] for path in paths]
        wanted = [name for name in found if name.endswith(CANDIDATE) == candidate]
        return sorted(name.removesuffix(CANDIDATE) for name in wanted)

    def is_there(self, name: str) -> bool:
        """Whether a custodian has a file."""
        return os.path.lexists(self.path_of(name))

    def order(self) -> list[str]:
        """Their names, in the order in which they are tried."""
        return list(self.read()["order"])

    def write(self, order: list[str]) -> None:
        """Have them tried in this order from now on."""
        opened = {name: at for name, at in self.read()["opened"].items() if name in order}
        write_file(self.path, encode_file("custodians", {"order": order, "opened": opened}))

    def admit_phone(self) -> None:
        """Have the phone tried again, at last, where it was taken out."""
        if PHONE not in (order := self.order()):
            self.write([*order, PHONE])

    def note_opened(self, name: str) -> None:
        """Remember that a custodian has just opened the vault."""
        found = self.read()
        found["opened"][name] = render_time(time.time())
        write_file(self.path, encode_file("custodians", found))

    def path_of(self, name: str, candidate: bool = False) -> str:
        """The file of a custodian, or of one that is still to be tried."""
        return self.places.own(f"custody-{check_custodian(name)}{CANDIDATE * candidate}.json")

    def load(self, name: str, candidate: bool = False) -> dict[str, Any]:
        """What a custodian needs to open the vault; raises NotFound, Tampered."""
        path = self.path_of(name, candidate)
        if not os.path.lexists(path):
            raise NotFound(
                f"there is no custodian {printable(name)}",
                "see which there are: avault custody list",
            )
        found = decode_file("custody", read_file(path), path)
        if found["custodian"] != name or not all(
            isinstance(each, str) for pair in found["settings"].items() for each in pair
        ):
            raise Tampered(f"{path} is damaged", f"avault custody remove {name}")
        return found

    def save(self, content: dict[str, Any], candidate: bool = False) -> None:
        """Write a custodian's file."""
        path = self.path_of(content["custodian"], candidate)
        write_file(path, encode_file("custody", content))

    def drop_candidate(self, name: str) -> None:
        """Take away the file of one that was to be tried."""
        if os.path.lexists(path := self.path_of(name, candidate=True)):
            os.unlink(path)

    def drop(self, name: str) -> None:
        """Take a custodian's file away, and nothing else."""
        if os.path.lexists(path := self.path_of(name)):
            os.unlink(path)

    def forget(self, name: str) -> None:
        """Take a custodian out of the order, and its file away; also that of one to be tried."""
        self.write([each for each in self.order() if each != name])
        self.drop(name)
        self.drop_candidate(name)
