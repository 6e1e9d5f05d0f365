"""What a plan leaves behind: in SQLite's free pages, and in settings that nothing uses any more.

SQLite leaves what was overwritten in the pages that it keeps for later. And an auth profile whose
key is gone still has settings in openclaw.json, which OpenClaw's doctor then calls incomplete.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.openclaw.findings import Findings
from avault.openclaw.plan import all_or_nothing
from avault.openclaw.program import OpenClaw, reach
from avault.openclaw.stores import change_store, open_sqlite, read_store
from avault.openclaw.variables import Moved, put_at
from avault.places import Places
from avault.terminal.talk import say, warn

if TYPE_CHECKING:
    from typing import Any


def holds(file: str, values: list[str]) -> bool:
    """Whether a database, or its journal, has one of these values somewhere in its bytes."""
    for path in (file, f"{file}-wal", f"{file}-journal"):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as opened:
            data = opened.read()
            if any(
                form.encode() in data
                for value in values
                for form in (value, json.dumps(value)[1:-1])
            ):
                return True
    return False


def clean_store(file: str) -> None:
    """Write a database anew, without what was deleted (VACUUM, sqlite.org/lang_vacuum.html).

    Raises AvaultError.
    """
    try:
        with open_sqlite(file, "rw") as db:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise AvaultError(
            f"{file} cannot be written anew: {error}", "stop the gateway, and try again"
        ) from None


def tidy_profiles(openclaw: OpenClaw, places: Places, found: Findings) -> None:
    """Take the settings of auth profiles that OpenClaw has scrubbed out of openclaw.json.

    They are remembered for --undo.
    """
    moved = Moved(places)
    patch: dict[str, Any] = {}
    ids = {target.plan["path"]: "/".join(target.name) for target in found.targets}
    for name, profile in found.profiles.items():
        with open_sqlite(profile["file"]) as db:
            if reach(read_store(db)[0], ["profiles", name, profile["kind"]]) is not None:
                continue

        def forget(store: dict[str, Any], name: str = name) -> None:
            store["profiles"].pop(name, None)

        change_store(profile["file"], forget)
        provider = str(profile["entry"]["provider"])
        order = openclaw.value("auth", "order", provider)
        setting = openclaw.value("auth", "profiles", name)
        moved.profiles[name] = {
            **profile, "id": ids[f"models.providers.{provider}.apiKey"],
            "setting": setting, "order": order,
        }  # fmt: skip
        if setting is not None:
            put_at(patch, ["auth", "profiles", name], None)
        if isinstance(order, list) and name in order:
            put_at(
                patch, ["auth", "order", provider], [each for each in order if each != name] or None
            )
    moved.save()
    if patch:
        with all_or_nothing(openclaw, []):
            openclaw.run("config", "patch", "--stdin", stdin=json.dumps(patch))


def clean_stores(files: list[str], values: list[str]) -> None:
    """Take values that a plan has moved out of the free pages of these databases too.

    Warn of those that stay.
    """
    for file in files:
        if not values or not holds(file, values):
            continue
        try:
            clean_store(file)
        except AvaultError as error:
            warn(
                f"values that were moved still stand in clear in {file}: {error.message}",
                error.hint,
            )
            continue
        if holds(file, values):
            hint = (
                "openclaw secrets audit names what is still stored; "
                "the rest goes with its next write"
            )
            warn(f"values that were moved still stand in clear in {file}", hint)
        else:
            say(f"wrote {file} anew: the values that were moved stood in its free pages")
