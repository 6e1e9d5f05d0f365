"""Custodians in their order, and those that are given to all machines of a vault."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from avault.custody.shared import (
    Shared,
    check_custodian_of,
    describe_given,
    digest_shared,
    is_shared,
    name_given,
    refuse_retired,
)
from avault.daemon.errands import Reach, run_errand
from avault.daemon.keeper import Warden
from avault.errors import AvaultError, Usage
from avault.vault.names import PHONE
from avault.vault.presence import read_unlock

if TYPE_CHECKING:
    from typing import Any


def write_order(warden: Warden, name: str, asks: bool) -> None:
    """Put a new custodian before the phone if it asks nobody, else behind it.

    A vault that was made without a phone has none in its order.
    """
    custodians = warden.custody.custodians
    is_phoneless = warden.condition.report.get("consent") == "custodian"
    order = [
        each for each in custodians.order() if each != name and not (is_phoneless and each == PHONE)
    ]
    place = order.index(PHONE) if PHONE in order and not asks else len(order)
    custodians.write([*order[:place], name, *order[place:]])


def name_account(content: dict[str, Any], for_all: bool) -> str:
    """Under which name a new key is kept, beside others: one that each machine knows, if shared."""
    account = f"{content['custodian']}-{secrets.token_hex(4)}"
    return f"{content['vault']}:{account}" if for_all else account


def refuse_anothers(warden: Warden, name: str, is_replacing: bool) -> None:
    """Raise Usage where another machine has given a custodian of that name to all."""
    is_mine = name in warden.custody.order()
    if name in Shared(warden.places).names() and not is_mine and not is_replacing:
        raise Usage(
            f"there is a shared custodian {name} already, from another machine",
            f"use it here: avault custody take {name}; or choose another name: --name NAME",
        )


def give_to_all(warden: Warden, content: dict[str, Any]) -> None:
    """Put the file of a custodian, which the agent has signed, into the vault directory."""
    Shared(warden.places).save(content)
    warden.wrote()


def find_stated(warden: Warden, name: str) -> list[dict[str, Any]]:
    """What the vault's agent has signed under a name, and nobody has taken away yet.

    What this machine uses, and what lies in the vault directory: that may be another's.
    """
    custody = warden.custody
    found: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(AvaultError):
        content = custody.find_shared(name, None)
        found[digest_shared(content)] = content
    with contextlib.suppress(AvaultError):
        content = custody.custodians.load(name)
        check_custodian_of(content, read_unlock(warden.places)[0]["agent"])
        refuse_retired(content, custody.retired())
        found[digest_shared(content)] = content
    return [*found.values()]


def find_given(warden: Warden, name: str) -> dict[str, dict[str, Any]]:
    """What the open vault knows to be in use for all under a name, by digest, here or not."""
    given, retired = warden.custody.given(), warden.custody.retired()
    return {each: given[each] for each in name_given(given, name) if each not in retired}


async def retire(
    warden: Warden,
    about: dict[str, Any],
    digests: list[str],
    ticket: str,
    caller: dict[str, Any],
    given: str | None = None,
) -> None:
    """Have the vault know that shared custodians are used no more, if the operator agrees.

    `about` is what they are; or what took their place, whose digest is `given`.
    """
    wish = {"do": "retire", **describe_given(about), "digests": digests, "given": given}
    await warden.custody.change(ticket, {**wish, "caller": caller})


async def forget_key(warden: Warden, content: dict[str, Any]) -> None:
    """Have a custodian forget a key that is needed no more; not what other machines use."""
    if not is_shared(content):
        await run_errand(warden.places, "delete", content, Reach({}))
