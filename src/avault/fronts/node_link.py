"""How a front end reaches a chain: JSON-RPC over HTTP, to one node. What it answers is a claim."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.parse
from typing import TYPE_CHECKING

from avault.errors import Unavailable, Usage, printable

if TYPE_CHECKING:
    from typing import Any


NODE_TIME = 30.0  # seconds for an answer
LONGEST_ANSWER = 16 << 20  # bytes


class NodeFault(Exception):
    """What a node says went wrong: its error, as JSON-RPC has it."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def to_dict(self) -> dict[str, Any]:
        """As it is handed on."""
        shown = {"code": self.code, "message": self.message}
        return shown if self.data is None else {**shown, "data": self.data}


class NodeLink:
    """A node, by its URL; raises Usage for what is none."""

    def __init__(self, url: str) -> None:
        try:
            self.parts = urllib.parse.urlsplit(url)
            self.port = self.parts.port
        except ValueError:
            raise Usage("that is no URL of a node", "as in: --rpc https://…") from None
        if self.parts.scheme not in ("http", "https") or not self.parts.hostname:
            raise Usage("that is no URL of a node", "as in: --rpc https://…")

    async def ask(self, method: str, *params: object) -> Any:
        """The result of a request; raises NodeFault, Unavailable."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = await asyncio.to_thread(self.post, json.dumps(body).encode())
        error = answer.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            text = printable(str(error.get("message")), 500)
            raise NodeFault(code if type(code) is int else -32000, text, error.get("data"))
        return answer.get("result")

    def post(self, body: bytes) -> dict[str, Any]:
        """The JSON object that the node answers; raises Unavailable. No redirection is followed."""
        is_tls = self.parts.scheme == "https"
        make = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
        connection = make(str(self.parts.hostname), self.port, timeout=NODE_TIME)
        path = (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read(LONGEST_ANSWER + 1)
            found = json.loads(data) if len(data) <= LONGEST_ANSWER else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            found = None
        finally:
            connection.close()
        if not isinstance(found, dict):
            raise Unavailable("the node does not answer", "is the URL of --rpc right?")
        return found
