"""From references back to credentials in clear.

The stores of auth profiles come first, each in one transaction; openclaw.json is last, in one write
of OpenClaw's own, which takes the provider out too. Whatever ends that halfway, a reference that is
left still has its provider.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound
from avault.openclaw.plan import PROVIDER, all_or_nothing
from avault.openclaw.program import OpenClaw, reach
from avault.openclaw.stores import change_store, open_sqlite, read_store
from avault.openclaw.variables import Moved, Reference, is_wrapped, put_at, tell_moved
from avault.places import Places
from avault.terminal.talk import confirm, put, say, warn
from avault.terminal.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def find_own_references(
    content: Any, file: str, default: object, segments: tuple[str, ...] = ()
) -> Iterator[Reference]:
    """The references to our provider in there.

    `default` is the provider of those that name none.
    """
    if isinstance(content, dict):
        if (
            content.get("source") == "exec"
            and content.get("provider", default) == PROVIDER
            and "id" in content
        ):
            yield Reference(file, list(segments), str(content["id"]))
            return
        content = content.items()
    elif isinstance(content, list):
        content = ((str(index), each) for index, each in enumerate(content))
    else:
        return
    for name, each in content:
        yield from find_own_references(each, file, default, (*segments, name))


def is_in_list(content: Any, segments: list[str]) -> bool:
    """Whether the way to a reference leads through a list.

    A patch can only replace that as a whole.
    """
    return any(
        isinstance(reach(content, segments[:length]), list) for length in range(len(segments))
    )


def look_back(
    openclaw: OpenClaw, places: Places, moved: Moved
) -> tuple[list[Reference], dict[str, str]]:
    """All that can become values again, references into the vault and moved variables.

    Gives also what stays, with the reason.
    """
    default = openclaw.value("secrets", "defaults", "exec")
    here = list(find_own_references(openclaw.config, openclaw.config_path, default))
    found = [each for each in here if not is_in_list(openclaw.config, each.segments)]
    left = {
        str(each): "it stands in a list, where avault puts none: write it by hand"
        for each in here
        if each not in found
    }
    if "$include" in json.dumps(openclaw.config):
        left["secrets.providers." + PROVIDER] = (
            "openclaw.json includes other files, which may have references to it"
        )
    for file in openclaw.ask("secrets", "audit", codes=(0, 1, 2))["filesScanned"]:
        if str(file).endswith(".sqlite"):
            with open_sqlite(file) as db:
                profiles = read_store(db)[0]["profiles"]
            found += find_own_references(profiles, file, default, ("profiles",))
    for each in moved.variables:
        variable = Reference(openclaw.config_path, list(each["path"]), str(each["id"]))
        server = variable.server()
        if openclaw.value(*variable.segments) is not None:
            left[str(variable)] = "it was set anew since"
        elif server and not is_wrapped(places, openclaw.value("mcp", "servers", server)):
            left[str(variable)] = "its server does not run under avault run any more"
        else:
            found.append(variable)
    return found, left


def write_profiles(file: str, found: list[Reference], values: dict[str, str]) -> None:
    """Put values into a store of auth profiles, in place of `keyRef` or `tokenRef`.

    Raises AvaultError.
    """

    def change(store: dict[str, Any]) -> None:
        for each in found:
            profile = reach(store, each.segments[:-1])
            if isinstance(profile, dict) and profile.pop(each.segments[-1], None):
                profile[each.segments[-1].removesuffix("Ref")] = values[each.id]

    change_store(file, change)


def put_profile(file: str, name: str, profile: dict[str, Any]) -> None:
    """Put an auth profile back into a store; raises AvaultError."""
    change_store(file, lambda store: store["profiles"].update({name: profile}))


def make_patch(
    openclaw: OpenClaw,
    found: list[Reference],
    values: dict[str, str],
    with_provider: bool,
    moved: Moved,
) -> dict[str, Any]:
    """The patch for `openclaw config patch`.

    Values for references, servers as they ran before, and null for what goes.
    """
    patch: dict[str, Any] = {}
    for name in dict.fromkeys(each.server() for each in found):
        if name in moved.servers:
            put_at(patch, ["mcp", "servers", name], dict(moved.servers[name]))
    for each in found:
        put_at(patch, each.segments, values[each.id])
    for name, profile in moved.profiles_of(found).items():
        provider = str(profile["entry"]["provider"])
        put_at(patch, ["models", "providers", provider, "apiKey"], profile["was"])
        put_at(patch, ["auth", "profiles", name], profile["setting"])
        if profile["order"] is not None:
            put_at(patch, ["auth", "order", provider], profile["order"])
    secrets = openclaw.value("secrets")
    if with_provider and isinstance(secrets, dict):
        gone: dict[str, Any] = {}
        for name, key in (("providers", PROVIDER), ("defaults", "exec")):
            part = secrets.get(name)
            if (
                isinstance(part, dict)
                and key in part
                and (name == "providers" or part[key] == PROVIDER)
            ):
                gone[name] = None if len(part) == 1 else {key: None}
        if gone:
            patch["secrets"] = (
                None if gone == dict.fromkeys(secrets) else {**patch.get("secrets", {}), **gone}
            )
    return patch


def undo_plan(terminal: Terminal, dry_run: bool, yes: bool) -> int:
    """`avault openclaw plan --undo`."""
    terminal.ask("list")  # a locked vault says so now
    openclaw = OpenClaw()
    moved = Moved(terminal.places)
    found, left = look_back(openclaw, terminal.places, moved)
    has_provider = openclaw.value("secrets", "providers", PROVIDER) is not None
    files = sorted({each.file for each in found})
    lines = [f"{each.id} -> {each}" for each in found]
    apply = not dry_run and bool(found or (has_provider and not left))
    if apply:
        warn(
            f"{len(found)} values will stand IN CLEAR on the disk again, "
            f"in: {', '.join(files) or 'no file'}"
        )
        if not yes and not confirm("avault: take OpenClaw's references into the vault back?"):
            raise Denied(
                "nothing was changed",
                "avault openclaw plan --undo --yes; to look first: --undo --dry-run",
            )
        put_back(terminal, openclaw, found, with_provider=not left, moved=moved)
    gone = apply and has_provider and not left
    if terminal.want_json:
        restored = [{"file": each.file, "path": str(each), "id": each.id} for each in found]
        reasons = [{"path": path, "reason": reason} for path, reason in left.items()]
        put(
            json.dumps(
                {
                    "ok": True,
                    "restored": restored,
                    "left": reasons,
                    "applied": apply,
                    "provider": gone,
                },
                indent=2,
            )
            + "\n"
        )
    elif dry_run:
        put("".join(f"{line}\n" for line in lines))
    tell_moved(lines if apply else [], left, "" if found or gone else "nothing to do")
    if gone:
        say(
            "openclaw.json has no avault any more; the vault still has the secrets. "
            "The hook goes by: avault openclaw uninstall"
        )
    return 0


def put_back(
    terminal: Terminal,
    openclaw: OpenClaw,
    found: list[Reference],
    with_provider: bool,
    moved: Moved,
) -> None:
    """Write the vault's values where the references stand.

    Raises NotFound, before any write, for what the vault has not.
    """
    names = sorted({each.id for each in found})
    rows = (
        terminal.ask("reveal", groups=[], only=names, **{"for": "openclaw"})["secrets"]
        if names
        else []
    )
    values = {f"{row['group']}/{row['key']}": str(row["value"]) for row in rows}
    if missing := [name for name in names if name not in values]:
        raise NotFound(
            f"not in the vault: {', '.join(missing)}",
            "nothing was changed; see: avault list --names",
        )
    config = openclaw.config_path
    for file in sorted({each.file for each in found} - {config}):
        write_profiles(file, [each for each in found if each.file == file], values)
    for name, profile in moved.profiles_of(found).items():
        put_profile(
            profile["file"], name, {**profile["entry"], profile["kind"]: values[profile["id"]]}
        )
    if patch := make_patch(
        openclaw, [each for each in found if each.file == config], values, with_provider, moved
    ):
        with all_or_nothing(openclaw, list(values.values())):
            openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))
    moved.forget(found)
