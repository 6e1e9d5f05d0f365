"""What custodians keep of an agent's key that counts no more: they are told to forget it.

forget.json names it, in the state directory. A rotation puts it there with all else, and it goes
once they were told: a rotation that was cut off leaves nothing with them either.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.daemon.errands import Reach, run_errand
from avault.errors import AvaultError
from avault.places import Places
from avault.vault.files import read_file
from avault.vault.own_files import FIELDS, OPTIONAL, decode_file, encode_file, is_of_type

if TYPE_CHECKING:
    from typing import Any


FORGET = "forget.json"


def encode_forgetting(places: Places, custodians: list[dict[str, Any]]) -> bytes:
    """forget.json: what each of these keeps, besides what is to be forgotten already."""
    told = [{**content, "sealed": ""} for content in custodians]
    return encode_file("forget", {"custodians": [*read_forgetting(places), *told]})


def read_forgetting(places: Places) -> list[dict[str, Any]]:
    """What custodians are still to forget; of a damaged file nothing."""
    path = places.own(FORGET)
    if not os.path.lexists(path):
        return []
    try:
        found: list[Any] = decode_file("forget", read_file(path), path)["custodians"]
    except AvaultError:
        return []
    return [each for each in found if is_content(each)]


def is_content(each: object) -> bool:
    """Whether this is what a custodian has, as in its file."""
    fields = FIELDS["custody"]
    if not isinstance(each, dict) or not each.keys() <= fields.keys():
        return False
    is_whole = fields.keys() - each.keys() <= OPTIONAL["custody"]
    return is_whole and all(is_of_type(each[name], fields[name]) for name in each)


async def forget_keys(places: Places, custodians: list[dict[str, Any]]) -> None:
    """Have custodians forget what they keep; what one still has opens nothing that counts."""
    for content in custodians:
        with contextlib.suppress(AvaultError):
            await run_errand(places, "delete", content, Reach({}))


async def forget_left(places: Places) -> None:
    """Have custodians forget what is named in forget.json, but for what one here still keeps."""
    if not os.path.lexists(path := places.own(FORGET)):
        return
    kept, custodians = set(), Custodians(places)
    for name in custodians.names():
        with contextlib.suppress(AvaultError):
            kept.add((name, custodians.load(name)["account"]))
    left = read_forgetting(places)
    names = [(each["custodian"], each["account"]) for each in left]
    await forget_keys(
        places, [each for each, name in zip(left, names, strict=True) if name not in kept]
    )
    with contextlib.suppress(OSError):
        os.unlink(path)
