"""A node of a chain, as far as a test needs one: JSON-RPC by HTTP, on the loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class RpcNode:
    """One at `url`, until `end`; what it answers is said by `answer`."""

    def __init__(self) -> None:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                data = json.dumps({"jsonrpc": "2.0", "id": 1, **node.answer(request["method"], request["params"])}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method: str, params: list[Any]) -> dict[str, Any]:
        """The member `result`, or `error`."""
        raise NotImplementedError

    def end(self) -> None:
        """It answers no more."""
        self.server.shutdown()
        self.server.server_close()
