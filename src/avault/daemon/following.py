"""This machine goes over to the agent's key that another machine has rotated to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Locked
from avault.keys.nostr import parse_npub, to_npub
from avault.places import Places
from avault.signer.pairing import UNPROVEN, Pairing
from avault.signer.replica import read_farewell
from avault.vault.files import find_free
from avault.vault.machine import SET_ASIDE, read_pin
from avault.vault.presence import as_operator, read_sealed
from avault.vault.rotation import set_logs_aside
from avault.vault.statements import STATEMENTS, find_successor, succeed_known

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Following:
    """Sets aside what this machine has of the old key, for the length of a `with`.

    Its pairing asks for the new one. Unless the vault `is_open` at the end, all is as it was.
    `agent` (hex) is where relays lead it; "" where nsec.enc does.
    """

    def __init__(self, places: Places, is_open: Callable[[], bool], agent: str = "") -> None:
        self.agent = agent
        self.own, self.aside = places.own("unlock.json"), places.own(SET_ASIDE)
        self.places, self.is_open = places, is_open

    def __enter__(self) -> None:
        if not os.path.lexists(self.own):
            return
        if self.agent:
            os.rename(self.own, self.aside)
            return
        known = read_sealed("unlock", self.own)
        if not succeed_known(self.places, known):
            return
        content = read_sealed("nsec", self.places.file("nsec.enc"))
        pairing = Pairing.load(self.places)
        if pairing and as_operator(content, to_npub(pairing.operator)):
            pairing.of_agent(parse_npub(content["agent"])).save(self.places, UNPROVEN)
        os.rename(self.own, self.aside)

    def __exit__(self, *_: object) -> None:
        settle_following(self.places, self.is_open())


def know_before(places: Places, farewells: object, agent: str) -> dict[str, Any] | None:
    """unlock.json's content, if its agent's farewells (events) lead to another agent (hex).

    One after another, each signed by the agent whose place the next one takes.
    """
    if not isinstance(farewells, list) or not os.path.lexists(places.own("unlock.json")):
        return None
    known = read_sealed("unlock", places.own("unlock.json"))
    at = parse_npub(known["agent"])
    for event in farewells[:STATEMENTS]:
        at = read_farewell(event, at) or ""
    return known if farewells and at == agent else None


def settle_following(places: Places, has_opened: bool) -> None:
    """Let what was set aside go, if the key after it has opened the vault; else put it back."""
    aside = places.own(SET_ASIDE)
    if os.path.lexists(aside) and has_opened:
        let_go(places, aside)
    elif os.path.lexists(aside):
        os.rename(aside, places.own("unlock.json"))


def let_go(places: Places, aside: str) -> None:
    """Remove what the key after it has made needless.

    Where two machines had rotated at once, that key does not lead to the other one's: what lies
    here under that can still be opened by hand.
    """
    known = read_sealed("unlock", aside)
    if isinstance(find_successor(places, known["vault"], known["agent"]), Locked):
        os.unlink(aside)
    else:
        os.rename(aside, find_free(places.own("unlock-other"), ".json"))


def settle_cut_off(places: Places) -> None:
    """`settle_following`, where the keyholder was killed meanwhile.

    The vault was opened where pin.json and unlock.json are both of one agent.
    """
    if not os.path.lexists(places.own(SET_ASIDE)):
        return
    try:
        pin = read_pin(places) or {}
        has_opened = pin.get("agent") == read_sealed("unlock", places.own("unlock.json"))["agent"]
    except AvaultError:
        has_opened = False
    settle_following(places, has_opened)


def leave_logs(places: Places) -> None:
    """Move the access log of the key that is set aside: the one after it has opened the vault."""
    if os.path.lexists(aside := places.own(SET_ASIDE)):
        set_logs_aside(places, parse_npub(read_sealed("unlock", aside)["agent"]))
