"""A local API with TLS that is what real clients expect: a model's, a registry's of npm and of PyPI, a git server's.

Each answer has in it the credential that came with the request, so that what a client shows, keeps and logs is looked for it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import ssl
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from api_server import Api, chunk, chunked_head

PLEASED = "pleased to meet"  # how a model's answer begins; the credential follows


class Services(Api):
    """What is under which path, see `pieces`; `repositories` is where the git server's are."""

    def __init__(self, top: Path) -> None:
        self.repositories = top / "repositories"
        self.repositories.mkdir()
        self.package, self.wheel = make_package(), make_wheel()
        self.talks = False  # whether the model talks by WebSocket
        super().__init__(top)

    @property
    def url(self) -> str:
        return f"https://api.localhost:{self.port}"

    def found(self, credential: str) -> list[str]:
        """The paths that were asked for with a credential: in a header as it is, or within Basic."""
        paths = []
        for head in self.heads:
            lines = [line.decode("latin-1") for line in head.split(b"\r\n")]
            words = [word for line in lines[1:] for word in line.split(" ")[1:]]
            if credential in words or any(credential in decode_pair(word) for word in words):
                paths.append(lines[0].split()[1].partition("?")[0])
        return paths

    def pieces(self, path: str, head: bytes, body: bytes) -> Iterator[bytes]:
        credential = find_credential(head)
        said = f"{PLEASED} {credential}"
        if path.startswith("/v1/messages"):
            yield from answer_messages(said, json.loads(body), path)
        elif path == "/v1/responses" and b"\nupgrade:" in head.lower():
            yield status(b"426 Upgrade Required", b"{}")  # codex falls back to what every server has
        elif path == "/v1/responses":
            yield from answer_responses(said, json.loads(body))
        elif path == "/v1/chat/completions":
            yield from answer_completions(said, json.loads(body))
        elif path.startswith("/v1/models"):
            yield respond_json({"object": "list", "data": [], "models": []})
        elif path.startswith("/cargo/"):
            users = [{"id": 1, "login": credential, "name": None}]
            yield respond_json({"dl": self.url, "api": f"{self.url}/cargo"} if path.endswith("config.json") else {"users": users})
        elif b"\nx-amz-target: dynamodb" in head.lower():
            yield respond_json({"TableNames": ["tiny"]})
        elif path.startswith("/git/"):
            yield self.answer_git(path, head, body)
        elif path.startswith("/npm/"):
            yield self.answer_npm(path, credential)
        elif path.startswith("/simple/"):
            yield self.answer_pypi(path, head)
        else:
            yield from super().pieces(path, head, body)

    def talk(self, path: str, head: bytes, tls: ssl.SSLSocket, stream: BinaryIO) -> bool:
        """A WebSocket (RFC 6455): who comes is told who they are, or gets answers of a model to what they ask."""
        is_model = path == "/v1/responses" and self.talks
        if not is_model and path != "/socket":
            return False
        key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accepted = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accepted
        tls.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n\r\n")
        said = f"{PLEASED} {find_credential(head)}"
        if not is_model:
            tls.sendall(frame(said.encode()))
        while (message := read_frame(stream)) is not None:
            if is_model and message:
                for each in answer_responses(said, {**json.loads(message), "stream": True}):
                    if data := each.partition(b"data: ")[2].partition(b"\n")[0]:
                        tls.sendall(frame(data))
        return True

    def answer_git(self, path: str, head: bytes, body: bytes) -> bytes:
        """By git's own program for a web server; who has not said who they are is asked (RFC 7617)."""
        if b"\nauthorization:" not in head.lower():
            return status(b"401 Unauthorized", b"", b'WWW-Authenticate: Basic realm="git"')
        lines = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ": " in line)
        lines = {name.lower(): value for name, value in lines.items()}
        method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
        environ = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "agent",
            "REQUEST_METHOD": method,
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": target.partition("?")[2],
            "CONTENT_TYPE": lines.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": lines.get("git-protocol", ""),
            "HTTP_CONTENT_ENCODING": lines.get("content-encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environ, capture_output=True, check=True)
        said, _, content = done.stdout.partition(b"\r\n\r\n")
        kept = [line for line in said.split(b"\r\n") if not line.startswith(b"Status:")]
        state = next((line[8:] for line in said.split(b"\r\n") if line.startswith(b"Status: ")), b"200 OK")
        return status(state, content, *kept)

    def answer_npm(self, path: str, credential: str) -> bytes:
        if path.endswith(".tgz"):
            return status(b"200 OK", self.package, b"Content-Type: application/octet-stream")
        digest = base64.b64encode(hashlib.sha512(self.package).digest()).decode()
        version = {
            "name": "tiny",
            "version": "1.0.0",
            "description": credential,
            "dist": {"tarball": f"{self.url}/npm/tiny/-/tiny-1.0.0.tgz", "integrity": f"sha512-{digest}"},
        }
        return respond_json({"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})

    def answer_pypi(self, path: str, head: bytes) -> bytes:
        if b"\nauthorization:" not in head.lower():
            return status(b"401 Unauthorized", b"", b'WWW-Authenticate: Basic realm="pypi"')
        if path.endswith(".whl"):
            return status(b"200 OK", self.wheel, b"Content-Type: application/octet-stream")
        page = b'<!DOCTYPE html><html><body><a href="tiny-1.0-py3-none-any.whl">tiny-1.0-py3-none-any.whl</a></body></html>'
        return status(b"200 OK", page, b"Content-Type: text/html")


def frame(text: bytes) -> bytes:
    """A text message of a server's."""
    size = len(text)
    return b"\x81" + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2)) + text


def read_frame(stream: BinaryIO) -> bytes | None:
    """A client's message, b"" for a ping or pong; None when it is over."""
    head = stream.read(2)
    if len(head) < 2 or head[0] & 15 == 8:
        return None
    size = head[1] & 127
    if size > 125:
        size = int.from_bytes(stream.read(2 if size == 126 else 8))
    mask, data = stream.read(4), stream.read(size)
    text = bytes(each ^ mask[at % 4] for at, each in enumerate(data))
    return text if head[0] & 15 == 1 else b""


def find_credential(head: bytes) -> str:
    """What a request says of who it is from, without the word before it."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        if name.lower() in ("authorization", "x-api-key"):
            return value.split(" ")[-1]
    return "none"


def decode_pair(word: str) -> str:
    """What a word of Basic says; "" for another word."""
    try:
        return base64.b64decode(word, validate=True).decode()
    except ValueError:
        return ""


def status(state: bytes, body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + state, b"Content-Length: %d" % len(body), *headers, b"", body])


def respond_json(answer: object) -> bytes:
    return status(b"200 OK", json.dumps(answer).encode(), b"Content-Type: application/json")


def events(*pairs: tuple[str, dict]) -> Iterator[bytes]:
    """Server-sent events, one by one."""
    yield chunked_head(b"text/event-stream")
    for name, data in pairs:
        yield chunk((f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n")
    yield b"0\r\n\r\n"


# A model's APIs


def answer_messages(said: str, asked: dict, path: str) -> Iterator[bytes]:
    """Anthropic's messages."""
    if path.endswith("/count_tokens"):
        yield respond_json({"input_tokens": 1})
        return
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "stop_sequence": None,
        "usage": usage,
    }
    if not asked.get("stream"):
        yield respond_json({**message, "content": [{"type": "text", "text": said}], "stop_reason": "end_turn"})
        return
    yield from events(
        ("message_start", {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}),
        ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}}),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}),
        ("message_stop", {"type": "message_stop"}),
    )


