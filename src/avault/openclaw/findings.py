"""What OpenClaw's audit finds in clear, sorted: what can become a reference, and what cannot."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from avault.intake.looks import is_secret
from avault.late import Fields, field, regex
from avault.openclaw.program import OpenClaw, parse_path, reach
from avault.openclaw.stores import open_sqlite, read_store

if TYPE_CHECKING:
    from typing import Any

GATEWAY = (
    "the gateway's own: with it in a locked vault the gateway would not start at all. "
    "OpenClaw's own store takes it out of the file: openclaw secrets store set "
    "OPENCLAW_GATEWAY_TOKEN"
)
KEY = regex("[A-Za-z_][A-Za-z0-9_]{0,127}")
# of names that users choose
MAPS = {"providers", "accounts", "personas", "headers", "routes", "mcpServers", "env"}
SCAFFOLD = {
    "models", "providers", "skills", "channels", "plugins", "agents", "entries", "accounts",
    "personas", "config",
}  # fmt: skip


class Target(Fields):
    """A credential in clear that may become a reference."""

    path: str  # as OpenClaw writes it
    value: str = field(repr=False)
    plan: dict[str, Any]  # its entry in the plan, without the reference
    name: tuple[str, str]  # group and key in the vault
    spare: tuple[str, str]  # another name, for when that one is taken


class Variable(Fields):
    """A secret in clear where OpenClaw takes no reference.

    `server` is the one that gets it, or "" for all.
    """

    segments: list[str]
    value: str = field(repr=False)
    # group and key in the vault; the key is the variable, as `avault run` names it so
    name: tuple[str, str]
    spare: tuple[str, str]
    server: str = ""

    @property
    def path(self) -> str:
        """As OpenClaw writes it."""
        return ".".join(self.segments)

    @property
    def reason(self) -> str:
        """What can be done about it."""
        if self.server:
            return (
                "OpenClaw takes no reference here; with --variables this server runs under "
                "avault run, which gives it the value"
            )
        return (
            "OpenClaw takes no reference here, and all that it runs sees it; "
            "--variables takes it out: "
            f"what needs it then runs as avault run --only {'/'.join(self.name)} -- COMMAND"
        )


class Findings(Fields):
    """What `openclaw secrets audit` has found: what can be moved, and why the rest stays."""

    targets: list[Target] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # providers of which a key stays in an auth profile
    variables: list[Variable] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)  # OpenClaw's SQLite files
    # those that OpenClaw scrubs, as they are without the key
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)


def target_type(segments: list[str]) -> str:
    """The type of a plan's target: its path, with * for each name that a user chose."""
    found: list[str] = []
    for index, segment in enumerate(segments):
        before = segments[index - 1] if index else ""
        chosen = before in MAPS or (before == "entries" and segments[0] != "plugins")
        found.append("*" if chosen else segment)
    return ".".join(found)


