"""What the keyholder renders: shell, dotenv, systemd, JSON and others.

Every form is exact: it gives the same bytes back when it is read by the program that it is meant
for.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

from avault.daily import FORMS
from avault.errors import AvaultError, Usage, printable
from avault.vault.choosing import choose_keys
from avault.vault.guards import Guards
from avault.vault.names import DIGITS, LETTERS
from avault.vault.records import Vault
from avault.vault.secret import is_sealed
from avault.vault.signing_keys import describe_signing_key
from avault.vault.times import render_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


# mean themselves in every shell, quoted, split or globbed
PLAIN = LETTERS | DIGITS | set("_./:@%+=,-")
# stay what they are in single quotes that are split, globbed and read again
QUOTABLE = PLAIN | set(' $&;>"`{}!')


def quote_sh(name: str, value: str) -> str:
    """One line that sets and exports a variable in sh, dash, bash, zsh and busybox.

    It survives `eval "$(...)"` and the unquoted `eval $(...)`: no white space but
    single spaces between words, nothing that a shell would expand. What single
    quotes do not keep through that goes through printf in octal, with a period
    at its end because command substitution takes trailing newlines away.
    """
    if set(value) <= QUOTABLE and "  " not in value and value == value.strip(" "):
        return f"export {name}='{value}';\n"
    safe = {ord(c) for c in PLAIN - {"%"}}
    octal = "".join(chr(byte) if byte in safe else f"\\{byte:03o}" for byte in value.encode())
    octal = "\\055" + octal[1:] if octal[0] == "-" else octal
    return f'{name}="`printf \'{octal}.\'`"; export {name}="${{{name}%.}}";\n'


def quote_fish(name: str, value: str) -> str:
    """One line that sets and exports a variable in fish."""
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    for character, escape in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        quoted = quoted.replace(character, f"'{escape}'")
    return f"set -gx {name} '{quoted}';\n"


def quote_dotenv(name: str, value: str) -> str:
    """One dotenv assignment, which sh and systemd's EnvironmentFile= read in the same way."""
    if set(value) <= PLAIN - {"="}:  # zsh expands =ls
        return f"{name}={value}\n"
    # as python-dotenv and npm's dotenv read it too
    if "'" not in value and "\\\\" not in value and value[-1] != "\\":
        return f"{name}='{value}'\n"
    return name + '="' + "".join("\\" + c if c in '\\"$`' else c for c in value) + '"\n'


def quote_systemd(name: str, value: str) -> str:
    """One line of an EnvironmentFile= (systemd.exec(5)).

    Raises AvaultError for control characters.
    """
    codes = [ord(c) for c in value]
    if any(
        (c < 32 and c not in (9, 10)) or c == 127 or c & 0xFFFE == 0xFFFE or 0xFDD0 <= c <= 0xFDEF
        for c in codes
    ):
        raise AvaultError(
            f"systemd takes no control characters in a variable: {name}",
            "leave it out with --only or --group",
        )
    return quote_dotenv(name, value)


def quote_docker(name: str, value: str) -> str:
    """One line of `docker run --env-file`, where all that follows the = is the value, quotes too.

    Raises AvaultError.

    pkg/kvfile of docker/cli: lines of less than 64 KiB, whose last carriage return is lost.
    """
    line = f"{name}={value}\n"
    if set(value) & {"\n", "\r"} or len(line.encode()) >= 1 << 16:
        instead = f"avault run --only {name} -- docker run -e {name} IMAGE"
        hint = f"let docker take it from its environment: {instead}"
        raise AvaultError(
            f"docker reads a variable from one line of less than 64 KiB: {name}", hint
        )
    return line


def quote_github(name: str, value: str) -> str:
    """A variable for the file $GITHUB_ENV of GitHub Actions.

    It stands between two lines that no value can guess.
    """
    end = "end_" + secrets.token_hex(16)
    return f"{name}<<{end}\n{value}\n{end}\n"


QUOTES: dict[str, Callable[[str, str], str]] = {
    "sh": quote_sh,
    "fish": quote_fish,
    "dotenv": quote_dotenv,
    "systemd": quote_systemd,
    "docker": quote_docker,
    "github": quote_github,
}


