"""The process that tries a custodian: `avault.py trial DIR NAME`. It opens the vault and ends.

The helper's answer comes through a socket that it makes once it is hardened. It writes nothing, and
gives nothing out but whether the vault opened.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.errors import Tampered, complain
from avault.keys.custodian import is_answer, render_answer
from avault.keys.hardening import harden, introduce_helper
from avault.keys.obtaining import KeptKey
from avault.keys.seal import open_vault
from avault.places import Places
from avault.plain import write_all
from avault.vault.presence import is_of, read_unlock, read_vault
from avault.vault.rotation import Stage

if TYPE_CHECKING:
    from typing import NoReturn


def open_for_trial(places: Places, name: str, answer: bytes, which: str) -> None:
    """Open the vault on the disk with what a custodian answered; raises AvaultError.

    `which` says what it has: "", or what a "candidate" has, which no vault knows yet, or one that
    is "taken" in, which the vault has to know; or what is "staged" for a rotation.
    """
    if which == "staged":
        places = Stage(places)
    content, _ = read_unlock(places)
    kept = Custodians(places).load(name, which in ("candidate", "taken"))
    custodian = KeptKey(name, kept, answer, which == "taken")
    keys = asyncio.run(custodian.get_key(content))
    vault = open_vault(read_vault(places), keys)
    custodian.check(vault, keys)
    if not is_of(vault, {**content, "operator": None}):
        raise Tampered("avault.enc is another vault's", "take it from git history or from a backup")


def main_trial(argv: list[str]) -> NoReturn:
    """Try one custodian, and end by _exit: what was opened goes with it."""
    try:
        harden("avault-trial", die_with_parent=True)
        directory, name, which = argv
        with introduce_helper(0) as own:
            answer = bytearray()
            while not is_answer(answer) and (piece := own.recv(4096)):
                answer += piece
        open_for_trial(Places(directory), name, bytes(answer), which)
        write_all(1, render_answer("ok", None))
    except Exception as error:
        refused = complain(error)
        write_all(1, render_answer(refused.code, refused.message, refused.hint))
    finally:
        os._exit(0)