def snake(words: list[str]) -> str:
    """A key name for these words: `apiKey` gives API_KEY."""
    text = "_".join(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", word) for word in words)
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").upper() or "VALUE"
    return (name if not name[0].isdigit() else f"_{name}")[:128]


def names_for(segments: list[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    """Where a credential goes in the vault, and a spare place.

    models.providers.openai.apiKey goes to openai/API_KEY.
    """
    words = [word for word in segments[:-1] if word not in SCAFFOLD] + segments[-1:]
    spare = ("openclaw", snake(segments))
    if len(words) < 2:
        return spare, spare
    group = re.sub(r"[^A-Za-z0-9._-]", "-", words[0]).lstrip("._-")[:64]
    return (group or "openclaw", snake(words[1:])), spare


def find_variables(config: dict[str, Any]) -> list[Variable]:
    """The secrets among the variables that openclaw.json sets."""
    places: list[tuple[list[str], str]] = [(["env"], ""), (["env", "vars"], "")]
    servers = reach(config, ["mcp", "servers"])
    places += [
        (["mcp", "servers", name, "env"], name)
        for name in (servers if isinstance(servers, dict) else ())
    ]
    found = []
    for segments, server in places:
        variables = reach(config, segments)
        for key, value in variables.items() if isinstance(variables, dict) else ():
            if (
                isinstance(value, str)
                and KEY.fullmatch(key)
                and "${" not in value
                and is_secret(key, value)
            ):
                group = re.sub(r"[^A-Za-z0-9._-]", "-", server).lstrip("._-")[:55] or "openclaw"
                found.append(
                    Variable(
                        [*segments, key], value, (group, key), (f"{group}-openclaw", key), server
                    )
                )
    return found


def look_at_openclaw(openclaw: OpenClaw) -> Findings:
    """What OpenClaw's audit calls plaintext, sorted into what can be moved and what not.

    Runs no provider.
    """
    found = Findings()
    audit = openclaw.ask("secrets", "audit", codes=(0, 1, 2))
    findings = [each for each in audit["findings"] if each["code"] == "PLAINTEXT_FOUND"]
    profiles = [each for each in findings if str(each["file"]).endswith(".sqlite")]
    names = {str(each["profileId"]) for each in profiles}
    for each in findings:
        path, file = str(each["jsonPath"]), str(each["file"])
        if each in profiles:
            add_profile(openclaw, found, file, str(each["profileId"]), path.rpartition(".")[2])
        elif path.startswith("gateway.auth."):
            found.left[path] = GATEWAY
        elif path.startswith("$env."):
            found.left[f"{file}: {path[5:]}"] = (
                "a variable; what uses it can run under avault run, or takes a reference"
            )
        elif os.path.realpath(file) != os.path.realpath(openclaw.config_path):
            found.left[f"{file}: {path}"] = (
                "a file that OpenClaw generates; it does so anew when the gateway restarts"
            )
        else:
            segments = parse_path(path)
            value = reach(openclaw.config, segments)
            # no key, but the name of the profile that has it; OpenClaw's audit does not know
            if isinstance(value, str) and value in names:
                continue
            if isinstance(value, str) and "${" not in value:
                plan = {"type": target_type(segments), "path": path, "pathSegments": segments}
                found.targets.append(Target(path, value, plan, *names_for(segments)))
            else:
                found.left[path] = (
                    "it does not stand in openclaw.json itself, but in a file that this includes"
                )
    found.variables = find_variables(openclaw.config)
    found.stores = [str(file) for file in audit["filesScanned"] if str(file).endswith(".sqlite")]
    return found


def add_profile(openclaw: OpenClaw, found: Findings, file: str, profile: str, kind: str) -> None:
    """Sort an auth profile's key in.

    An agent's own store takes references. The store that all agents share takes none from a plan;
    there the key moves to the provider's entry in openclaw.json, and OpenClaw scrubs the profile.
    That is the same only where the provider has no other key.
    """
    with open_sqlite(file) as db:
        store, number = read_store(db)
    profiles, shared = store["profiles"], number == 0
    path, entry = f"profiles.{profile}.{kind}", profiles.get(profile)
    value = reach(entry, [kind])
    if not isinstance(value, str):
        found.left[path] = "it cannot be read"
        return
    provider = str(reach(entry, ["provider"]) or "")
    names = names_for(["models", "providers", provider, "apiKey" if kind == "key" else kind])
    if not shared:
        agent = os.path.basename(os.path.dirname(os.path.dirname(file)))
        form = f"auth-profiles.{'api_key.key' if kind == 'key' else 'token.token'}"
        plan = {
            "type": form,
            "path": path,
            "pathSegments": ["profiles", profile, kind],
            "agentId": agent,
        }
        found.targets.append(Target(path, value, plan, *names))
        return
    segments = ["models", "providers", provider, "apiKey"]
    there = openclaw.value(*segments)
    keys = {
        reach(each, ["key"]) or reach(each, ["token"])
        for each in profiles.values()
        if reach(each, ["provider"]) == provider
    }
    if kind != "key" or keys != {value} or there not in (None, value, profile):
        found.kept.add(provider)
        found.left[path] = (
            f"it is one of several keys for {provider}, or a token, in the store that all agents "
            "share, where OpenClaw takes no references; remove what is not needed: "
            "openclaw models auth logout"
        )
    elif there != value and not any(
        target.plan.get("pathSegments") == segments for target in found.targets
    ):
        plan = {
            "type": "models.providers.*.apiKey",
            "path": ".".join(segments),
            "pathSegments": segments,
        }
        found.targets.append(Target(path, value, plan, *names))
        rest = {name: each for name, each in dict(entry or {}).items() if name != kind}
        found.profiles[profile] = {
            "file": file,
            "entry": rest,
            "kind": kind,
            "was": profile if there == profile else None,
        }
