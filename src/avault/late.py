"""What is made when it is first used: patterns, dataclasses, contexts, properties.

What makes them (re, dataclasses, contextlib, functools) takes longer to import than a `get`
takes, and so do a hundred patterns to compile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, AnyStr, ParamSpec, TypeVar, dataclass_transform

    P = ParamSpec("P")
    T = TypeVar("T")


class LatePattern:
    """A regular expression that is compiled when it is first used."""

    def __init__(self, text: str | bytes) -> None:
        self.text = text

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(self.text), name)
        setattr(self, name, found)
        return found


def regex(text: AnyStr) -> re.Pattern[AnyStr]:
    """What `re.compile(text)` gives, later; flags stand in the text, as (?s)."""
    return LatePattern(text)  # type: ignore[return-value]


def context(
    function: Callable[P, Iterator[T]],
) -> Callable[P, AbstractContextManager[T]]:
    """What `contextlib.contextmanager` makes of a function, later, and once."""
    made: list[Callable[P, AbstractContextManager[T]]] = []

    def enter(*words: P.args, **named: P.kwargs) -> AbstractContextManager[T]:
        if not made:
            made.append(contextlib.contextmanager(function))
        return made[0](*words, **named)

    return enter


class OnceProperty:
    """A property that is worked out when it is first read."""

    def __init__(self, work: Callable[[Any], object]) -> None:
        self.work = work

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> object:
        found = vars(instance)[self.name] = self.work(instance)
        return found


def once(work: Callable[[Any], T]) -> T:
    """What `functools.cached_property` makes of a method."""
    return OnceProperty(work)  # type: ignore[return-value]


class LateField:
    """What is said of an attribute, for `dataclasses.field`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings


def field(**settings: Any) -> Any:
    """An attribute of a class of Fields, as `dataclasses.field` takes it."""
    return LateField(settings)


if not TYPE_CHECKING:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """As typing has it, without importing typing."""
        return lambda made: made


@dataclass_transform(field_specifiers=(field,))
class Fields:
    """A class that is made a dataclass when its first instance is made; with the same settings.

    No lock guards that: threads that may make a first instance at once are not to be had.
    """

    _settings: dict[str, bool]

    def __init_subclass__(cls, **settings: bool) -> None:
        cls._settings = settings

    def __init__(self, *values: Any, **named: Any) -> None:
        own = type(self)
        for name, value in list(vars(own).items()):
            if isinstance(value, LateField):
                setattr(own, name, dataclasses.field(**value.settings))
        dataclasses.dataclass(**own._settings)(own)
        own.__init__(self, *values, **named)