def render_secret(variables: dict[str, str], group: str | None) -> str:
    """A manifest of a Kubernetes Secret, for `kubectl apply -f -`.

    It is called as the group, or avault.
    """
    import binascii

    name = (
        "".join(c if c in LETTERS | DIGITS else "-" for c in group or "avault").lower().strip("-")
    )
    lines = [
        "apiVersion: v1",
        "kind: Secret",
        "metadata:",
        f"  name: {json.dumps(name)}",
        "type: Opaque",
    ]
    lines += ["data:"] if variables else ["data: {}"]
    for key, value in variables.items():
        encoded = binascii.b2a_base64(value.encode(), newline=False).decode()
        lines.append(f"  {json.dumps(key)}: {encoded}")
    return "".join(line + "\n" for line in lines)


def find_misread(variables: dict[str, str]) -> str | None:
    """A sentence about the variables that some readers of dotenv files read otherwise.

    They are as `quote_dotenv` writes them.
    """
    theirs: dict[str, list[str]] = {"python-dotenv": [], "npm's dotenv": []}
    for name, value in variables.items():
        line = quote_dotenv(name, value)[len(name) + 1 :]
        has_return, is_double = "\r" in value, line[0] == '"'
        if has_return or "${" in line or (is_double and set(value) & set("$`")):
            theirs["python-dotenv"].append(name)
        if has_return or (is_double and set(value) & set('\\"$`')):
            theirs["npm's dotenv"].append(name)
    said = [
        f"{reader} reads {', '.join(names[:10])} otherwise"
        for reader, names in theirs.items()
        if names
    ]
    return f"sh and systemd read this as it is meant; {', and '.join(said)}" if said else None


def warn_of_readers(form: str, variables: dict[str, str]) -> str | None:
    """What to say about those who will read an export, if anything."""
    if form == "github" and variables:
        return "GitHub does not mask in its logs what comes to a job in this way; avault run does"
    return find_misread(variables) if form == "dotenv" else None


def render_export(form: str, variables: dict[str, str], group: str | None = None) -> str:
    """The variables as text of a form.

    `group` is where all of them are from, if so. Raises Usage for another form.
    """
    if form == "k8s":
        return render_secret(variables, group)
    if form == "json":
        return json.dumps(variables, indent=2, ensure_ascii=False) + "\n"
    if form == "null":  # as env -0 prints them
        return "".join(f"{name}={value}\0" for name, value in variables.items())
    if form not in QUOTES:
        raise Usage(f"no format {printable(form)!r}", f"one of: sh, fish, null, {', '.join(FORMS)}")
    return "".join(QUOTES[form](name, value) for name, value in variables.items())


def describe_vault(vault: Vault, wanted: list[str] | None = None) -> list[dict[str, Any]]:
    """Groups with key names, notes, times and guards; never values. All, or those `wanted`."""
    guards = Guards(vault.facts)

    def describe_guard_of(name: str) -> dict[str, Any] | None:
        found = guards.rules_of(guards.of(name))
        return {"words": str(found), **found.to_dict()} if guards.of(name) else None

    return [
        {
            "name": name,
            "note": group.note[0],
            "keys": [
                {
                    "name": key,
                    "created": render_time(found[0].created),
                    "updated": render_time(found[0].updated),
                    "conflict": len(found) > 1,
                    "sealed": is_sealed(found[0].value),
                    "guard": describe_guard_of(f"{name}/{key}"),
                    "signs": describe_signing_key(found[0].value),
                }
                for key, found in sorted(group.keys.items())
            ],
        }
        for name, group in sorted(vault.groups.items())
        if not wanted or name in wanted
    ]


def conflicts(vault: Vault) -> list[str]:
    """The keys that two machines set, as GROUP/KEY."""
    return [f"{group}/{key}" for group, key, found in choose_keys(vault, [], []) if len(found) > 1]


def render_list(groups: list[dict[str, Any]]) -> str:
    """A line for each key: its name and when it was changed; the note beside the group."""
    lines = []
    for group in groups:
        lines.append(group["name"] + (f"  # {printable(group['note'])}" if group["note"] else ""))
        width = max(len(key["name"]) for key in group["keys"])
        for key in group["keys"]:
            mark = "  conflict: two machines set it" if key["conflict"] else ""
            guard = f"  guarded: {key['guard']['words']}" if key["guard"] else ""
            asks = "ask" in (key["guard"] or {})
            sealed = "  sealed: its next use asks the phone" if key["sealed"] and not asks else ""
            signs = (
                f"  {key['signs']['kind']} {key['signs']['fingerprint']}" if key["signs"] else ""
            )
            lines.append(f"  {key['name']:<{width}}  {key['updated']}{mark}{signs}{guard}{sealed}")
    return "".join(line + "\n" for line in lines)
