"""What the keyholder knows itself of what this machine has given to relays, whatever a caller says. No daemon, no relay."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from test_keyholder_alone import Desk

import avault


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    await desk.open()
    yield desk
    desk.close()


async def put(desk: Desk, *keys: str) -> None:
    for key in keys:
        await desk.serve("set", "value", group="a", key=key)


async def sign(desk: Desk, after: int = 0) -> dict[str, Any]:
    """A head of the vault as it is."""
    answer = await desk.serve("replica", action="copy", slot=0, epoch=0, after=after)
    return dict(answer["events"][-1])


async def show(desk: Desk, *heads: dict[str, Any], **said: Any) -> dict[str, Any]:
    """What the keyholder says of heads, whatever else is said of them."""
    value = {"events": [*heads], **said}

    async def frame() -> dict[str, Any]:
        return value

    desk.session.frame = frame
    asked = {"v": 1, "vault": desk.places.id, "op": "replica", "action": "heads"}
    return dict(await desk.reception.answer(desk.session, asked))  # type: ignore[misc]


async def begin_anew(desk: Desk) -> None:
    """It is locked, and opened."""
    desk.close()
    desk.set_up()
    await desk.open()


async def test_no_word_of_a_caller_stops_what_is_written(desk: Desk) -> None:
    """A head that it has signed itself, lately or long ago, tells of no clone; nor after a lock, or a restart in the middle."""
    heads = []
    for key in ("A", "B", "C"):
        await put(desk, key)
        heads.append(await sign(desk, after=int(time.time()) + 3000))
        assert (await show(desk, *heads, strange=[each["id"] for each in heads]))["heads"] == []
    await put(desk, "D")
    await begin_anew(desk)
    assert len((await show(desk, *heads, strange=[each["id"] for each in heads]))["known"]) == 3
    await put(desk, "E")


@pytest.mark.parametrize("writes", [1, 2, 4])
@pytest.mark.parametrize("locks", [False, True])
async def test_a_disk_from_a_backup_is_noticed_without_what_was_noted_of_relays(
    desk: Desk, tmp_path: Path, writes: int, locks: bool
) -> None:
    """However many writes are counted again, and also where it was locked in between."""
    await put(desk, "A")
    there, night = Path(desk.places.dir), tmp_path / "night"
    own = Path(desk.places.state)
    shutil.copytree(there, night / "vault")
    shutil.copytree(own, night / "own")
    await put(desk, "B", "C")
    head = await sign(desk)
    shutil.copytree(night / "vault", there, dirs_exist_ok=True)
    shutil.copytree(night / "own", own, dirs_exist_ok=True)
    await begin_anew(desk)
    await put(desk, *"DEFG"[:writes])
    if locks:
        await begin_anew(desk)
    with pytest.raises(avault.Tampered, match="never made"):
        await show(desk, head)
    with pytest.raises(avault.Tampered, match="never made"):
        await put(desk, "H")
    await desk.serve("restore", unsaved=True)
    await put(desk, "I")
    assert len((await show(desk, head))["heads"]) == 1, "what was written under the name before is to come in"
