"""What signers, and those who pretend to be one, have been seen to answer: steps for `rogue.py`, by name."""

import json
from typing import Any

Steps = list[dict[str, Any]]


def say(**answer: Any) -> Steps:
    return [{"say": answer}]


HONEST: Steps = [{"honest": True}]
SILENCE: Steps = []

REFUSALS: dict[str, Steps] = {
    "amber, clave": say(result="", error="user rejected"),
    "primal": say(result="", error="User rejected this request."),
    "nsec.app, ndk": say(result="error", error="Not authorized"),
    "aegis, nak": say(result="", error="unauthorized"),
    "applesauce": say(result="", error="NIP-44 decryption denied"),
    "no result": say(error="denied by user"),
    "result null": say(result=None, error="denied by user"),
    "json in the error": say(result="", error=json.dumps({"code": -32000, "message": "denied by user"})),
}

NOT_PAIRED: dict[str, Steps] = {
    "amber": say(result="", error="no permission"),
    "clave": say(result="", error="Client not paired — send connect with valid bunker secret first"),
    "nak": say(result="", error="unauthorized"),
    "nsec.app, ndk": say(result="error", error="Not authorized"),
}

CONNECT_REFUSALS: dict[str, Steps] = {
    "amber, used": say(result="", error="already connected"),
    "amber, wrong": say(result="", error="invalid secret"),
    "amber, unused": say(result="", error="secret not in use"),
    "amber, none": say(result="", error="no secret"),
    "primal": say(result="", error="We don't accept connect requests with new secret."),
    "empty": say(result=""),  # Amber's screen for several requests
}

# All of these are a success.
SUCCESSES: dict[str, Steps] = {
    "no error": HONEST,
    "error null": [{"honest": True, "say": {"error": None}}],
    "error empty": [{"honest": True, "say": {"error": ""}}],
    "twice, same event": [{"honest": True, "copies": 2}],
    "five times, as amber": HONEST * 5,
    "clock behind": [{"honest": True, "age": 5 * 3600}],
    "clock ahead": [{"honest": True, "age": -50 * 60}],
    "error first": [*say(result="", error="no permission"), {"honest": True, "after_ms": 2000}],
}

# What may come before the right answer, and must neither end the wait nor be believed.
NOISE: dict[str, Steps] = {
    "not encrypted": [{"garbage": "not NIP-44"}],
    "empty": [{"garbage": ""}],
    "not json": [{"plain": "hello"}],
    "json, a list": [{"plain": "[1, 2, 3]"}],
    "json, a string": [{"plain": '"hello"'}],
    "json, null": [{"plain": "null"}],
    "json, not rpc": [{"plain": '{"hello": "world"}'}],
    "json, deep": [{"plain": "[" * 10_000}],
    "no id": [{"plain": '{"result": "0"}'}],
    "id null": say(id=None, result="0"),
    "id a list": say(id=[1], result="0"),
    "wrong id": say(id="0123456789abcdef", result="0"),
    "a request": say(method="nip44_decrypt", params=[]),
    "stranger, result": [{"key": "stranger", "say": {"result": "0"}}],
    "stranger, error": [{"key": "stranger", "say": {"result": "", "error": "user rejected"}}],
    "stranger, auth_url": [{"key": "stranger", "say": {"result": "auth_url", "error": "https://evil.example/"}}],
}

# The answer follows after the command `go`.
AUTH_URL: Steps = [*say(result="auth_url", error="https://signer.example/approve/1"), {"wait": True, "honest": True}]

# On a nostrconnect:// URI.
ACK_FROM_STRANGER: Steps = [{"key": "stranger", "say": {"result": "ack"}}]
WRONG_SECRET: Steps = [{"key": "stranger", "say": {"result": "0123456789abcdef"}}]
