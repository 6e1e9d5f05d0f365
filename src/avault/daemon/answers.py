"""The answers of those requests that give values out, from a vault that holds what was let out.

Made in the keyholder; or, where the phone was asked, in a process that ends with the answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.vault.choosing import check_names, choose, choose_keys
from avault.vault.formats import render_export, warn_of_readers
from avault.vault.records import Vault

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.protocol import Message


def answer_get(vault: Vault, request: Message) -> Message:
    """One value, or those of a group."""
    name, key, form = request.get("group"), request.get("key"), request.get("format")
    if key is not None:
        found = vault.secrets(name, key)
        if form == "text":
            return {"ok": True, "output": found[0].value + "\n"}
        answer: dict[str, Any] = {"group": name, "key": key, "value": found[0].value}
        if len(found) > 1:
            answer["conflicts"] = [secret.value for secret in found[1:]]
    else:
        group = vault.group(name)
        values = {key: found[0].value for key, found in sorted(group.keys.items())}
        if form == "text":
            if broken := [key for key, value in values.items() if "\n" in value]:
                hint = f"avault get {name} --json, or avault get {name}/{broken[0]}"
                raise Usage(f"{name}/{broken[0]} has more than one line", hint)
            return {
                "ok": True,
                "output": "".join(f"{key}={value}\n" for key, value in values.items()),
            }
        answer = {"group": name, "note": group.note[0], "values": values}
    if form == "json":
        return {"ok": True, "output": json.dumps(answer, indent=2, ensure_ascii=False) + "\n"}
    return {"ok": True, **answer}


def answer_export(vault: Vault, request: Message) -> Message:
    """Variables, rendered or as they are."""
    groups, only, allow, named = (
        check_names(request, field) for field in ("groups", "only", "allow", "as")
    )
    chosen = choose(vault, groups, only, bool(request.get("prefix")), allow, named)
    variables = {
        name: vault.groups[group].keys[key][0].value for name, (group, key) in chosen.items()
    }
    if (form := request.get("format")) is not None:
        places = {group for group, _ in chosen.values()}
        answer: dict[str, Any] = {
            "ok": True,
            "output": render_export(
                str(form), variables, places.pop() if len(places) == 1 else None
            ),
        }
        warning = warn_of_readers(str(form), variables)
        return {**answer, "warning": warning} if warning else answer
    return {
        "ok": True,
        "variables": variables,
        "names": {name: "/".join(place) for name, place in chosen.items()},
    }


def answer_reveal(vault: Vault, request: Message) -> Message:
    """Secrets by their names, with what is in conflict with them."""
    groups, only = check_names(request, "groups"), check_names(request, "only")
    rows = [
        {
            "group": group,
            "key": key,
            "value": found[0].value,
            "conflicts": [secret.value for secret in found[1:]],
        }
        for group, key, found in choose_keys(vault, groups, only)
    ]
    return {"ok": True, "secrets": rows}


ANSWERED: dict[str, Callable[[Vault, Message], Message]] = {
    "get": answer_get,
    "export": answer_export,
    "reveal": answer_reveal,
    "proxy": answer_reveal,  # to the proxy's process
}


def tell_of_held(answer: Message, held: list[str]) -> Message:
    """An answer that says what it is without, as that is guarded."""
    if not held:
        return answer
    if "output" not in answer:
        return {**answer, "guarded": held}
    left_out = f"left out, as guarded: {', '.join(held)}"
    return {**answer, "warning": "; ".join(filter(None, [answer.get("warning"), left_out]))}
