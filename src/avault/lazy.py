"""Modules that are imported when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class Lazy:
    """A module, with the parts of it that are named; imported when a name of it is first used."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __getattr__(self, attribute: str) -> object:
        [module, *_] = map(__import__, self.names)
        globals()[module.__name__] = module
        if module.__name__ == "nostr_sdk":
            module.nostr_sdk._UniffiRustBufferBuilder.write = write_at_once
        return getattr(module, attribute)


def write_at_once(builder: Any, value: bytes) -> None:
    """Hand bytes to nostr-sdk in one piece: 0.45.1 does it byte by byte, 20 times slower."""
    import ctypes

    with builder._reserve(len(value)):
        ctypes.memmove(
            ctypes.addressof(builder.rbuf.data.contents) + builder.rbuf.len, value, len(value)
        )
