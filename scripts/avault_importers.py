"""What other programs and password managers keep credentials in, as secrets: for `avault import`.

Each reader takes a text and gives entries, the names and values of one login, and the lines that it leaves. An entry
becomes a group. What cannot be read is refused by its line, never by what it says; so is what is encrypted.

    entries     what a login becomes
    files       AWS credentials, netrc, pgpass, npmrc
    kubernetes  a Secret, as kubectl prints it
    managers    the CSV of 1Password, Bitwarden, KeePass and browsers; Bitwarden's JSON
    encrypted   what nobody can read as it is
    forms       which of them a file is
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from avault_dotenv import FOREIGN, REFERS, Assignment, check_kept

from avault import KEY_CHARACTERS, Fields, Usage, field, regex

# --------------------------------------------------------------- entries ----

Secrets = dict[tuple[str, str], str]  # the value of a group's key
SETTING = "it is a setting, not a secret"
NOTHING = "it has no value"
BINARY = "it is binary"


class Entry(Fields):
    """A login: what the file calls it, '' for the one that has no name of its own, and its values by key."""

    name: str
    values: dict[str, str] = field(repr=False)


class Found(Fields):
    """What a file has: entries, lines that are left, and the problems of those that cannot be read."""

    entries: list[Entry] = field(default_factory=list)
    left: list[Assignment] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(self, name: str, values: dict[str, str], line: int = 0) -> None:
        """Take an entry's values, but those that are empty; one that has none is left."""
        values = {key: value for key, value in values.items() if value}
        if values:
            self.entries.append(Entry(name, values))
        else:
            self.leave(line, name, NOTHING)

    def leave(self, line: int, name: str, problem: str) -> None:
        """Leave something, by its name."""
        self.left.append(Assignment(line, line, name if name.isprintable() else "", None, problem))


