"""From variables in clear to what runs under `avault run`.

In two places OpenClaw takes strings only: `env`, for all that the gateway runs, and the variables
of a server of the Model Context Protocol. A server can run under `avault run`; what an agent's
command needs, it gets the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from avault.errors import NotFound, printable
from avault.late import Fields
from avault.openclaw.command import fixed_environment, name_vault
from avault.openclaw.findings import Variable
from avault.openclaw.plan import all_or_nothing
from avault.openclaw.program import OpenClaw, reach
from avault.places import Places
from avault.terminal.talk import say
from avault.vault.files import read_file, write_file

if TYPE_CHECKING:
    from typing import Any


class Reference(Fields):
    """A reference into the vault: file and keys under which it stands, and the secret's name."""

    file: str
    segments: list[str]
    id: str

    def __str__(self) -> str:
        return ".".join(self.segments)

    def server(self) -> str | None:
        """The server of the Model Context Protocol whose variable it is, if it is one's."""
        return (
            self.segments[2]
            if self.segments[:2] == ["mcp", "servers"] and self.segments[3:4] == ["env"]
            else None
        )


class Moved:
    """What a plan took out of OpenClaw's settings, so that --undo can put it back.

    It has names and settings, never a value.

    `variables` are the paths of variables and their names in the vault, `servers` the commands that
    now run under avault run, `profiles` the auth profiles that OpenClaw scrubbed.
    """

    def __init__(self, places: Places) -> None:
        self.path = places.own("openclaw-moved.json")
        try:
            content = dict(json.loads(read_file(self.path)))
        except (NotFound, ValueError, TypeError):
            content = {}
        self.variables: list[dict[str, Any]] = list(content.get("variables") or [])
        self.servers: dict[str, Any] = dict(content.get("servers") or {})
        self.profiles: dict[str, Any] = dict(content.get("profiles") or {})

    def profiles_of(self, found: list[Reference]) -> dict[str, dict[str, Any]]:
        """The scrubbed profiles whose keys are among these references.

        Those stand in the providers' own settings now.
        """
        ids = {
            each.id
            for each in found
            if each.segments[:2] == ["models", "providers"] and each.segments[3:] == ["apiKey"]
        }
        return {name: profile for name, profile in self.profiles.items() if profile["id"] in ids}

    def forget(self, found: list[Reference]) -> None:
        """Strike out what was put back."""
        for name in self.profiles_of(found):
            del self.profiles[name]
        paths = [each.segments for each in found]
        self.variables = [each for each in self.variables if each["path"] not in paths]
        left = {each["path"][2] for each in self.variables if each["path"][0] == "mcp"}
        self.servers = {name: was for name, was in self.servers.items() if name in left}
        self.save()

    def save(self) -> None:
        """Write it down, or remove it where nothing is left to put back."""
        content = {"variables": self.variables, "servers": self.servers, "profiles": self.profiles}
        if any(content.values()):
            write_file(self.path, json.dumps(content, indent=2).encode())
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


def put_at(patch: dict[str, Any], segments: list[str], value: object) -> None:
    """Set one thing in a patch for `openclaw config patch`; None takes it away."""
    for segment in segments[:-1]:
        patch = patch.setdefault(segment, {})
    patch[segments[-1]] = value


def wrap_server(
    places: Places, program: str, server: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    """What changes in a server's settings so that `avault run` runs it, with these secrets."""
    chosen = [word for name in names for word in ("--only", name)]
    words = [
        *name_vault(places),
        "run",
        *chosen,
        "--",
        str(server["command"]),
        *(server.get("args") or []),
    ]
    return {"command": program, "args": words, "env": dict(fixed_environment())}


def move_variables(openclaw: OpenClaw, places: Places, program: str, found: list[Variable]) -> None:
    """Take variables out of openclaw.json, whose values the vault has; raises AvaultError."""
    moved = Moved(places)
    patch: dict[str, Any] = {}
    for name in dict.fromkeys(each.server for each in found if each.server):
        server = openclaw.value("mcp", "servers", name)
        names = ["/".join(each.name) for each in found if each.server == name]
        was = {key: reach(server, ["env", key]) for key in fixed_environment()}
        moved.servers[name] = {"command": server["command"], "args": server.get("args"), "env": was}
        patch.setdefault("mcp", {}).setdefault("servers", {})[name] = wrap_server(
            places, program, server, names
        )
    for each in found:
        put_at(patch, each.segments, None)
        moved.variables.append({"path": each.segments, "id": "/".join(each.name)})
    moved.save()
    with all_or_nothing(openclaw, [each.value for each in found]):
        openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))


def is_wrapped(places: Places, server: object) -> bool:
    """Whether a server of openclaw.json still runs as `wrap_server` made it."""
    words = reach(server, ["args"])
    return (
        isinstance(words, list)
        and "run" in words
        and words[: words.index("run")] == name_vault(places)
        and "--" in words
    )


def tell_moved(moved: list[str], left: dict[str, str], otherwise: str) -> None:
    """Say what was moved and what was not."""
    for line in moved or ([otherwise] if otherwise else []):
        say(line)
    for path, reason in left.items():
        say(f"left {printable(path)}: {reason}")
