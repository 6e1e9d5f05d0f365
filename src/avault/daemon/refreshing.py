"""Has an access token renewed that goes by the proxy, before it is used; one at a time.

A process of its own asks the server. What that answers is sealed to the agent on the disk, before
anybody hears of it: the token that was used for it is worth nothing from then on. From there it is
written into the vault, and only then used; also after a crash, by who comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import time
from typing import TYPE_CHECKING

from avault.daemon.gate import check
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied
from avault.keys.keyholder import Keyholder
from avault.keys.nostr import public_hex
from avault.places import sha256
from avault.vault.proxy_rules import canonical_host, find_proxy_fault
from avault.vault.rule_members import RENEWAL
from avault.vault.sealing import open_value
from avault.vault.tokens import (
    ACCESS_TOKEN,
    CLIENT_SECRET,
    EXPIRES_AT,
    REFRESH_TOKEN,
    Tokens,
    is_renewable,
    print_token,
    read_own_key,
)

if TYPE_CHECKING:
    from avault.protocol import Message
    from avault.vault.records import Vault

RENEWED_PAUSE = 60.0  # seconds in which one is not renewed again, unless it is over by then
LONGEST_ANSWER_KEPT = 1 << 20  # bytes of a sealed answer


class Outdated(AvaultError):
    """What a server has answered is for a token that the vault has no more."""


async def renew_token(keyholder: Keyholder, session: Session, name: str, is_refused: bool) -> bool:
    """Have the token GROUP/KEY renewed if it is due; whether the vault may have changed by now.

    `is_refused` says that a server did not take it. What is sealed, or double, renews nothing.
    Raises what keeps it from that, unless the token may be good for a while yet.
    """
    if not is_renewable(keyholder.open_store().vault, name):
        return False
    group = name.partition("/")[0]
    async with take_turn(keyholder, group), take_turn(keyholder, name_token(keyholder, group)):
        await take_back(keyholder, group)
        try:
            tokens = Tokens(keyholder.open_store().vault, group)
        except Denied:
            return True
        last, now = keyholder.brokers.renewed.get(group), time.time()
        is_late = last is None or time.monotonic() - last >= RENEWED_PAUSE or tokens.is_over(now)
        if not is_late or not (is_refused or tokens.is_due(now)):
            return True  # perhaps who was before us has done it
        try:
            kept = await ask_server(keyholder, session, tokens)
            keyholder.brokers.renewed[group] = time.monotonic()
            await take_back(keyholder, group, kept)
        except AvaultError:
            if tokens.is_over(time.time()):
                raise
        return True


def take_turn(keyholder: Keyholder, what: str) -> asyncio.Lock:
    """The turn of who has something renewed; it is kept for as long as somebody has it, or waits.

    A group's, and then its token's: a group that is renamed while its server is asked has another
    turn by then, and the server takes a token that comes twice for stolen.
    """
    turns = keyholder.brokers.turns
    if (turn := turns.get(what)) is None:
        turn = turns[what] = asyncio.Lock()
    return turn


def name_token(keyholder: Keyholder, group: str) -> str:
    """What renews a group's token, by a name that is no group's; raises Locked."""
    try:
        return (
            f"token {print_token(read_own_key(keyholder.open_store().vault, group, REFRESH_TOKEN))}"
        )
    except Denied:  # it renews nothing
        return f"token of {group}"


async def ask_server(keyholder: Keyholder, session: Session, tokens: Tokens) -> str:
    """Have the server asked, by a process of its own that has nothing else; where its answer lies.

    Raises AvaultError.
    """
    host, port, path = tokens.where()
    store = keyholder.open_store()
    refuse_elsewhere(keyholder, tokens, canonical_host(host), port, path)
    if moved := find_moved(keyholder, tokens):
        return moved
    asked = {"host": host, "port": port, "method": "POST", "path": path}
    noted: Message = {"op": "proxy", "groups": [tokens.group], "only": [REFRESH_TOKEN], **asked}
    keyholder.release(session, noted)
    job = {
        **asked,
        "fields": tokens.fields(),
        "json": tokens.is_json,
        "was": print_token(tokens.refresh),
        "over": print_token(tokens.access),
        "to": public_hex(store.keys),
        "kept": (kept := find_answer(keyholder, tokens.group)),
    }
    number = ""
    try:
        number, _, _ = await keyholder.brokers.start({"refresh": job}, use_nothing, note_nothing)
    finally:
        keyholder.brokers.end(number)
    return kept


def refuse_elsewhere(keyholder: Keyholder, tokens: Tokens, host: str, port: int, path: str) -> None:
    """Raise Denied where a guard does not have what renews a token go to that server.

    Who may set the server's address could have it sent anywhere; who may move it, have what it
    gives put where no guard is. What nobody guards, anybody gets.
    """
    vault = keyholder.open_store().vault
    guards = keyholder.gate.look(vault)
    for key in (REFRESH_TOKEN, *([CLIENT_SECRET] if tokens.secret else [])):
        name = f"{tokens.group}/{key}"
        rules = guards.rules_of(guards.of(name))
        if rules.ways() is None and rules.ask is None and rules.times is None:
            check(guards, name, "run", time.time())
            continue
        if len(guards.names_of(name)) > 1:  # what it gives would come under another name, unguarded
            raise Denied(
                f"{name} has, or had, another name: what is guarded renews a token under its own",
                f"set it anew, and: avault unguard {name}",
            )
        if rules.times is not None:
            raise Denied(f"{name} has a number of uses, so it renews nothing")
        check(guards, name, "proxy", time.time())
        said = find_proxy_fault(
            host,
            port,
            "POST",
            path,
            rules.named["hosts"],
            rules.named["methods"],
            rules.named["paths"],
            [RENEWAL],
        )
        if said:
            hint = f"if that is its server: avault guard {name} --host {host} --in {RENEWAL}"
            raise Denied(f"{name} may not {said}", hint)


def find_answer(keyholder: Keyholder, group: str) -> str:
    """Where a server's answer lies until it is in the vault."""
    return keyholder.places.own(f"token-{sha256(group.encode()).hex()[:16]}.sealed")