def as_group(name: str) -> str:
    """A group's name, of what a file calls something."""
    return re.sub("[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:60] or "unnamed"


def as_key(name: str) -> str:
    """A key's name, of what a file calls something: as it is where it can be."""
    if name and not set(name) - KEY_CHARACTERS and not name[0].isdigit():
        return name[:128]
    key = re.sub("[^A-Z0-9]+", "_", name.upper()).strip("_")[:100] or "VALUE"
    return f"_{key}" if key[0].isdigit() else key


def place(found: Found, group: str | None, base: str | None) -> Secrets:
    """Secrets by group and key; raises Usage that names all that cannot be kept.

    A group for each entry: its name; or, with a `group` or a `base` for the format, that alone for the only entry and for
    the one without a name, and GROUP-NAME for others. Two of one name are told apart by a number.
    """
    first, bad = group or base, list(found.bad)
    secrets: Secrets = {}
    groups: dict[str, dict[str, str]] = {}
    for entry in found.entries:
        is_only = group is not None and len(found.entries) == 1
        name = first if first and (is_only or not entry.name) else as_group(f"{first}-{entry.name}" if base else entry.name)
        if group and not base and not is_only:
            name = f"{group}-{name}"[:64]
        elif group and base and name != first:
            name = f"{group}-{as_group(entry.name)}"[:64]
        number, wanted = 1, name
        while wanted in groups and groups[wanted] != entry.values:
            number += 1
            wanted = f"{name[:60]}-{number}"
        groups[wanted] = entry.values
        for key, value in entry.values.items():
            try:
                secrets[wanted, key] = check_kept(value, f"{wanted}/{key}")
            except Usage as error:
                bad.append(error.message)
    if bad:
        more = f"; and {len(bad) - 20:,} more" if len(bad) > 20 else ""
        raise Usage("; ".join(bad[:20]) + more, "mend the file, or take these out; nothing is done")
    return secrets


# ----------------------------------------------------------------- files ----


def lines_of(text: str) -> list[str]:
    """The lines of a text, whatever ends them."""
    return re.split("\r\n|\n|\r", text)


def settings(text: str, comments: str) -> Iterator[tuple[int, str, str | None, str]]:
    """The lines of an INI file: number, section, name (None for a line that is none), value."""
    section = ""
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip() or line.lstrip()[0] in comments:
            continue
        if header := re.fullmatch(r"\s*\[\s*([^\]]+?)\s*\]\s*", line):
            section = header[1]
            continue
        name, equals, value = line.partition("=")
        yield number, section, name.strip() if equals and name.strip() else None, value.strip()


def read_aws(text: str) -> Found:
    """~/.aws/credentials: a group for each profile, with the names that the AWS tools take from the environment."""
    found, profiles = Found(), dict[str, dict[str, str]]()
    for number, section, name, value in settings(text, "#;"):
        profile = section.removeprefix("profile ").strip()
        if name is None or not section:
            found.bad.append(f"line {number}: not a setting of a profile")
        elif not name.lower().startswith("aws_"):
            found.leave(number, name if re.fullmatch("[a-z_]+", name) else "", SETTING)
        else:
            profiles.setdefault(profile, {})[as_key(name.upper())] = value
    for profile, values in profiles.items():
        found.add("" if profile == "default" else profile, values)
    return found


def read_netrc(text: str) -> Found:
    """~/.netrc, as netrc(5) and curl read it: a group for each machine."""
    found = Found()
    text = re.sub(r"(?ms)^[ \t]*macdef\b.*?(\n[ \t]*\n|\Z)", "\n", text)
    text = re.sub(r"(?m)^[ \t]*#.*", "", text)
    words = [
        re.sub(r"\\(.)", r"\1", quoted) if plain == "" else plain
        for quoted, plain in re.findall(r'"((?:\\.|[^"\\])*)"|(\S+)', text)
    ]
    machine, values, has_begun = "", dict[str, str](), False
    rest = iter(words)
    for word in rest:
        if word in ("machine", "default"):
            if has_begun:
                found.add(machine, values)
            machine, values, has_begun = next(rest, "") if word == "machine" else "default", {}, True
        elif has_begun and word in ("login", "user", "password", "account"):
            values["LOGIN" if word == "user" else word.upper()] = next(rest, "")
        else:
            found.bad.append("a word that is no netrc" + (f", after machine {machine}" if as_group(machine) == machine else ""))
            break
    if has_begun:
        found.add(machine, values)
    return found


def read_pgpass(text: str) -> Found:
    r"""~/.pgpass: host:port:database:user:password, with \: and \\ (libpq-pgpass); a group for each, with libpq's names."""
    found = Found()
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip() or line[0] == "#":
            continue
        fields = [re.sub(r"\\(.)", r"\1", each) for each in re.findall(r"((?:\\.|[^:\\])*)(?::|\Z)", line)]
        if len(fields) < 5 or any(fields[5:]):
            found.bad.append(f"line {number}: not host:port:database:user:password")
            continue
        names = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD")
        values = {name: value for name, value in zip(names, fields, strict=False) if value != "*" or name == "PGPASSWORD"}
        name = "-".join(values[each] for each in ("PGHOST", "PGDATABASE") if values.get(each))
        found.add(name or "postgres", values, number)
    return found


NPM = {"_authToken": "NPM_TOKEN", "_auth": "NPM_AUTH", "_password": "NPM_PASSWORD", "username": "NPM_USERNAME"}


def read_npmrc(text: str) -> Found:
    """~/.npmrc: a group for each registry, with what npm logs in with; its other settings stay."""
    found, registries = Found(), dict[str, dict[str, str]]()
    for number, _, name, value in settings(text, "#;"):
        registry, _, last = (name or "").rpartition(":")
        if name is None or last not in NPM:
            is_plain = name is not None and re.fullmatch("[A-Za-z@:_-]+", name)
            found.leave(number, str(name) if is_plain else "", SETTING)
        elif re.search(r"\$\{[^}]*\}", value):
            found.leave(number, last, REFERS)
        else:
            quoted = value[:1] == value[-1:] == '"' and len(value) > 1
            registries.setdefault(registry.strip("/") or "npm", {})[NPM[last]] = value[1:-1] if quoted else value
    for registry, values in registries.items():
        found.add(registry, values)
    return found


# ------------------------------------------------------------ kubernetes ----

YAML_KEY = regex(r"""("(?:\\.|[^"\\])*"|'(?:''|[^'])*'|[A-Za-z0-9_./][^\s:#]*)[ \t]*:(?:[ \t]+(.*)|)""")


class Manifest:
    """The YAML that kubectl and people write for a Secret: mappings, lists, scalars of one line, blocks. Else Usage."""

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines, self.at = lines, 0

    def refuse(self) -> Usage:
        """The error for a line that is more than this."""
        number = self.lines[min(self.at, len(self.lines) - 1)][0]
        return Usage(f"line {number}: more YAML than avault reads", "kubectl get secret NAME -o json | avault import -")

    def peek(self) -> tuple[int, str] | None:
        """The indent and the content of the next line that has one."""
        while self.at < len(self.lines):
            line = self.lines[self.at][1]
            content = line.lstrip(" ")
            if content.strip() and content[0] != "#":
                return len(line) - len(content), content.rstrip()
            self.at += 1
        return None

    def read(self) -> Any:
        """The whole document."""
        line = self.peek()
        found = self.node(line[0]) if line else None
        if self.peek():
            raise self.refuse()
        return found

    def node(self, indent: int) -> Any:
        """The list or mapping that begins at this line."""
        line = self.peek()
        return self.list(indent) if line and re.match(r"-( |$)", line[1]) else self.mapping(indent)

    def list(self, indent: int) -> list[Any]:
        """The items of a list."""
        found = []
        while (line := self.peek()) and line[0] == indent and re.match(r"-( |$)", line[1]):
            content = line[1][1:].lstrip(" ")
            inner = indent + len(line[1]) - len(content)
            if YAML_KEY.fullmatch(content):
                self.lines[self.at] = (self.lines[self.at][0], " " * inner + content)
                found.append(self.mapping(inner))
            else:
                self.at += 1
                found.append(self.value(content, indent))
        return found

    def mapping(self, indent: int) -> dict[str, Any]:
        """The values of a mapping."""
        found: dict[str, Any] = {}
        while (line := self.peek()) and line[0] == indent:
            match = YAML_KEY.fullmatch(line[1])
            if not match:
                raise self.refuse()
            key = str(self.scalar(match[1]))
            if key in found:
                raise self.refuse()
            self.at += 1
            found[key] = self.value(match[2] or "", indent)
        return found

    def value(self, text: str, indent: int) -> Any:
        """What stands after a name, or in the lines below it."""
        if not text or text[0] == "#":
            line = self.peek()
            is_list = line is not None and line[0] == indent and re.match(r"-( |$)", line[1])
            return self.node(line[0]) if line and (line[0] > indent or is_list) else None
        return self.block(text, indent) if text[0] in "|>" else self.scalar(text)

    def scalar(self, text: str) -> Any:
        """A scalar of one line, as text; but null, {} and []."""
        if quoted := re.fullmatch(r"""("(?:\\.|[^"\\])*")(?:[ \t]+#.*)?""", text):
            try:
                return json.loads(quoted[1])
            except ValueError:
                raise self.refuse() from None
        if quoted := re.fullmatch(r"""'((?:''|[^'])*)'(?:[ \t]+#.*)?""", text):
            return quoted[1].replace("''", "'")
        plain = re.sub(r"[ \t]+#.*", "", text)
        if plain in ("{}", "[]", "null", "~"):
            return {"{}": {}, "[]": []}.get(plain)
        if re.match(r"[&*!%@`{\[\]},'\"|>]|[-?:] ", plain) or re.search(r":( |$)", plain):
            raise self.refuse()
        return plain

    def block(self, header: str, indent: int) -> str:
        """The lines of a literal block."""
        match = re.fullmatch(r"\|([-+]?)(?:[ \t]+#.*)?", header)
        first = self.peek()
        if not match or not first or first[0] <= indent:
            raise self.refuse()
        rows: list[str] = []
        for _, line in self.lines[self.at :]:
            if line.strip() and not line.startswith(" " * first[0]):
                break
            rows.append(line[first[0] :])
        self.at += len(rows)
        text = "\n".join(rows)
        return text + "\n" if match[1] == "+" else text.rstrip("\n") + ("" if match[1] == "-" else "\n")


def load_manifests(text: str) -> list[Any]:
    """The documents of a manifest, JSON or YAML; raises Usage."""
    if text.lstrip()[:1] == "{":
        try:
            return [json.loads(text)]
        except (ValueError, RecursionError):
            raise Usage("it is no JSON", "kubectl get secret NAME -o json | avault import -") from None
    documents: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if re.match(r"(---|\.\.\.)(\s|$)", line):
            documents.append([])
        else:
            documents[-1].append((number, line))
    return [made for lines in documents if lines and (made := Manifest(lines).read()) is not None]


def read_kubernetes(text: str) -> Found:
    """Secrets of Kubernetes: a group for each, called as the Secret is. A key such as tls.crt becomes TLS_CRT."""
    found = Found()
    for document in load_manifests(text):
        items = document.get("items") if isinstance(document, dict) and str(document.get("kind")).endswith("List") else [document]
        for item in items or []:
            read_secret(item, found)
    return found


def read_secret(item: Any, found: Found) -> None:
    """Take the values of one manifest, if it is a Secret."""
    kind = item.get("kind") if isinstance(item, dict) else None
    about = item.get("metadata") if isinstance(item, dict) else None
    name = about["name"] if isinstance(about, dict) and isinstance(about.get("name"), str) else "secret"
    if kind == "SealedSecret":
        raise Usage("a SealedSecret is encrypted for its cluster", "kubectl get secret NAME -o json | avault import -")
    if kind != "Secret":
        found.leave(0, name if re.fullmatch("[a-z0-9.-]+", name) else "", "it is not a Secret")
        return
    values: dict[str, str] = {}
    for part in ("data", "stringData"):
        given_values = item.get(part) or {}
        if not isinstance(given_values, dict):
            found.bad.append(f"{part} is no mapping")
            continue
        for key, given in given_values.items():
            try:
                value = base64.b64decode(str(given or ""), validate=True).decode() if part == "data" else str(given or "")
            except (binascii.Error, UnicodeDecodeError) as error:
                if isinstance(error, UnicodeDecodeError):
                    found.leave(0, f"{name}/{as_key(key)}", BINARY)
                else:
                    found.bad.append(f"{name}/{as_key(key)}: not base64")
                continue
            if as_key(key) in values and part == "data":
                found.bad.append(f"{name}/{as_key(key)}: two keys of that name")
            values[as_key(key)] = value
    found.add(name, values)


# -------------------------------------------------------------- managers ----

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
    found = {kind: next((names.index(each) for each in known if each in names), -1) for kind, known in COLUMNS.items()}
    is_known = found["PASSWORD"] >= 0 and (found["title"] >= 0 or found["url"] >= 0)
    return {kind: index for kind, index in found.items() if index >= 0} if is_known else {}


def read_csv(text: str) -> Found:
    """The CSV of a password manager or a browser: a group for each row; user name, password, seed, notes and custom fields."""
    csv.field_size_limit(1 << 20)
    found, rows = Found(), csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: dict[str, int] = {}
    try:
        columns = find_columns(next(rows, []))
        if not columns:
            raise Usage("the first line names no column password", "export it as CSV with a header, or as KEY=value lines")
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
    is_theirs = isinstance(items, list) and all(isinstance(each, dict) and {"name", "type"} <= each.keys() for each in items)
    return items if isinstance(items, list) and is_theirs else []


def read_bitwarden(text: str) -> Found:
    """Bitwarden's JSON, an export or what `bw list items` prints: a group for each item."""
    try:
        found, items = Found(), find_items(json.loads(text))
    except (ValueError, RecursionError):
        raise Usage("it is no JSON", "bw export --format json --raw | avault import -") from None
    for number, item in enumerate(items, 1):
        parts = [part for name in ("login", "card", "identity", "sshKey") if isinstance(part := item.get(name), dict)]
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


# ------------------------------------------------------------- encrypted ----

ENCRYPTED: tuple[tuple[bytes, str, str], ...] = (  # how it begins, what it is, what makes it readable
    (b"\x03\xd9\xa2\x9a", "a KeePass database is encrypted", "keepassxc-cli export --format csv FILE | avault import -"),
    (b"PK\x03\x04", "a zip archive, such as 1Password's .1pux, is not read", "export it as CSV"),
    (b"age-encryption.org/", "age has encrypted it", "age --decrypt FILE | avault import -"),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", "age has encrypted it", "age --decrypt FILE | avault import -"),
    (b"-----BEGIN PGP MESSAGE-----", "GnuPG has encrypted it", "gpg --decrypt FILE | avault import -"),
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
        raise Usage("it is an encrypted export, as Bitwarden makes them", "bw export --format json --raw | avault import -")
    if re.search(rb'"encryptedPassword"\s*:', data):
        raise Usage("Firefox has encrypted it", "export the passwords as CSV, in about:logins")
    if re.search(rb"(?m)^sops:", data):
        raise Usage(*FOREIGN["ENC["])


# ----------------------------------------------------------------- forms ----

READERS: dict[str, Callable[[str], Found]] = {
    "aws": read_aws, "netrc": read_netrc, "pgpass": read_pgpass, "npmrc": read_npmrc, "k8s": read_kubernetes, "csv": read_csv,
    "bitwarden": read_bitwarden,
}  # fmt: skip
FORMS = ("dotenv", "json", *READERS)
OF_NAMES = {"netrc": "netrc", "pgpass": "pgpass", "npmrc": "npmrc", "csv": "csv", "env": "dotenv"}


def form_of(file: str, text: str) -> str:
    """Which of FORMS a file is, by its name and by what is in it; raises Usage for what is known, and not read."""
    start = text.lstrip("\ufeff \t\r\n")
    name = os.path.basename(file).lower().lstrip("._").removesuffix(".conf")
    if start[:1] == "{" or re.match(r"\[\s*([\[{\"\]0-9]|\Z)", start):
        return form_of_json(start)
    if known := OF_NAMES.get(name) or OF_NAMES.get(name.rpartition(".")[2]):
        return known
    if re.search(r"(?m)^kind:[ \t]*[\"']?(Secret|SealedSecret|List|SecretList)[\"']?[ \t]*\r?$", text):
        return "k8s"
    if re.match(r"(?:[#;].*\n\s*)*\[[^\]\n]+\][ \t]*\r?(\n|\Z)", start):
        if re.search(r"(?mi)^\s*aws_(access_key_id|secret_access_key|session_token)\s*=", text):
            return "aws"
        raise Usage("it is an INI file, of a kind that avault does not know", "write KEY=value lines, or: avault set GROUP/KEY")
    if re.match(r"(?:#.*\n\s*)*(machine[ \t]+\S+|default)\s+(login|password|account|user)\s", start):
        return "netrc"
    if re.search(r"(?m)^[ \t]*//[^\s=]+:_(authToken|auth|password)[ \t]*=", text):
        return "npmrc"
    header = start.partition("\n")[0].rstrip("\r")
    if "," in header and "=" not in header and find_columns(next(csv.reader([header]), [])):
        return "csv"
    is_yaml = re.match(r"(?:(?:#.*|---[ \t]*)\r?\n\s*)*[\"']?[A-Za-z_][\w.-]*[\"']?:(?:[ \t]|\r?\n|\Z)", start)
    if name.endswith((".yaml", ".yml")) or (is_yaml and "=" not in start.partition(":")[0]):
        raise Usage("it is YAML, and no Secret of Kubernetes", "as JSON it can be read: yq -o json FILE | avault import -")
    return "dotenv"


def form_of_json(text: str) -> str:
    """Which of FORMS a JSON text is."""
    if not re.search(r'"(items|login|kind)"\s*:', text):
        return "json"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return "json"  # which says what is wrong
    if isinstance(content, dict) and str(content.get("kind")) in ("Secret", "SealedSecret", "List", "SecretList"):
        return "k8s"
    return "bitwarden" if find_items(content) else "json"
