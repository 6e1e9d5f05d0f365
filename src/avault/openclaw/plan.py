"""From credentials in clear to references.

`openclaw secrets audit` finds what stands in clear, `openclaw secrets apply` replaces it. Between
them avault takes the values into the vault, reads them back, and writes the plan, in which there
are names only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied
from avault.intake.looks import is_secret
from avault.late import Fields, context, field, regex
from avault.openclaw.program import OpenClaw, parse_path, reach
from avault.places import Places
from avault.terminal.terminal import Terminal
from avault.vault.files import make_private_directory, read_file, write_file
from avault.vault.records import check_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn


PROVIDER = "avault"  # its name in `secrets.providers`
GATEWAY = (
    "the gateway's own: with it in a locked vault the gateway would not start at all. "
    "OpenClaw's own store takes it out of the file: openclaw secrets store set OPENCLAW_GATEWAY_TOKEN"
)
KEY = regex("[A-Za-z_][A-Za-z0-9_]{0,127}")
# of names that users choose
MAPS = {"providers", "accounts", "personas", "headers", "routes", "mcpServers", "env"}
SCAFFOLD = {
    "models",
    "providers",
    "skills",
    "channels",
    "plugins",
    "agents",
    "entries",
    "accounts",
    "personas",
    "config",
}


class Target(Fields):
    """A credential in clear that may become a reference."""

    path: str  # as OpenClaw writes it
    value: str = field(repr=False)
    plan: dict[str, Any]  # its entry in the plan, without the reference
    name: tuple[str, str]  # group and key in the vault
    spare: tuple[str, str]  # another name, for when that one is taken


class Variable(Fields):
    """A secret in clear where OpenClaw takes no reference; `server` is the one that gets it, or "" for all."""

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
            return "OpenClaw takes no reference here; with --variables this server runs under avault run, which gives it the value"
        return (
            f"OpenClaw takes no reference here, and all that it runs sees it; --variables takes it out: "
            f"what needs it then runs as avault run --only {'/'.join(self.name)} -- COMMAND"
        )


class Findings(Fields):
    """What `openclaw secrets audit` has found: what can be moved, and what stays with the reason."""

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
    """Where a credential goes in the vault: openai/API_KEY for models.providers.openai.apiKey; and a spare place."""
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
    """What OpenClaw's audit calls plaintext, sorted into what can be moved and what not. Runs no provider."""
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
            if (
                isinstance(value, str) and value in names
            ):  # no key, but the name of the profile that has it; OpenClaw's audit does not know
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


# Where an SQLite store of OpenClaw's has auth profiles: table, column, time, row. First the one that all agents share.
STORES = (
    ("config_machine_state", "value_json", "updated_at_ms", "state_key = 'authProfiles.store'"),
    ("auth_profile_store", "store_json", "updated_at", "store_key = 'primary'"),
)


def open_sqlite(file: str, mode: str = "ro") -> contextlib.closing[sqlite3.Connection]:
    """A connection to a database that is there; without a transaction until one is begun."""
    quoted = file.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return contextlib.closing(
        sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, isolation_level=None, timeout=30)
    )


def read_store(db: sqlite3.Connection) -> tuple[dict[str, Any], int]:
    """What a store has, {"profiles": …}, and which of STORES it is."""
    for number, (table, column, _, row) in enumerate(STORES):
        with contextlib.suppress(sqlite3.Error, ValueError, TypeError, KeyError):
            if found := db.execute(f"SELECT {column} FROM {table} WHERE {row}").fetchone():  # noqa: S608
                content = dict(json.loads(found[0]))
                return {**content, "profiles": dict(content["profiles"])}, number
    return {"profiles": {}}, 1


