"""What `avault export`, `avault get` and other tools print as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.intake.dotenv import FOREIGN, check_kept
from avault.intake.logins import ImportedSecrets
from avault.vault.names import check_group, check_key

if TYPE_CHECKING:
    from typing import Any


def refuse_json(problem: str) -> Usage:
    """The error for a JSON text that is not of one of the forms."""
    return Usage(
        f"in the JSON {problem}",
        'as in {"API_KEY": "…"} or {"openai": {"API_KEY": "…"}}; jq makes it so',
    )


def load_json(text: str) -> dict[str, Any]:
    """The object that a JSON text is; numbers as the text that they are written as.

    Raises Usage.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise refuse_json("a name stands twice")
        return dict(pairs)

    def constant(_: str) -> str:
        raise refuse_json("stands NaN or Infinity")

    try:
        content = json.loads(
            text, object_pairs_hook=unique, parse_int=str, parse_float=str, parse_constant=constant
        )
    except json.JSONDecodeError as error:
        raise Usage(
            f"line {error.lineno} is not JSON", "for KEY=value lines: --format dotenv"
        ) from None
    except RecursionError:
        raise refuse_json("too many brackets stand in each other") from None
    if not isinstance(content, dict):
        raise refuse_json("is a list or a value, not an object of names and values")
    if isinstance(content.get("sops"), dict) and "mac" in content["sops"]:
        raise Usage("sops has encrypted it", FOREIGN["ENC["][1])
    return content


def groups_of(
    content: dict[str, Any], group: str | None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The keys of each group in a JSON object, and the groups' notes; raises Usage.

    It is {KEY: value}, for `group`; or {GROUP: {KEY: value}}; or what `avault get --json` prints.
    """
    named, values = content.get("group"), content.get("values")
    if isinstance(named, str) and content.keys() - {"conflicts"} == {"group", "key", "value"}:
        return {group or named: {str(content["key"]): content["value"]}}, {}
    if (
        isinstance(named, str)
        and isinstance(values, dict)
        and content.keys() == {"group", "note", "values"}
    ):
        return {group or named: values}, {group or named: content["note"]} if content[
            "note"
        ] else {}
    if not content or not all(isinstance(each, dict) for each in content.values()):
        return {group or "env": content}, {}
    if group:
        raise Usage("the JSON names its groups", "leave --group out")
    return content, {}


def parse_json(text: str, group: str | None) -> tuple[ImportedSecrets, dict[str, str], list[str]]:
    """The secrets of a JSON text, the notes of their groups, and the names of those that are empty.

    Raises Usage.

    A number is the text that it is written as, true and false are these words, null is empty.
    """
    groups, notes = groups_of(load_json(text), group)
    found: ImportedSecrets = {}
    empty = []
    for place, name in enumerate(groups, 1):
        try:
            check_group(name)
        except Usage as error:
            raise Usage(f"in the JSON name {place} is not a group name", error.hint) from None
        for number, (key, given) in enumerate(groups[name].items(), 1):
            try:
                check_key(key)
            except Usage as error:
                raise Usage(
                    f"in the JSON name {number} of group {name} is not a key name", error.hint
                ) from None
            value = str(given).lower() if isinstance(given, bool) else given or ""
            if not isinstance(value, str) or isinstance(given, (dict, list)):
                raise refuse_json(f"{name}/{key} is a list or an object, not a value")
            if value:
                found[name, key] = check_kept(value, f"{name}/{key}")
            else:
                empty.append(f"{name}/{key}")
    return found, notes, empty
