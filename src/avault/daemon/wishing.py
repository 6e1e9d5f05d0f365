"""What somebody wants who has the phone asked, in the words that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.gate import Passage
from avault.daemon.restraint import WORD_CHARACTERS, describe_who, spell, which_asks
from avault.daemon.wire import Session
from avault.errors import Denied
from avault.vault.proxy_rules import HTTPS
from avault.vault.times import render_duration

if TYPE_CHECKING:
    from avault.protocol import Message


SHOWN_NAMES = 8  # secrets that are asked for together, and named on the phone
SHOWN_LENGTH = 800  # characters that their names may have
SHOWN_PATH = 200  # characters of a path that the phone shows whole
CALL_CHARACTERS = WORD_CHARACTERS | {"/"}
PURPOSES = {"get": "to get it", "export": "to export it"}


def describe_wish(
    vault: str, host: str, session: Session, request: Message, passage: Passage
) -> str:
    """Who wants what of a vault, and what for, in the phone's words; raises Denied for too much."""
    names = sorted(passage.asked)
    show_names(names)
    purpose = PURPOSES.get(str(request["op"]), "to show it")
    if request["op"] == "proxy":
        purpose = f"to send it by the proxy: {describe_call(request)}"
    if request.get("for"):
        said = "a command" if passage.way == "run" else spell(str(request["for"]))
        purpose += f" (as it says, for {said})"
    wants, seconds = "wants", count_again(session, passage)
    if seconds:  # this stands where no phone cuts
        wants += f", and again for {render_duration(seconds)},"
    shown = [
        f"{name} (which is sealed no more then)" if name in passage.thawed else name
        for name in names
    ]
    who = describe_who(session.caller or {})
    return f"{who} on {host} {wants} {', '.join(shown)} of {vault}, {purpose}"


def show_names(names: list[str]) -> str:
    """Secrets that are asked for together; raises Denied for more than a phone shows."""
    shown = ", ".join(names)
    if len(names) > SHOWN_NAMES or len(shown) > SHOWN_LENGTH:
        raise Denied(
            f"the phone is asked for at most {SHOWN_NAMES} secrets at once", "name fewer of them"
        )
    return shown


def describe_call(asked: Message) -> str:
    """A request by the proxy: its method, host and path, which others have chosen.

    And where in it the secret is to be, if that is another place than a header.
    """
    port = "" if asked["port"] == HTTPS else f":{asked['port']}"
    path = "".join(each if each in CALL_CHARACTERS else "?" for each in asked["path"])
    if len(path) > SHOWN_PATH:  # an end with /../ in it says where it goes
        path = f"{path[: SHOWN_PATH // 2]}…{path[-(SHOWN_PATH // 2) :]}"
    place = f" ({asked['place']})" if asked.get("place") else ""
    return f"{spell_host(asked['method'])} {spell_host(asked['host'])}{port}{path}{place}"


def spell_host(word: str) -> str:
    """A word of a request that a host, or a method, can be."""
    return "".join(each if each in WORD_CHARACTERS else "?" for each in word)


def count_again(session: Session, passage: Passage) -> int:
    """For how many seconds an approval is good: for one use, where a caller is not known again."""
    return min(passage.asked.values()) if which_asks(session.caller or {}, session.grant) else 0