def change_store(file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the auth profiles in a database, in one transaction; raises AvaultError."""
    with open_sqlite(file, "rw") as db:
        try:
            db.execute("BEGIN IMMEDIATE")
            store, number = read_store(db)
            change(store)
            table, column, changed, row = STORES[number]
            update = f"UPDATE {table} SET {column} = ?, {changed} = ? WHERE {row}"  # noqa: S608
            db.execute(
                update,
                (
                    json.dumps(store, separators=(",", ":"), ensure_ascii=False),
                    int(time.time() * 1000),
                ),
            )
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise AvaultError(
                f"{file} cannot be changed: {error}", "stop the gateway, and try again"
            ) from None


def add_profile(openclaw: OpenClaw, found: Findings, file: str, profile: str, kind: str) -> None:
    """Sort an auth profile's key in.

    An agent's own store takes references. The store that all agents share takes none from a plan; there the key moves to
    the provider's entry in openclaw.json, and OpenClaw scrubs the profile. That is the same only where the provider has
    no other key.
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
            f"it is one of several keys for {provider}, or a token, in the store that all agents share, "
            "where OpenClaw takes no references; remove what is not needed: openclaw models auth logout"
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


def settle_names(terminal: Terminal, targets: Sequence[Target | Variable]) -> dict[str, list[str]]:
    """Give each target a name that no other value has, here or in the vault; what an import of them would do.

    Raises Denied where both names of a target are taken.
    """
    taken: dict[tuple[str, str], str] = {}
    for target in targets:
        if taken.setdefault(target.name, target.value) != target.value:
            target.name = target.spare
            taken[target.name] = target.value
    answer = import_targets(terminal, targets, dry_run=True)
    for target in targets:
        if "/".join(target.name) in answer["replaced"]:
            target.name = target.spare
    answer = import_targets(terminal, targets, dry_run=True)
    if answer["replaced"]:
        raise Denied(
            f"in the vault with another value: {', '.join(answer['replaced'])}",
            "rename or delete what is there: avault delete",
        )
    return answer


def import_targets(
    terminal: Terminal, targets: Sequence[Target | Variable], dry_run: bool
) -> dict[str, list[str]]:
    """Put the values into the vault; nothing there is replaced."""
    rows = {target.name: target.value for target in targets}
    secrets = [[group, key, check_value(value)] for (group, key), value in rows.items()]
    if not secrets:
        return {"new": [], "same": [], "replaced": []}
    return terminal.ask(
        "import", value={"secrets": secrets, "notes": {}}, replace=False, dry_run=dry_run
    )


def verify(terminal: Terminal, targets: Sequence[Target | Variable]) -> None:
    """Read back what was imported; raises AvaultError."""
    names = sorted({"/".join(target.name) for target in targets})
    rows = (
        terminal.ask("reveal", groups=[], only=names, **{"for": "openclaw"})["secrets"]
        if names
        else []
    )
    kept = {(row["group"], row["key"]): row["value"] for row in rows}
    if wrong := [target.path for target in targets if kept.get(target.name) != target.value]:
        raise AvaultError(
            f"not as it was in the vault: {', '.join(wrong)}", "nothing was replaced; try again"
        )


def make_plan(found: Findings, provider: dict[str, Any]) -> dict[str, Any]:
    """The plan for `openclaw secrets apply`.

    That takes the keys of each provider in the plan out of the auth profiles, unless it is told not to.
    """
    refs = [
        {"source": "exec", "provider": PROVIDER, "id": "/".join(target.name)}
        for target in found.targets
    ]
    moved = {
        target.plan["pathSegments"][2]
        for target in found.targets
        if target.plan["type"] == "models.providers.*.apiKey"
    }
    return {
        "version": 1,
        "protocolVersion": 1,
        "providerUpserts": {PROVIDER: provider},
        "targets": [
            {**target.plan, "ref": ref} for target, ref in zip(found.targets, refs, strict=True)
        ],
        "options": {
            "scrubEnv": True,
            "scrubAuthProfilesForProviderTargets": not moved & found.kept,
        },
    }


def apply_plan(openclaw: OpenClaw, places: Places, plan: dict[str, Any], values: list[str]) -> None:
    """Run `openclaw secrets apply`; raises AvaultError."""
    path = places.own("openclaw-plan.json")
    make_private_directory(places.state)
    write_file(path, json.dumps(plan, indent=2).encode())
    try:
        with all_or_nothing(openclaw, values):
            openclaw.run("secrets", "apply", "--from", path, "--allow-exec", "--json")
    finally:
        os.unlink(path)


@context
def all_or_nothing(openclaw: OpenClaw, values: list[str]) -> Iterator[None]:
    """Let OpenClaw change openclaw.json. Where that fails, the file is as it was; raises AvaultError."""
    config = openclaw.config_path
    before = read_file(config, 16 << 20) if os.path.exists(config) else None
    try:
        yield
    except BaseException as error:
        if before is not None and read_file(config, 16 << 20) != before:
            write_file(config, before)
        if isinstance(error, AvaultError):
            fail(error, values)
        raise
    finally:
        openclaw.forget()


def fail(error: AvaultError, values: list[str]) -> NoReturn:
    """Say that nothing was changed; in OpenClaw's own words only where no part of a value can be in them."""
    parts = [
        value[start : start + 6] for value in values for start in range(max(1, len(value) - 5))
    ]
    said, _, more = error.message.partition(" failed: ")
    message = f"{said} failed" if any(part in more for part in parts) else error.message
    raise AvaultError(
        f"{message}; openclaw.json is as it was, and the vault has the values", error.hint
    ) from None


def old_copies(config: str, values: list[str]) -> list[str]:
    """The copies of openclaw.json that OpenClaw keeps beside it, where they hold one of these values."""
    directory, name = os.path.split(config)
    found = []
    for each in sorted(os.listdir(directory)):
        path = os.path.join(directory, each)
        if each.startswith(name + ".") and os.path.isfile(path) and not os.path.islink(path):
            text = read_file(path, 16 << 20).decode("utf-8", "replace")
            if any(value in text or json.dumps(value)[1:-1] in text for value in values):
                found.append(path)
    return found
