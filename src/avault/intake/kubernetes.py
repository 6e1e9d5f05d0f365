"""A Kubernetes Secret, as kubectl prints it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.intake.logins import BINARY, FileSecrets, as_key
from avault.late import regex

if TYPE_CHECKING:
    from typing import Any


YAML_KEY = regex(
    r"""("(?:\\.|[^"\\])*"|'(?:''|[^'])*'|[A-Za-z0-9_./][^\s:#]*)[ \t]*:(?:[ \t]+(.*)|)"""
)


class Manifest:
    """The YAML that kubectl and people write for a Secret.

    Mappings, lists, scalars of one line, blocks; raises Usage for anything else.
    """

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines, self.at = lines, 0

    def refuse(self) -> Usage:
        """The error for a line that is more than this."""
        number = self.lines[min(self.at, len(self.lines) - 1)][0]
        return Usage(
            f"line {number}: more YAML than avault reads",
            "kubectl get secret NAME -o json | avault import -",
        )

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
        plain = re.sub(r"(?<![ \t])[ \t]+#.*", "", text)
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
        for number in range(self.at, len(self.lines)):
            line = self.lines[number][1]
            if line.strip() and not line.startswith(" " * first[0]):
                break
            rows.append(line[first[0] :])
        self.at += len(rows)
        text = "\n".join(rows)
        return (
            text + "\n"
            if match[1] == "+"
            else text.rstrip("\n") + ("" if match[1] == "-" else "\n")
        )


def load_manifests(text: str) -> list[Any]:
    """The documents of a manifest, JSON or YAML; raises Usage."""
    if text.lstrip()[:1] == "{":
        try:
            return [json.loads(text)]
        except (ValueError, RecursionError):
            raise Usage(
                "it is no JSON", "kubectl get secret NAME -o json | avault import -"
            ) from None
    documents: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if re.match(r"(---|\.\.\.)(\s|$)", line):
            documents.append([])
        else:
            documents[-1].append((number, line))
    return [made for lines in documents if lines and (made := Manifest(lines).read()) is not None]


def read_kubernetes(text: str) -> FileSecrets:
    """Secrets of Kubernetes: a group for each, called as the Secret is.

    A key such as tls.crt becomes TLS_CRT.
    """
    found = FileSecrets()
    for document in load_manifests(text):
        items = (
            document.get("items")
            if isinstance(document, dict) and str(document.get("kind")).endswith("List")
            else [document]
        )
        for item in items or []:
            read_secret(item, found)
    return found


def read_secret(item: Any, found: FileSecrets) -> None:
    """Take the values of one manifest, if it is a Secret."""
    kind = item.get("kind") if isinstance(item, dict) else None
    about = item.get("metadata") if isinstance(item, dict) else None
    name = (
        about["name"]
        if isinstance(about, dict) and isinstance(about.get("name"), str)
        else "secret"
    )
    if kind == "SealedSecret":
        raise Usage(
            "a SealedSecret is encrypted for its cluster",
            "kubectl get secret NAME -o json | avault import -",
        )
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
                value = (
                    base64.b64decode(str(given or ""), validate=True).decode()
                    if part == "data"
                    else str(given or "")
                )
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
