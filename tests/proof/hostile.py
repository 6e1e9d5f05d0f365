"""Requests as nobody should send them: every op, with fields that are wrong in every way that came to mind.

    for one in range(1000):
        stream = frame(message(choice, READS, vault_id))

`choice` decides: a `Dice`, or the bytes of a fuzzer (fuzz_wire.py), which learns what leads to new places in the code.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import avault

READS = [
    "get",
    "has",
    "list",
    "export",
    "reveal",
    "provide",
    "inspect",
    "verify_log",
    "verify",
    "machines",
    "exposed",
    "replica",
    "guards",
    "keys",
    "sign",
    "proxy",
    "proxy_start",
    "proxies",
    "proxy_stop",
    "word",
    "grants",
]
WRITES = ["set", "delete", "move", "import", "merge", "restore", "guard", "key", "bunker", "grant", "revoke"]
RELEASING = {"get", "export", "reveal", "provide"}  # what may give a value out
assert {*READS, *WRITES} == avault.VALUES

TEXTS = [
    "", "a", "B", "C", "a/B", "a/", "/", "no", "x" * 64, "x" * 65, "a" * 70_000, "\0", "\ud800", "é", "🦄", "\n", "\x1b[2J",
    "../../etc", "__class__", "sh", "fish", "dotenv", "systemd", "json", "null", "text", "names", "PATH", "LD_PRELOAD",
    "copy.enc", "bad.enc", "none.enc", "unlock.json", "../unlock.enc", ".enc", "true", "NaN", "1e999",
    '{"protocolVersion": 1, "ids": ["a/B", "a", "/", "a/no"]}', '{"protocolVersion": 1, "ids": [1]}', "[" * 5_000,
    "ws://127.0.0.1:1", "wss://", "bunker://", "nsec1", "npub1" + "q" * 58,
]  # fmt: skip
NUMBERS = [
    0,
    1,
    -1,
    2,
    32,
    4096,
    4097,
    2**31,
    2**63,
    -(2**64),
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
]
FIELDS = [
    "group", "key", "format", "note", "generate", "groups", "only", "prefix", "allow", "for", "value", "secrets", "notes",
    "replace", "dry_run", "file", "ours", "theirs", "timeout", "private", "relays", "name", "signer_npub", "agent", "operator",
    "accept_rollback", "settled", "detach", "nsec", "bunker", "action", "fd", "do", "frame", "ok", "ready", "progress",
    "slot", "after", "epoch", "event", "events", "parts", "hosts", "egress", "also", "tcp", "everything", "grant", "port", "ask",
    "relay", "challenge", "statement",
    "public", "payload", "binds", "flags", "claims",
    "kind", "passphrase", "path", "servers", "wallet",
    "as", "to_group", "to_key", "unsaved", "ask_again", "confirm", "person", "force", "v", "vault", "op",
]  # fmt: skip


class Dice:
    """Choices by chance; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        """A number from `low` to `high`."""
        return self.random.randint(low, high)

    def some(self, size: int) -> bytes:
        """At most so many bytes."""
        return self.random.randbytes(self.number(0, size))


def pick(choice: Any, among: Sequence[Any]) -> Any:
    """One of several."""
    return among[choice.number(0, len(among) - 1)]


def value(choice: Any, depth: int = 0) -> Any:
    """What JSON can hold."""
    match choice.number(0, 9 if depth < 3 else 6):
        case 0:
            return None
        case 1:
            return pick(choice, [True, False])
        case 2:
            return pick(choice, NUMBERS)
        case 3:
            return choice.some(20).decode("latin-1")
        case 4 | 5 | 6:
            return pick(choice, TEXTS)
        case 7:
            return {str(pick(choice, TEXTS)): value(choice, depth + 1) for _ in range(choice.number(0, 3))}
        case _:
            return [value(choice, depth + 1) for _ in range(choice.number(0, 3))]


def message(choice: Any, ops: Sequence[str], vault: str) -> dict[str, Any]:
    """A request of one of these ops; most are for this vault, and have a group and a key that are there."""
    made: dict[str, Any] = {"v": 1, "vault": vault, "op": pick(choice, ops)}
    if choice.number(0, 2):
        made |= {"group": "a", "key": "B"}
    if made["op"] in ("inspect", "restore", "merge", "verify") and choice.number(0, 2):
        made |= {"file": "copy.enc", "theirs": "copy.enc"}
    if made["op"] == "move" and choice.number(0, 2):
        made |= {"to_group": "z", "to_key": pick(choice, ["M", None])}
    for _ in range(choice.number(0, 5)):
        made[pick(choice, FIELDS)] = value(choice)
    return made


def frame(data: object, size: int | None = None) -> bytes:
    """A frame, of JSON or of bytes that are none; `size` says what is not true."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return (len(body) if size is None else size).to_bytes(4, "big") + body


def faults(answer: dict[str, Any], op: object, mark: str, is_open: bool) -> str:
    """What is wrong with an answer, if anything is."""
    text = json.dumps(answer, ensure_ascii=False)
    if mark in text and not (is_open and answer.get("ok") is True and op in RELEASING):
        return "a value, where none may be"
    if answer.get("ok") is True:
        return ""
    if "progress" in answer and "ok" not in answer:
        return ""
    error = answer.get("error")
    if answer.get("ok") is not False or not isinstance(error, dict) or set(error) != {"code", "message", "hint"}:
        return "not an answer"
    return "an error that is avault's own" if "avault failed" in str(error["message"]) else ""
