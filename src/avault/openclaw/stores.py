"""OpenClaw's SQLite stores, in which auth profiles are kept."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


# Where an SQLite store of OpenClaw's has auth profiles: table, column, time, row. First the one
# that all agents share.
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
            select = f"SELECT {column} FROM {table} WHERE {row}"  # noqa: S608
            if found := db.execute(select).fetchone():
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
