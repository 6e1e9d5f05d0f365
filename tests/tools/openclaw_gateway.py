"""OpenClaw itself, as npm has it, and a model for its agent: for test_openclaw.py. All of it listens on the loopback only.

with Model() as model:
    claw = Claw(machine, model)                 # its `openclaw` is on the machine's PATH; claw("config", "validate")
    claw.write({"skills": …})                   # openclaw.json
    with claw.gateway() as gateway:
        gateway.wait_for("ready")               # in its log
        claw.say("hello")                       # a turn of the agent, with a call of its exec tool: `env`
    model.calls                                 # what the model was sent, with which key
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.server
import json
import os
import re
import shlex
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

import peers
import pytest
from canary import record
from harness import Done, Machine, wait_until
from ports import free_port

VERSION = "2026.9.6"
NODE = (24, 16)  # what its package.json asks for


@functools.cache
def installed() -> Path:
    """The package `openclaw`: installed once, whoever comes first, below the cache directory of the peers."""
    found = subprocess.run([*peers.node(), "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < NODE:
        pytest.skip(f"OpenClaw needs node {NODE[0]}.{NODE[1]}, and this is {found.strip()}")
    home = peers.CACHE / f"openclaw-{VERSION}"
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            (home / "package.json").write_text('{"private": true}')
            words = ["install", f"openclaw@{VERSION}", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
            environ = {**peers.ENVIRON, "npm_config_cache": str(peers.CACHE / "npm")}
            done = subprocess.run([*peers.npm(), *words], cwd=home, env=environ, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            (home / "installed").touch()
    return home / "node_modules" / "openclaw"


class Model:
    """A model behind OpenAI's chat completions: first it has `env` executed, and when it has seen the output it is done.

    `calls` are the requests: the Authorization header, and the body. They are kept in memory, where a key may be.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                model.calls.append((self.headers.get("authorization", ""), body))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                for line in model.answer(body):
                    self.wfile.write(f"data: {line}\n\n".encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> list[str]:
        """A streamed answer: a call of the tool `exec`, or text once that has answered. What OpenClaw adds comes as `user`."""
        delta: dict[str, Any] = {"role": "assistant", "content": "done"}
        if [each["role"] for each in body["messages"] if each["role"] != "user"][-1] != "tool":
            call = {"name": "exec", "arguments": json.dumps({"command": "env"})}
            delta = {"role": "assistant", "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": call}]}
        choices = [
            {"delta": delta, "finish_reason": None},
            {"delta": {}, "finish_reason": "tool_calls" if "tool_calls" in delta else "stop"},
        ]
        chunks = [
            {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, **each}],
            }
            for each in choices
        ]
        return [*map(json.dumps, chunks), "[DONE]"]

    def shown(self) -> str:
        """What the agent's tools have shown to the model."""
        return "\n".join(str(each["content"]) for _, body in self.calls for each in body["messages"] if each["role"] == "tool")

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Claw:
    """OpenClaw on a machine.

    Where its settings are is answered for it, as a start of OpenClaw takes seconds and avault asks with each command;
    with `itself` it answers, until `quicken`.
    """

    def __init__(self, machine: Machine, model: Model, itself: bool = False) -> None:
        self.machine, self.model, self.port = machine, model, free_port()
        self.state = machine.home / ".openclaw"
        self.state.mkdir(mode=0o700)
        self.config = self.state / "openclaw.json"
        self.command = machine.top / "bin" / "openclaw"
        self.command.parent.mkdir()
        program = [*peers.node(), str(installed() / "openclaw.mjs")]
        self.command.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
        self.command.chmod(0o755)
        if not itself:
            self.quicken()
        machine.env |= {
            "PATH": f"{self.command.parent}:{machine.env['PATH']}",
            "NODE_COMPILE_CACHE": str(peers.CACHE / "openclaw-compiled"),
            "OPENCLAW_NO_RESPAWN": "1",  # else each command starts node twice
            "OPENCLAW_SKIP_CHANNELS": "1",
            "OPENCLAW_SKIP_CRON": "1",
        }

    def quicken(self) -> None:
        """From now on it is answered for it where its settings are."""
        self.answer("config file", str(self.config))

    def answer(self, words: str, answer: str) -> None:
        """From now on that command of it is answered for it: what it prints, in one line."""
        told = f'[ "$*" != {shlex.quote(words)} ] || {{ echo {shlex.quote(answer)}; exit; }}\n'
        self.command.write_text(self.command.read_text().replace("exec ", f"{told}exec ", 1))

    def write(self, **more: Any) -> None:
        """Write openclaw.json: the model, and what else is wanted; with a comment, as people have them."""
        provider = {"baseUrl": self.model.url, "api": "openai-completions", "models": [{"id": "m", "name": "m"}]}
        content = {
            "gateway": {"mode": "local", "port": self.port, "bind": "loopback", **more.pop("gateway", {})},
            "logging": {"file": str(self.machine.top / "gateway.log")},
            "plugins": {"enabled": False},
            "update": {"checkOnStart": False},
            "models": {"providers": {"lab": provider | more.pop("lab", {})}},
            "agents": {"defaults": {"model": {"primary": "lab/m"}}},
            **more,
        }
        self.config.write_text("// mine\n" + json.dumps(content, indent=2))
        self.config.chmod(0o600)

    def read(self) -> dict[str, Any]:
        """openclaw.json as OpenClaw has written it."""
        return dict(json.loads(self.config.read_text()))

    def __call__(self, *words: str, code: int = 0, input: str = "", timeout: float = 300) -> Done:
        """Run a command of OpenClaw's; its exit code must be that."""
        argv = [str(self.command), *words]
        ended = subprocess.run(
            argv, env=self.machine.env, cwd=self.machine.top, input=input, capture_output=True, text=True, timeout=timeout
        )
        record(f"openclaw {words[0]}", ended.stdout + ended.stderr)
        assert ended.returncode == code, f"{words} gave {ended.returncode}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
        return Done(argv, ended.returncode, ended.stdout, ended.stderr)

    def gateway(self) -> Gateway:
        """A gateway that starts."""
        return Gateway(self)

    def say(self, text: str, code: int = 0) -> Done:
        """A turn of the agent, to its end."""
        return self("agent", "--agent", "main", "--message", text, "--json", code=code)

    def chat(self, text: str) -> None:
        """A message in the agent's main session, as from a channel; the turn goes on in the gateway."""
        params = {"sessionKey": "main", "message": text, "idempotencyKey": text}
        self("gateway", "call", "chat.send", "--params", json.dumps(params), "--json")


class Gateway:
    """A gateway that runs in the foreground; `log` is what it prints."""

    def __init__(self, claw: Claw) -> None:
        self.path = claw.machine.top / "gateway.out"
        with self.path.open("wb") as out:
            self.process = subprocess.Popen(
                [str(claw.command), "gateway", "run"],
                env=claw.machine.env,
                cwd=claw.machine.top,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it has printed so far, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.path.read_text(errors="replace"))

    def is_up(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def wait_for(self, text: str, timeout: float = 180) -> str:
        """The first line of its log that has this text."""

        def find() -> str | None:
            assert self.is_up(), self.log[-4000:]
            return next((line for line in self.log.splitlines() if text in line), None)

        try:
            return str(wait_until(find, timeout, text))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from None

    def stop(self) -> None:
        """End it, by force after 15 seconds."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
            os.killpg(self.process.pid, signal.SIGKILL)  # its helpers are of its group
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
