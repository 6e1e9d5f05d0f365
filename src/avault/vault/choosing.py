"""Which secrets are meant, and as which variables: by group, by key and by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound, Usage, printable
from avault.vault.dangerous import is_dangerous
from avault.vault.names import DIGITS, LETTERS, is_choice
from avault.vault.records import Vault
from avault.vault.secret import Secret

if TYPE_CHECKING:
    from typing import Any


def as_name(group: str, key: str) -> str:
    """The variable of a key with its group before it: DATABASE_PASSWORD."""
    return "".join(c if c in LETTERS | DIGITS else "_" for c in f"{group}_{key}").upper()


def check_names(request: dict[str, Any], field: str) -> list[str]:
    """A request's list of names, which may be left out; raises Usage."""
    names = request.get(field) or []
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    raise Usage(f"{field} is a list of names")


def choose_keys(
    vault: Vault, groups: list[str], only: list[str]
) -> list[tuple[str, str, list[Secret]]]:
    """Group, key and secrets of all that is there, or of some groups, or of some keys.

    A key is named KEY or GROUP/KEY. Raises NotFound.
    """
    for name in groups:
        vault.group(name)
    wanted = set(only)
    rows = [
        (group, key, found)
        for group in sorted(set(groups) or vault.groups)
        for key, found in sorted(vault.groups[group].keys.items())
        if not wanted or key in wanted or f"{group}/{key}" in wanted
    ]
    if wanted and (
        missing := wanted
        - {key for _, key, _ in rows}
        - {f"{group}/{key}" for group, key, _ in rows}
    ):
        # what can be no name is not repeated: it may be a secret
        named = [each if is_choice(each) else "?" for each in sorted(missing)]
        raise NotFound(f"no key {printable(', '.join(named))}", "see what there is: avault list")
    return rows


def check_named(vault: Vault, named: list[str]) -> dict[str, tuple[str, str]]:
    """Group and key by the variable that NAME=GROUP/KEY gives them; raises Usage, NotFound."""
    chosen: dict[str, tuple[str, str]] = {}
    for each in named:
        name, _, place = each.partition("=")
        group, _, key = place.partition("/")
        if (
            not name
            or set(name) - LETTERS - DIGITS - {"_"}
            or name[0] in DIGITS
            or not group
            or not key
        ):  # not repeated: it may be a secret that was meant for NAME
            raise Usage("not NAME=GROUP/KEY", "as in OPENAI_API_KEY=openai/API_KEY")
        if name in chosen:
            raise Usage(f"{name} is named twice", "give each variable one secret")
        vault.secrets(group, key)
        chosen[name] = group, key
    return chosen


def choose(
    vault: Vault,
    groups: list[str],
    only: list[str],
    prefix: bool,
    allow: list[str],
    named: list[str],
) -> dict[str, tuple[str, str]]:
    """The variables to export, by name, with group and key of each.

    They are all, or those of some groups, keys and names.
    Raises NotFound for a name that is not there, Usage for two keys with one
    name, Denied for a dangerous name that `allow` does not have.
    """
    chosen = check_named(vault, named)
    for group, key, _ in choose_keys(vault, groups, only) if groups or only or not named else []:
        name = as_name(group, key) if prefix else key
        if name in chosen:
            tell_apart = "" if prefix else ", or tell them apart with --prefix"
            raise Usage(
                f"{'/'.join(chosen[name])} and {group}/{key} are both {name}",
                f"name them: --as {as_name(group, key)}={group}/{key}; "
                f"or choose with --group {group}{tell_apart}",
            )
        if name[0] in DIGITS:
            raise Usage(
                f"{group}/{key} gives no variable name: {name}",
                "leave --prefix out, or rename the group",
            )
        chosen[name] = (group, key)
    if refused := sorted(name for name in chosen if is_dangerous(name) and name not in allow):
        hint = "if you mean it: " + " ".join(f"--allow {name}" for name in refused)
        raise Denied(f"{', '.join(refused)} would change what other programs do", hint)
    return chosen
