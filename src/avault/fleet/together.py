"""One approval for many machines: a key of the fleet, and from it one for each machine.

The fleet's key is in an envelope that the operator's phone opens. It is in the memory of one
process, which is hardened and ends with the command; each machine gets its own on ssh's stdin. From
it nobody comes to the fleet's, nor to another machine's (HMAC-SHA256).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from typing import TYPE_CHECKING

from avault.errors import Tampered, TimedOut
from avault.fleet.desk_file import PAIR_ANEW, DeskFile
from avault.fleet.hosts import Host
from avault.fleet.looking import read_state
from avault.fleet.outcomes import (
    Outcome,
    find_error,
    find_objects,
    judge_answer,
    judge_asking,
    judge_error,
    strange,
)
from avault.fleet.reaching import Crew, Ended, command_line
from avault.keys.nostr import make_keys, public_hex, read_keys, sign_text, to_npub
from avault.keys.seal import make_envelope, request_code
from avault.signer.remote import RemoteSigner

if TYPE_CHECKING:
    from typing import Any, Self

    from avault.keys.nostr import Keys, KeyText


FLEET_CONTEXT = b"avault fleet\0"


def derive_key(fleet: KeyText, salt: str, agent: str) -> Keys:
    """The key for one host, by its salt and its agent's public key, from a fleet's key (all hex).

    An agent is what a host says it is; the salt is the desk's: no host is given another's key.
    """
    message = FLEET_CONTEXT + bytes.fromhex(salt) + bytes.fromhex(agent)
    return read_keys(hmac.digest(bytes.fromhex(fleet), message, "sha256").hex())


def make_fleet_key(
    desk: DeskFile, group: str, agents: dict[str, str]
) -> tuple[KeyText, dict[str, Any], str]:
    """A new key for hosts, by label their agents (hex): itself (hex), what is kept, the code."""
    fleet, peer = secrets.token_hex(32), make_keys()
    count = f"{len(agents)} machine{'' if len(agents) == 1 else 's'}"
    code = request_code(public_hex(peer))
    title = f"unlock {count} of {group} from {desk.label}, code {code}"
    said = f"avault: {title}. ONE approval opens all of them. Approve only if you expect it."
    envelope = make_envelope(peer, desk.operator, title, said, fleet)
    hosts = {}
    for label, agent in agents.items():
        salt = secrets.token_hex(32)
        key = public_hex(derive_key(fleet, salt, agent))
        hosts[label] = {"agent": agent, "salt": salt, "key": key}
    return fleet, {"peer": public_hex(peer), "envelope": envelope, "hosts": hosts}, code


def accept_fleet_key(kept: dict[str, Any], result: str) -> str:
    """The fleet's key (hex) out of the phone's answer; raises Tampered where it is another."""
    try:
        fleet = str(json.loads(result)["avault"])
        if all(
            public_hex(derive_key(fleet, each["salt"], each["agent"])) == each["key"]
            for each in kept["hosts"].values()
        ):
            return fleet
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise Tampered("the signer answered with something else")


class DeskSigner:
    """The operator's signer, connected for the length of an `async with`; `limit` in seconds."""

    def __init__(self, desk: DeskFile, limit: float) -> None:
        self.desk, self.limit = desk, limit
        self.remote = RemoteSigner(desk.keys, desk.relays, desk.signer, lambda: None, PAIR_ANEW)

    async def __aenter__(self) -> Self:
        await self.remote.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.remote.close()

    async def ask(self, peer: str, envelope: str, accept: Any) -> Any:
        """What the phone's answer gives; raises Denied, TimedOut."""
        try:
            async with asyncio.timeout(self.limit):
                return await self.remote.request("nip44_decrypt", [peer, envelope], accept)
        except TimeoutError:
            raise TimedOut("nobody approved in time", "is the signer app open?") from None

    async def open_key(self, kept: dict[str, Any]) -> str:
        """The fleet's key (hex), which the operator gives by one approval."""
        accept = lambda result: accept_fleet_key(kept, result)  # noqa: E731
        return str(await self.ask(kept["peer"], kept["envelope"], accept))


