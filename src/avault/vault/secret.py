"""A value of a key as data: its times, its dot, and which of several is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.vault.generations import check_dot

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


LATEST = 1 << 37  # Unix seconds; later ones are no times that people are shown
SEAL_MARK = "\0"  # begins a value that is sealed for itself: no value that is set has a NUL


class Secret:
    """One value of a key: the value, when it was made and changed (Unix seconds), and its dot.

    The dot is the machine that wrote it and the count of that machine's writes:
    with the vault's generation it tells, without clocks, whether another copy
    of the vault knew this value and changed it, or never saw it.
    """

    __slots__ = ("count", "created", "machine", "updated", "value")

    def __init__(self, value: str, created: int, updated: int, machine: str, count: int) -> None:
        self.value, self.created, self.updated, self.machine, self.count = (
            value,
            created,
            updated,
            machine,
            count,
        )

    def hand_over(self, old: str, new: str, count: int, since: int) -> Secret:
        """The same under another name, if the old machine has written it after that time."""
        if self.machine != old or self.updated <= since:
            return self
        return Secret(self.value, self.created, self.updated, new, count)

    def to_list(self) -> list[Any]:
        """The secret as it stands in the vault's JSON."""
        return [self.value, self.created, self.updated, self.machine, self.count]


def is_sealed(value: str) -> bool:
    """Whether a value is sealed for itself: what opens it has the operator's phone alone."""
    return value.startswith(SEAL_MARK)


def read_secrets(found: list[Any]) -> list[Secret]:
    """The secrets of one key, out of the vault's JSON; raises ValueError, TypeError.

    Who can write a vault can write anything into it: what is compared and sorted later is of the
    right type.
    """
    secrets = [Secret(*each) for each in found]
    for each in secrets:
        check_dot(each.machine, each.count)
        times = (each.created, each.updated)
        if type(each.value) is not str or any(type(time) is not int for time in times):
            raise ValueError("not a secret")
        if any(abs(time) > LATEST for time in times):
            raise ValueError("not a time")
    if not secrets or len({(each.machine, each.count) for each in secrets}) < len(secrets):
        raise ValueError("not the secrets of a key")
    return secrets


def read_fact_values(found: list[Any]) -> list[Secret]:
    """The same of a fact: which one counts is which one counts after a merge."""
    secrets = read_secrets(found)
    if arrange(secrets) != secrets:
        raise ValueError("not in order")
    return secrets


def arrange(secrets: Iterable[Secret]) -> list[Secret]:
    """The secrets of one key in their order: the first is served."""
    return sorted(secrets, key=lambda secret: (-secret.updated, secret.machine, secret.count))
