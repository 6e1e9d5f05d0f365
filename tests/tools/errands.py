"""Errands of a custodian's helper, as the daemon sends them: the real process, with us as supervisor and keyholder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from forked import forked, of_start
from harness import Machine

import avault

BOUND = "avault:custody:v1:" + "0" * 32 + ":npub1test:here"
SECRET = "5f" * 32  # an unlock key is 64 hex digits


def send_errand(
    action: str,
    kind: str,
    settings: dict[str, str] | None = None,
    *,
    kept: str | None = None,
    secret: str | None = None,
    limit: float = 30.0,
    env: dict[str, str] | None = None,
    before: str = "",
    **fields: Any,
) -> dict[str, Any]:
    """The answer of `avault.py custodian ACTION KIND`: {"outcome": "ok", "value": …} or {"outcome": …, "detail": …}.

    `fields` are others of the request: name, bound, account, label, terminal, answers, directory; `before` is a program
    that is run in the process first.
    """
    request = make_request(settings or {}, kept=kept, limit=limit, **fields)
    words = avault.own_command("custodian", action, kind)
    words[words.index("-c") + 1] = before + words[words.index("-c") + 1]
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_helper, words, theirs, {**os.environ, **(env or {})}, limit + 30, bool(before))
        data = json.dumps(request).encode()
        ours.sendall(len(data).to_bytes(4, "big") + data)
        if action == "set":
            _, fds, _, _ = socket.recv_fds(ours, 64, 1)
            for fd in fds:
                with socket.socket(fileno=fd) as own:
                    own.sendall((secret or "").encode())
    assert (ended.result().returncode, ended.result().stderr) == (0, b"")
    answer: dict[str, Any] = json.loads(ended.result().stdout)
    if action == "settle" and answer["outcome"] == "ok":  # as if it were the settings alone
        answer |= {"asks": answer["value"]["asks"], "value": answer["value"]["settings"]}
    return answer


def run_helper(
    words: list[str], stdin: socket.socket, env: dict[str, str], timeout: float, is_changed: bool
) -> subprocess.CompletedProcess[bytes]:
    """The helper from its start to its end; forked where the test may have that."""
    if Machine.may_fork and not is_changed and of_start(env) == forked().start:
        return forked().run(["-c", *words[len(avault.own_command()) :]], env, Path("/"), stdin, timeout)
    return subprocess.run(words, stdin=stdin, capture_output=True, env=env, cwd="/", timeout=timeout)


def do_errand_here(
    action: str, custodian: Callable[[avault.Errand], Any], settings: dict[str, str], *, secret: str = SECRET, **fields: Any
) -> dict[str, Any]:
    """The same in this very process, for what does not depend on the helper: its class, and what it raises as an answer."""
    errand = avault.Errand(make_request(settings, **fields), avault.Prompt(None))
    try:
        told = [secret] if action == "set" else []
        return {"outcome": "ok", "value": getattr(custodian(errand), action)(*told)}
    except avault.AvaultError as error:
        return {"outcome": error.code, "detail": error.message}


def make_request(settings: dict[str, str], **fields: Any) -> dict[str, Any]:
    """What a helper is sent."""
    return {
        "name": "here", "settings": settings, "bound": BOUND, "limit": 30.0,
        "account": "avault1-AAAAAAAAAAAAAAAA:here", "label": "avault: unlock key of test (/vault)", **fields,
    }  # fmt: skip