async def look_at_host(crew: Crew, host: Host, desk: str) -> Outcome:
    """The state of a host, and in `fields` the public `key` (hex) of the desk that opens it."""
    show = command_line(host, "desk", "show", desk)
    ended = await crew.reach(host, f"{show}; {command_line(host, 'status', '--json')}")
    state = read_state(ended)
    key = read_shown(ended, desk).get("key")
    return Outcome(state.word, state.code, state.note, {**state.fields, "key": key})


def read_shown(ended: Ended, desk: str) -> dict[str, Any]:
    """What a host's `desk show` has said of a desk; nothing where it has not."""
    return next((each for each in find_objects(ended.out) if each.get("desk") == desk), {})


def sign_join(keys: Keys, agent: str, name: str, desk: DeskFile) -> str:
    """That this desk is to open a host by a key: what the host's phone is asked, signed by it."""
    told = {"agent": agent, "desk": name, "label": desk.label, "operator": to_npub(desk.operator)}
    return sign_text(keys, json.dumps(told))


async def let_in(
    crew: Crew, host: Host, name: str, desk: DeskFile, keys: Keys, agent: str, hear: Any
) -> Outcome:
    """Have a host let the desk in, if the phone agrees: it is told by its key, and not given it."""
    line = command_line(host, "desk", "join", name, "--json")
    data = f"{sign_join(keys, agent, name, desk)}\n".encode()
    ended = await crew.reach(host, line, data, None, hear, is_once=True)
    if failed := judge_answer(ended, has_written=True):
        error = failed.fields.get("error")
        return judge_asking(error) if error else failed
    keys_told = [each.get("key") for each in find_objects(ended.out)]
    return Outcome("enrolled") if public_hex(keys) in keys_told else strange(ended)


async def open_host(crew: Crew, host: Host, desk: str, keys: Keys) -> Outcome:
    """Open a host's vault with its own key, on stdin; its state afterwards, or why it is not."""
    line = command_line(host, "desk", "open", desk, "--json")
    line = f"{line}; {command_line(host, 'status', '--json')}"
    ended = await crew.reach(host, line, f"{keys.secret_key().to_hex()}\n".encode())
    state = read_state(ended, has_written=True)
    error = find_error(find_objects(ended.out))
    return judge_error(error) if error and state.word != "unlocked" else state


def sign_next(keys: Keys, agent: str, desk: str, following: dict[str, Any]) -> str:
    """That a host's key from now on is another one, of another salt, signed by its present one."""
    told = {"agent": agent, "desk": desk, "next": following["key"], "salt": following["salt"]}
    return sign_text(keys, json.dumps(told))


async def turn_host(crew: Crew, host: Host, desk: str, statement: str, following: str) -> Outcome:
    """Have a host seal anew for its next key (hex)."""
    line = command_line(host, "desk", "turn", desk, "--json")
    ended = await crew.reach(host, line, f"{statement}\n".encode())
    if failed := judge_answer(ended, has_written=True):
        return failed
    is_turned = any(each.get("key") == following for each in find_objects(ended.out))
    return Outcome("turned") if is_turned else strange(ended)


async def leave_host(crew: Crew, host: Host, desk: str) -> Outcome:
    """Have a host not be opened by a desk any more: it has left where it says that no key does.

    Without that word, as where there is no vault in this place now, the desk is to keep its key.
    """
    line = command_line(host, "custody", "remove", desk, "--yes", "--json")
    ended = await crew.reach(host, f"{line}; {command_line(host, 'desk', 'show', desk)}")
    shown = read_shown(ended, desk)
    if shown.get("ok") is True and "key" in shown and shown["key"] is None:
        return Outcome("left")
    return judge_answer(ended, has_written=True) or strange(ended)
