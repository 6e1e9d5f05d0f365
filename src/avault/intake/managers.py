"""The CSV of 1Password, Bitwarden, KeePass and browsers; Bitwarden's JSON; what is encrypted."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.intake.dotenv import FOREIGN
from avault.intake.logins import FileSecrets, as_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


COLUMNS = {  # what a column becomes: what those who write CSV call it
    "title": ("title", "name", "account", "item name"),
    "url": ("url", "login_uri", "website", "web site", "urls"),
    "USERNAME": ("username", "login_username", "login name", "user name", "login"),
    "PASSWORD": ("password", "login_password"),
    "TOTP": ("totp", "otpauth", "login_totp", "otp", "one-time password"),
    "NOTES": ("notes", "note", "comments", "extra"),
    "fields": ("fields",),
}


def find_columns(header: Iterable[str]) -> dict[str, int]:
    """Where each of COLUMNS is in a header; {} for one that no password manager wrote."""
    names = [name.strip().lower() for name in header]
    found = {
        kind: next((names.index(each) for each in known if each in names), -1)
        for kind, known in COLUMNS.items()
    }
    is_known = found["PASSWORD"] >= 0 and (found["title"] >= 0 or found["url"] >= 0)
    return {kind: index for kind, index in found.items() if index >= 0} if is_known else {}


def read_csv(text: str) -> FileSecrets:
    """The CSV of a password manager or a browser: a group for each row.

    It has user name, password, seed, notes and custom fields.
    """
    csv.field_size_limit(1 << 20)
    found, rows = FileSecrets(), csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: dict[str, int] = {}
    try:
        columns = find_columns(next(rows, []))
        if not columns:
            raise Usage(
                "the first line names no column password",
                "export it as CSV with a header, or as KEY=value lines",
            )
        for row in rows:
            cells = {kind: row[index] for kind, index in columns.items() if index < len(row)}
            if not any(cells.values()):
                continue
            values = {key: cells.get(key, "") for key in ("USERNAME", "PASSWORD", "TOTP", "NOTES")}
            for line in cells.get("fields", "").splitlines():
                name, _, value = line.partition(": ")
                values.setdefault(as_key(name.strip()), value)
            host = re.sub(r"^[a-z]+://|[/:?#].*", "", cells.get("url", ""))
            found.add(cells.get("title") or host, values, rows.line_num)
    except csv.Error:
        found.bad.append(f"line {rows.line_num}: not CSV")
    return found


def find_items(content: Any) -> list[dict[str, Any]]:
    """The items of Bitwarden's JSON; none in another."""
    items = content.get("items") if isinstance(content, dict) else content
    is_theirs = isinstance(items, list) and all(
        isinstance(each, dict) and {"name", "type"} <= each.keys() for each in items
    )
    return items if isinstance(items, list) and is_theirs else []


def read_bitwarden(text: str) -> FileSecrets:
    """Bitwarden's JSON, an export or what `bw list items` prints: a group for each item."""
    try:
        found, items = FileSecrets(), find_items(json.loads(text))
    except (ValueError, RecursionError):
        raise Usage("it is no JSON", "bw export --format json --raw | avault import -") from None
    for number, item in enumerate(items, 1):
        parts = [
            part
            for name in ("login", "card", "identity", "sshKey")
            if isinstance(part := item.get(name), dict)
        ]
        values = {
            as_key(re.sub("(?<=[a-z])(?=[A-Z])", "_", name).upper()): value
            for part in parts
            for name, value in part.items()
            if isinstance(value, str) and not name.endswith("Date")
        }
        values["NOTES"] = str(item.get("notes") or "")
        for each in item.get("fields") or []:
            if isinstance(each, dict) and isinstance(each.get("value"), str):
                values.setdefault(as_key(str(each.get("name"))), each["value"])
        found.add(str(item.get("name") or f"item-{number}"), values)
    return found


# how it begins, what it is, what makes it readable
ENCRYPTED: tuple[tuple[bytes, str, str], ...] = (
    (
        b"\x03\xd9\xa2\x9a",
        "a KeePass database is encrypted",
        "keepassxc-cli export --format csv FILE | avault import -",
    ),
    (b"PK\x03\x04", "a zip archive, such as 1Password's .1pux, is not read", "export it as CSV"),
    (b"age-encryption.org/", "age has encrypted it", "age --decrypt FILE | avault import -"),
    (
        b"-----BEGIN AGE ENCRYPTED FILE-----",
        "age has encrypted it",
        "age --decrypt FILE | avault import -",
    ),
    (
        b"-----BEGIN PGP MESSAGE-----",
        "GnuPG has encrypted it",
        "gpg --decrypt FILE | avault import -",
    ),
    (b"Salted__", "openssl has encrypted it", "openssl enc -d … | avault import -"),
    (b"$ANSIBLE_VAULT;", *FOREIGN["$ANSIBLE_VAULT;"]),
)


def refuse_encrypted(data: bytes) -> None:
    """Raises Usage for an export or a file that nobody can read as it is."""
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    for beginning, said, hint in ENCRYPTED:
        if start.startswith(beginning):
            raise Usage(said, hint)
    if start[:1] != b"{" and not re.search(rb"(?m)^sops:", data):
        return
    if re.search(rb'"(encrypted|passwordProtected)"\s*:\s*true', data):
        raise Usage(
            "it is an encrypted export, as Bitwarden makes them",
            "bw export --format json --raw | avault import -",
        )
    if re.search(rb'"encryptedPassword"\s*:', data):
        raise Usage("Firefox has encrypted it", "export the passwords as CSV, in about:logins")
    if re.search(rb"(?m)^sops:", data):
        raise Usage(*FOREIGN["ENC["])
