"""From credentials in clear to references.

`openclaw secrets audit` finds what stands in clear, `openclaw secrets apply` replaces it. Between
them avault takes the values into the vault, reads them back, and writes the plan, in which there
are names only.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied
from avault.late import context
from avault.openclaw.findings import Findings, Target, Variable
from avault.openclaw.program import OpenClaw
from avault.places import Places
from avault.terminal.terminal import Terminal
from avault.vault.files import make_private_directory, read_file, write_file
from avault.vault.names import check_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn


PROVIDER = "avault"  # its name in `secrets.providers`


def settle_names(terminal: Terminal, targets: Sequence[Target | Variable]) -> dict[str, list[str]]:
    """Give each target a name that no other value has, here or in the vault.

    Returns what an import of them would do. Raises Denied where both names of a target are taken.
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

    That takes the keys of each provider in the plan out of the auth profiles, unless it is told
    not to.
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
    """Let OpenClaw change openclaw.json; where that fails, the file is as it was.

    Raises AvaultError.
    """
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
    """Raise the error, and say that nothing was changed.

    What OpenClaw said is repeated only where no part of a value can be in it.
    """
    parts = [
        value[start : start + 6] for value in values for start in range(max(1, len(value) - 5))
    ]
    said, _, more = error.message.partition(" failed: ")
    message = f"{said} failed" if any(part in more for part in parts) else error.message
    raise AvaultError(
        f"{message}; openclaw.json is as it was, and the vault has the values", error.hint
    ) from None


def old_copies(config: str, values: list[str]) -> list[str]:
    """The copies of openclaw.json that OpenClaw keeps beside it, where one of the values is."""
    directory, name = os.path.split(config)
    found = []
    for each in sorted(os.listdir(directory)):
        path = os.path.join(directory, each)
        if each.startswith(name + ".") and os.path.isfile(path) and not os.path.islink(path):
            text = read_file(path, 16 << 20).decode("utf-8", "replace")
            if any(value in text or json.dumps(value)[1:-1] in text for value in values):
                found.append(path)
    return found
