"""A client's connection to the daemon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable
from avault.places import Places
from avault.plain import ASK_FOR_GRANT, FastConnection, explain_grant
from avault.protocol import SESSIONS, decode_frame
from avault.systemd import NoDaemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


WRITES_AT_ONCE = ("delete", "move", "restore", "guard", "key")  # without a value from the client


class Connection:
    """A client's connection to the daemon.

    `Connection(places).request("get", group="openai", key="API_KEY")` gives the
    answer as a dict. Raises Unavailable where no daemon listens, and the
    AvaultError that the daemon answers with.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        try:
            self.fast = FastConnection(places)
        except PermissionError as error:
            if places.is_grant():
                raise EndedGrant(places) from None
            raise Unavailable(
                f"the daemon at {error} is another user's, and answers nobody else",
                "as that user: avault status",
            ) from None
        except OSError:
            raise EndedGrant(places) if places.is_grant() else NoDaemon(places) from None

    def request(
        self,
        op: str,
        value: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Send a request and give its answer.

        `value` is what the second frame carries, after the daemon said that it
        is ready; or a function that is given each such word, for conversations
        with more of them. `progress` is called for what comes before the answer.
        """
        sent_value = False
        try:
            self.fast.send(json.dumps({"v": 1, "vault": self.places.id, "op": op, **fields}))
            while text := self.fast.receive():
                answer = decode_frame(text.encode())
                if answer.get("ready"):
                    sent_value = True
                    reply = value(answer) if callable(value) else value or {}
                    try:
                        self.fast.send(json.dumps(reply))
                    except OSError:
                        pass  # it has ended meanwhile; what it said before that can still be read
                elif "progress" in answer:
                    if progress:
                        progress(answer)
                elif answer.get("ok"):
                    if op == "stop":
                        self.fast.receive()  # '' when it has ended
                    return answer
                else:
                    raise AvaultError.from_dict(answer)
        except OSError:
            pass
        except KeyboardInterrupt:
            try:
                self.fast.send("{}")  # who gives up says so; who is killed cannot
            except OSError:
                pass
            raise
        if (sent_value and op not in SESSIONS) or op in WRITES_AT_ONCE:
            raise AvaultError(
                "the daemon went away; unknown whether it was written", "look with: avault list"
            )
        if self.places.is_grant():
            raise EndedGrant(self.places)
        raise Interrupted("the daemon went away before it answered", "see: avault status")

    def close(self) -> None:
        """End the connection."""
        self.fast.socket.close()


class EndedGrant(Unavailable):
    """Nobody listens where a grant was, or who does answers others."""

    def __init__(self, places: Places) -> None:
        super().__init__(explain_grant(places.socket), ASK_FOR_GRANT)


class Interrupted(Unavailable):
    """The connection ended without an answer."""


def ask_daemon(places: Places, op: str, **fields: Any) -> dict[str, Any]:
    """One request on a connection of its own.

    Tried once more if the daemon goes away before it answers.
    """
    for attempt in (1, 2):
        connection = Connection(places)
        try:
            return connection.request(op, **fields)
        except Interrupted:
            if attempt == 2 or op in SESSIONS - {"open"}:
                raise
        finally:
            connection.close()
    raise AssertionError("unreachable")


def get(group: str, key: str) -> str:
    """The value of a key of the usual vault, for programs: `avault.get("openai", "API_KEY")`.

    Raises NotFound, Locked, Unavailable, as everything here an AvaultError.
    """
    return str(ask_daemon(Places(), "get", group=group, key=key)["value"])


def env(group: str) -> dict[str, str]:
    """The keys of a group with their values.

    As in `subprocess.run(…, env=os.environ | avault.env("openai"))`.
    """
    return dict(ask_daemon(Places(), "get", group=group)["values"])


def sign(group: str, key: str, form: str, payload: bytes, **fields: Any) -> str:
    """What a key of the usual vault signs, for programs, as far as its guard lets it.

    `avault.sign("nostr", "CHILD", "nostr-event", json.dumps(event).encode())` gives the event with
    its signature; "nip44-encrypt" and its like take `peer` (hex); "sshsig" and "ssh" give a
    signature in base64. `form` and the fields are those of `sign` in references/protocol.md. Raises
    Denied, Usage, NotFound, Locked, Unavailable, as everything here an AvaultError.
    """
    import binascii

    encoded = binascii.b2a_base64(payload, newline=False).decode()
    asked = {"as": form, "group": group, "key": key, "payload": encoded, **fields}
    return str(ask_daemon(Places(), "sign", **asked)["signature"])
