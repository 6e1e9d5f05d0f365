"""The daily commands: their options, and what the daemon is asked for each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


FAST: dict[str, dict[str, Any]] = {  # command: {option: kind of value}
    "get": {"--key": str, "--json": bool},
    "has": {"--key": str},
    "list": {"--json": bool, "--names": bool},
    "status": {"--short": bool},
    "export": {
        "--shell": "sh",
        "--format": str,
        "--group": list,
        "--only": list,
        "--as": list,
        "--prefix": bool,
        "--allow": list,
    },
    "set": {"--key": str, "--note": str, "--generate": "32"},
    "run": {
        "--no-mask": bool,
        "--group": list,
        "--only": list,
        "--as": list,
        "--prefix": bool,
        "--allow": list,
    },
    "openclaw-provider": {"--wait": str, "--no-prompt": bool},
}
FORMS = ("dotenv", "json", "systemd", "docker", "github", "k8s")  # of `export --format`
PROJECT_FILE = "avault.env"  # which secrets `run` gives, where it lies in the current directory


def is_number(text: str) -> bool:
    """Whether `text` is decimal digits, as --generate takes them."""
    return text.isascii() and text.isdigit() and len(text) < 10


def parse_fast(argv: list[str]) -> dict[str, Any] | None:
    """The command and its options as a mapping; None for what is not plain enough."""
    found: dict[str, Any] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if words == ["run"] and (word == "--" or word[:1] != "-"):
            found["command"] = rest if word == "--" else [word, *rest]
            break
        if word[:1] != "-":
            words.append(word)
            continue
        option, equals, value = word.partition("=")
        kind = str if option == "--dir" else FAST.get(words[0] if words else "", {}).get(option)
        if kind is None or (equals and not value):
            return None
        if kind is bool:
            if equals:
                return None
            found[option] = True
        elif kind is str or kind is list:
            if not equals:
                if not rest or rest[0][:1] == "-":
                    return None
                value = rest.pop(0)
            if kind is list:
                found.setdefault(option, []).append(value)
            elif option in found:
                return None
            else:
                found[option] = value
        else:  # an option whose value may be left out; then it is `kind`
            if not equals and rest and rest[0][:1] != "-":
                value = rest.pop(0)
            if value and not (value in ("sh", "fish") if option == "--shell" else is_number(value)):
                return None
            found[option] = value or kind
    if not words or words[0] not in FAST:
        return None
    op = found["op"] = words.pop(0)
    if op in ("get", "has", "set") and len(words) == 1:
        group, slash, key = words[0].partition("/")
        if slash and ("--key" in found or not key):
            return None
        found["group"], found["--key"] = group, key or found.get("--key")
    elif words or op in ("get", "has", "set"):
        return None
    return found


def fast_request(found: dict[str, Any]) -> dict[str, Any] | None:
    """The socket request for what `parse_fast` found; None where there is more to say."""
    op, key, want_json = found["op"], found.get("--key"), "json" if found.get("--json") else "text"
    if op in ("get", "has"):
        return {"op": op, "group": found["group"], "key": key, "format": want_json}
    if op == "list":
        return {"op": op, "format": "names" if "--names" in found else want_json}
    if op == "status":
        return {"op": op, "format": "short"} if "--short" in found else None
    if op == "openclaw-provider":
        return {"op": "provide"}
    if op in ("export", "run"):
        form, shell = found.get("--format"), found.get("--shell")
        if form not in (None, *FORMS) or shell not in (None, "sh", "fish") or (form and shell):
            return None
        if op == "run" and not ("--no-mask" in found and found.get("command")):
            return None
        if (
            op == "run"
            and not found.keys() & {"--group", "--only", "--as"}
            and os.path.lexists(PROJECT_FILE)
        ):
            return None
        return {
            "op": "export",
            "for": op if op == "run" else None,
            "format": "null" if op == "run" else shell or form or "dotenv",
            "groups": found.get("--group", []),
            "only": [name for names in found.get("--only", []) for name in names.split(",")],
            "as": found.get("--as", []),
            "prefix": "--prefix" in found,
            "allow": found.get("--allow", []),
        }
    if key is None or ("--generate" not in found and os.isatty(0)):
        return None
    size = found.get("--generate")
    return {
        "op": op,
        "group": found["group"],
        "key": key,
        "note": found.get("--note"),
        "generate": size and int(size),
    }
