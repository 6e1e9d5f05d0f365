"""The seam of custody: what a custodian is, what its helper is told, and what may come of it.

A custodian keeps an unlock key, which opens one sealed copy of the agent's key and nothing else. It
never has the agent's key, nor a secret. What it does, it does in a process of its own, the helper
(`avault.keys.helper`), which ends with its answer.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Tampered, Unavailable, Usage, printable
from avault.protocol import decode_frame

if TYPE_CHECKING:
    import socket
    from typing import Any, ClassVar, Protocol

    from avault.custody.prompt import Prompt
    from avault.keys.nostr import KeyText

    class Custodian(Protocol):
        """One kind of custodian. Each method raises NotFound, Denied, Unavailable or AvaultError.

        No text that it raises holds a secret. A refusal by a person, a wrong PIN or passphrase, and
        a policy's no are Denied, and never tried again.
        """

        # whether somebody has to be there when it opens the vault
        needs_person: ClassVar[bool]
        # what `custody add` may be told: what it is, and its default; None where it has to be told
        SETTINGS: ClassVar[dict[str, tuple[str, str | None]]]

        def __init__(self, errand: Errand) -> None: ...

        def settle(self) -> dict[str, str]:
            """The settings as they are to be kept: complete, paths absolute; raises Usage."""

        def probe(self) -> str:
            """Whether it could open the vault now, in a few words; asks nobody."""

        def set(self, secret: KeyText) -> str | None:
            """Keep the secret; give what is to lie in the vault's own file, if anything is."""

        def get(self) -> KeyText:
            """The secret."""

        def delete(self) -> None:
            """Forget the secret, where the custodian keeps it itself."""


SLACK = 5.0  # seconds by which a helper may be later than its own limit
OUTCOMES: dict[str, type[AvaultError]] = {
    "not_found": NotFound,
    "denied": Denied,
    "unavailable": Unavailable,
    "usage": Usage,
    "tampered": Tampered,
}


class KnownAs:
    """What programs, people and phones call the secret, which lies with others."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.account, self.label = str(request["account"]), str(request["label"])
        self.title = str(request.get("title") or "a vault")  # the vault's name


class Errand:
    """What a custodian's helper is sent for.

    `name` is the custodian's; `settings` are public; `kept` is what `set` gave, if anything.
    `bound` says whose secret it is, as additional data of what is encrypted; `names` name it for
    others. `directory` is where the one stood who typed it, `limit` the seconds that there are,
    `prompt` the person, if one is there. One that is a part of a `whole` errand keeps what is not
    made anew after an unlock; one that `agrees` is for a change of the vault.
    """

    def __init__(
        self, request: dict[str, Any], prompt: Prompt, whole: Errand | None = None
    ) -> None:
        self.name, self.bound = str(request["name"]), str(request["bound"])
        self.settings: dict[str, str] = dict(request["settings"])
        self.kept: str | None = request.get("kept")
        self.names, self.directory = KnownAs(request), str(request.get("directory") or "/")
        self.limit, self.prompt, self.whole = float(request["limit"]), prompt, whole
        self.is_waited_for, self.agrees = True, request.get("agrees") is True
        self.is_old = False  # what comes of it was given long ago, to an earlier question

    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return (self.whole or self).is_waited_for

    def path(self, text: str) -> str:
        """A path that a person typed, as an absolute one."""
        return os.path.normpath(os.path.join(self.directory, os.path.expanduser(text)))


def bind(vault: str, agent: str, name: str) -> str:
    """What a wrapped unlock key is bound to: the vault's identity, its agent, the custodian."""
    return f"avault:custody:v1:{vault}:{agent}:{name}"


def is_answer(data: bytes | bytearray) -> bool:
    """Whether that is an answer already, and not the beginning of one."""
    try:
        return "outcome" in decode_frame(data)
    except AvaultError:
        return False


def read_answer(data: bytes) -> dict[str, Any]:
    """A helper's answer; one that ended without any is an error."""
    try:
        return decode_frame(data)
    except AvaultError:
        return {"outcome": "error", "detail": "its helper ended without an answer"}


def render_answer(
    outcome: str, said: object, hint: str | None = None, is_old: bool = False
) -> bytes:
    """A helper's answer: `value` where it is `ok`, else `detail`, and perhaps a hint.

    It is `old` where it was given long ago, to an earlier question.
    """
    said_as = "value" if outcome == "ok" else "detail"
    more = {**({"hint": hint} if hint else {}), **({"old": True} if is_old else {})}
    return json.dumps({"outcome": outcome, said_as: said, **more}).encode()


async def read_whole(end: socket.socket, limit: float) -> bytes:
    """What a helper answers through a socket; of one that is stopped, an error.

    It is whole before the socket ends, whose other end somebody else may hold.
    """
    loop, read = asyncio.get_running_loop(), bytearray()
    end.setblocking(False)
    try:
        async with asyncio.timeout(limit + SLACK):
            while len(read) < 1 << 20 and (piece := await loop.sock_recv(end, 1 << 16)):
                read += piece
                if is_answer(read):
                    break
    except TimeoutError:
        return render_answer("error", "its helper did not end in time")
    return bytes(read)


def said_hint(answer: dict[str, Any]) -> str | None:
    """The hint of a helper's answer, if it has one."""
    return printable(answer["hint"]) if answer.get("hint") else None


def raise_outcome(answer: dict[str, Any], message: str = "{}", hint: str | None = None) -> Any:
    """The value of a helper's answer; raises the error that its outcome is."""
    outcome = str(answer.get("outcome"))
    if outcome == "ok":
        return answer.get("value")
    detail = printable(answer.get("detail") or outcome, 1000)  # a quorum names all its members
    raise OUTCOMES.get(outcome, AvaultError)(message.format(detail), hint or said_hint(answer))
