"""One secret of a request, asked for as the proxy's process does."""

from __future__ import annotations

from typing import Any

import avault


async def use_one(session: avault.ProxiedUses, name: str, call: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The answer; its `value` is that of the one that was asked for. `asked` may say `in` which places, and `refused`."""
    wanted = {"names": {name: asked.pop("in", ["header"])}}
    refused = {"refused": [name]} if asked.pop("refused", False) else {}
    answer = await session.use({**wanted, **call, **asked, **refused})
    return {**answer, "value": answer["values"][name]} if "values" in answer else answer