def find_moved(keyholder: Keyholder, tokens: Tokens) -> str | None:
    """Where an answer for a token lies that its group got under another name; None for none."""
    for path in sorted(glob.glob(f"{glob.escape(keyholder.places.own('token-'))}*.sealed")):
        try:
            with open(path, encoding="ascii") as file:
                sealed = file.read(LONGEST_ANSWER_KEPT)
            found = json.loads(open_value(keyholder.open_store().keys, sealed))
            if found["was"] == print_token(tokens.refresh):
                return path
        except (AvaultError, OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


async def take_back(keyholder: Keyholder, group: str, path: str = "") -> None:
    """Write into the vault what a server has answered, if it has.

    It counts only for the token that it was asked with, which nobody else knows: so nobody else can
    have written it, and an older one is none. It stays on the disk until it is in the vault, or is
    surely for no token of the vault's; while that one is sealed, or double, nobody can say.
    """
    path, store = path or find_answer(keyholder, group), keyholder.open_store()
    try:
        with open(path, encoding="ascii") as file:
            sealed = file.read(LONGEST_ANSWER_KEPT)
    except (OSError, ValueError):
        return
    try:
        answer = json.loads(open_value(store.keys, sealed))
        was, over, expires = answer["was"], answer.get("over"), int(answer["expires"])
        values = {ACCESS_TOKEN: str(answer["access"]), REFRESH_TOKEN: str(answer["refresh"] or "")}
    except (AvaultError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        with contextlib.suppress(OSError):  # not ours; or for a key that the agent had before
            os.replace(path, f"{path}.unread")
        return
    values |= {EXPIRES_AT: str(expires)} if expires else {}
    machine = store.machine

    def put(vault: Vault) -> None:
        if not is_answer_for(vault, group, was, over, values[REFRESH_TOKEN]):
            raise Outdated(f"{group} has other tokens by now")
        for key, value in values.items():
            if value:
                vault.put(group, key, value, int(time.time()), machine)
        if not expires and EXPIRES_AT in vault.groups[group].keys:
            vault.remove(group, EXPIRES_AT)  # it was the old one's: who has it would always renew

    try:
        if not read_own_key(store.vault, group, REFRESH_TOKEN):
            return  # perhaps it comes back
    except Denied:
        return
    with contextlib.suppress(Outdated):
        await keyholder.change(put)  # if it raises another error, the file stays
    with contextlib.suppress(OSError):
        os.unlink(path)


def is_answer_for(vault: Vault, group: str, was: object, over: object, refresh: str) -> bool:
    """Whether an answer is for the tokens that the vault has; raises Denied if nobody can say.

    Of a server that gives no other refresh token, each answer is for the same one: there it is for
    the access token as well, in whose place the new one comes.
    """
    now = read_own_key(vault, group, REFRESH_TOKEN)
    if was != print_token(now):
        return False
    return refresh not in ("", now) or over == print_token(read_own_key(vault, group, ACCESS_TOKEN))


async def use_nothing(message: Message) -> Message:
    """A process that renews a token is given nothing besides."""
    return Denied("not here").to_dict()


def note_nothing(message: Message) -> None:
    """Nor has it anything to say."""
