"""The table of commands, from which click is told when one is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


COMMANDS: dict[str, tuple[Callable[..., int], tuple[Callable[[], click.Parameter], ...], bool]] = {}


def command(
    name: str, *parameters: Callable[[], click.Parameter], interspersed: bool = True
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a function as a command; click sees it when a command is run.

    One that is not `interspersed` takes no option after its first argument, as that is somebody
    else's command.
    """

    def register(function: Callable[..., int]) -> Callable[..., int]:
        COMMANDS[name] = function, parameters, interspersed
        return function

    return register


def option(*names: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An option, to be made when click is there."""
    return lambda: click.Option(names, **settings)


def argument(name: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An argument, to be made when click is there."""
    return lambda: click.Argument([name], **settings)