def answer_responses(said: str, asked: dict) -> Iterator[bytes]:
    """OpenAI's responses."""
    text = {"type": "output_text", "text": said, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    used = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    response = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": asked.get("model", "m"),
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, **used},
    }
    if not asked.get("stream"):
        yield respond_json(response)
        return
    begun = {**response, "status": "in_progress", "output": []}
    yield from events(
        ("response.created", {"type": "response.created", "sequence_number": 0, "response": begun}),
        (
            "response.output_item.done",
            {"type": "response.output_item.done", "sequence_number": 1, "output_index": 0, "item": item},
        ),
        ("response.completed", {"type": "response.completed", "sequence_number": 2, "response": response}),
    )


def answer_completions(said: str, asked: dict) -> Iterator[bytes]:
    """OpenAI's chat completions."""
    answer = {"id": "chat_1", "created": 1, "model": asked.get("model", "m")}
    if not asked.get("stream"):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        yield respond_json({**answer, "object": "chat.completion", "choices": [choice], "usage": usage})
        return
    piece = {**answer, "object": "chat.completion.chunk"}
    yield chunked_head(b"text/event-stream")
    for delta, end in (({"role": "assistant", "content": said}, None), ({}, "stop")):
        event = {**piece, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
        yield chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
    yield chunk(b"data: [DONE]\n\n")
    yield b"0\r\n\r\n"


# Packages


def make_package() -> bytes:
    """A package of npm's, with nothing in it."""
    buffer, content = io.BytesIO(), json.dumps({"name": "tiny", "version": "1.0.0"}).encode()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/package.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def make_wheel() -> bytes:
    """A package of Python's, with nothing in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\ntiny-1.0.dist-info/METADATA,,\ntiny-1.0.dist-info/WHEEL,,\n"
                         "tiny-1.0.dist-info/RECORD,,\n")  # fmt: skip
    return buffer.getvalue()
