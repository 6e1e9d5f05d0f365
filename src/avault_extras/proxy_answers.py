"""What becomes of the answers to requests of a session: an addon of mitmproxy beside the gate.

In the answer to a request that carried a secret, the placeholder takes its place again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import avault
from avault import AvaultError

if TYPE_CHECKING:
    from mitmproxy import http

try:
    proxy_scrub = avault.load_extra("proxy_scrub", "proxy")
except AvaultError:
    raise

PLAIN_ENCODINGS = ("", "identity")


def render_refusal(error: AvaultError) -> bytes:
    """A refusal as the socket protocol has it."""
    return json.dumps(error.to_dict()).encode() + b"\n"


class Answers:
    """Lets answers through as they come; `gate` knows the requests, and ends connections."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Have an answer go on as it comes; one to a request with a secret, without that."""
        response, needles = flow.response, flow.metadata.get("needles")
        if response is None or flow.metadata.get("refused"):  # that is our own
            return
        if not flow.metadata.get("passed"):
            self.end(flow, "an answer came to a request that was not let through")
            return
        status = response.status_code
        if status < 200 and not (status == 101 and flow.metadata.get("is_socket")):
            # mitmproxy takes it for the answer, and the answer then for that to the next request
            said = f"the upstream said {status} before its answer, which does not go through"
            self.end(flow, said)
            return
        if status == 401:
            self.gate.stale.update(flow.metadata.get("names", []))
        response.headers.pop("alt-svc", None)  # it would lead around us
        if needles:
            scrub_fields(response.headers, needles)
            response.data.reason = proxy_scrub.replace_needles(response.data.reason, needles)
        is_bodiless = flow.request.method == "HEAD" or status in (204, 304)
        if status == 101:
            return
        if not needles or is_bodiless:  # by HTTP/2 something may come all the same
            response.stream = Instead(b"") if is_bodiless else True
            return
        encoding = response.headers.get("content-encoding", "").strip().lower()
        transfer = response.headers.get("transfer-encoding", "").strip().lower()
        if transfer not in ("", "chunked"):  # it may be compressed for the way (RFC 9112, 7)
            encoding = transfer
        if encoding in PLAIN_ENCODINGS:
            length = response.headers.get("content-length", "")
            response.stream = proxy_scrub.Scrubber(
                needles, int(length) if length.isdigit() else None
            )
            is_same = all(len(needle) == len(instead) for needle, instead in needles)
        else:
            said = f"the answer comes in {encoding[:20]}, where none was to be: not passed unseen"
            error = AvaultError(said, "ask the service for an answer that is not compressed")
            self.gate.note(flow, error)
            response.status_code, response.reason = 502, "Bad Gateway"
            response.headers.clear()
            response.headers["content-type"] = "application/json"
            response.stream, is_same = Instead(render_refusal(error)), False
        if not is_same:
            response.headers.pop("content-length", None)
            if flow.client_conn.alpn != b"h2":
                response.headers["transfer-encoding"] = "chunked"

    def end(self, flow: http.HTTPFlow, why: str) -> None:
        """Let nothing of an answer through, nor what comes after it."""
        self.gate.note(flow, AvaultError(why))
        self.gate.cut(flow.client_conn)
        if flow.killable:
            flow.kill()

    def response(self, flow: http.HTTPFlow) -> None:
        """What comes after an answer's body (RFC 9110, 6.5)."""
        needles = flow.metadata.get("needles")
        if needles and flow.response and flow.response.trailers:
            scrub_fields(flow.response.trailers, needles)


def scrub_fields(headers: Any, needles: list[tuple[bytes, bytes]]) -> None:
    """Take secrets out of headers."""
    text = b"\n".join(each for field in headers.fields for each in field)
    if not any(needle in text for needle, _ in needles):
        return
    headers.fields = tuple(
        (proxy_scrub.replace_needles(name, needles), proxy_scrub.replace_needles(value, needles))
        for name, value in headers.fields
    )


class Instead:
    """A body in place of one that comes, which is let go."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __call__(self, piece: bytes) -> list[bytes]:
        return [] if piece or not self.body else [self.body]
