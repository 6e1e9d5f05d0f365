"""A desk as a custodian: it opens many machines together, by one approval of its operator's phone.

The helper has no part in it: the desk's key comes over ssh, and goes to the keyholder alone (see
`avault.daemon.desks`). So this kind only says what it is, and what to type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.errors import Denied, NotFound, Unavailable, Usage, printable
from avault.keys.nostr import to_npub

if TYPE_CHECKING:
    from typing import Any, ClassVar, NoReturn

    from avault.keys.custodian import Errand
    from avault.places import Places
    from avault.vault.records import Vault


DESK = "desk"  # the kind of custodian


class DeskCustodian:
    """A machine from which the operator opens this one and others: `avault fleet enroll`."""

    needs_person: ClassVar[bool] = True
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {}

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    def settle(self) -> NoReturn:
        """A desk adds itself, to one machine alone; raises Usage."""
        raise Usage("a desk adds itself, over ssh", "at the desk: avault fleet enroll")

    def probe(self) -> str:
        """What is known without it: nothing but that."""
        return "its desk opens it, with others"

    def set(self, secret: str) -> NoReturn:
        """As `settle`."""
        self.settle()

    def get(self) -> NoReturn:
        """Nobody but the desk has its key; raises Unavailable."""
        raise Unavailable("only its desk opens it", "at the desk: avault fleet unlock --together")

    def delete(self) -> None:
        """Nothing: it goes with the vault's own file."""


def find_desk(places: Places, name: str) -> dict[str, Any]:
    """The file of a desk; raises NotFound, Usage, Tampered.

    One that is not in the order is none, whatever lies there: what opens is what is listed.
    """
    custodians = Custodians(places)
    if name not in custodians.order():
        said = f"no desk {printable(name)} opens this vault"
        raise NotFound(said, "see: avault custody list")
    content = custodians.load(name)
    if content["kind"] != DESK:
        raise Usage(f"{name} is no desk", "see: avault custody list")
    return content


def check_desk(content: dict[str, Any], vault: Vault) -> None:
    """Raise Denied for a desk on whose phone approves who is no operator of the vault now."""
    if content["settings"].get("operator") not in map(to_npub, vault.operators()):
        name = content["custodian"]
        raise Denied(
            f"who approves on the phone of the desk {name} is no operator of this vault",
            f"avault custody remove {name}",
        )
