"""The phones of other operators: their envelopes are made anew after each unlock."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.custody.phone import renew
from avault.daemon.reporter import Reporter
from avault.errors import AvaultError, NotFound
from avault.keys.nostr import Keys, to_npub
from avault.keys.seal import seal_keys
from avault.places import Places, sha256
from avault.vault.files import FileChanged, read_file, write_file
from avault.vault.own_files import encode_file
from avault.vault.records import Vault
from avault.vault.store import Store

if TYPE_CHECKING:
    from typing import Any


class Renewal:
    """What the other operators' phones open here, made anew after each unlock."""

    def __init__(self, places: Places, host: str, reporter: Reporter) -> None:
        self.places, self.host, self.reporter = places, host, reporter

    async def renew(
        self, store: Store | None, keys: Keys, content: dict[str, Any], is_phoneless: bool
    ) -> None:
        """Make their envelopes anew, by the open vault or the one on the disk; warn if not."""
        warnings = self.reporter.warnings
        try:
            vault = (store or Store.read(self.places, keys, content)).vault
            await asyncio.to_thread(renew_phones, self.places, keys, vault, self.host, is_phoneless)
            warnings.pop("phones", None)
        except AvaultError as error:
            warnings["phones"] = (
                "what another operator's phone has answered may open what lies here:"
                f" {error.message}"
            )


def renew_phones(
    places: Places, keys: Keys, vault: Vault, host: str, is_phoneless: bool
) -> dict[str, str]:
    """Seal the agent's key anew for the phone of each operator that this machine may ask.

    For whom is what the vault says, and not the disk. One that is taken away meanwhile stays so.
    What is wrong with one keeps no other from it. Raises AvaultError, then; else gives the SHA-256
    (hex) of each file that was written, by its name.
    """
    custodians, failed = Custodians(places), None
    written: dict[str, str] = {}
    for name, operator in vault.other_operators().items():
        path = custodians.path_of(name)
        try:
            before = sha256(read_file(path)).hex()
            content = custodians.load(name)
            if content["kind"] != "phone" or content["settings"].get("operator") != to_npub(
                operator
            ):
                continue
            names = vault.identity, vault.operator, vault.name, name
            unlock, sealed = seal_keys(keys, *names, is_phoneless)
            kept = renew(content["kept"], unlock, operator, vault.name, host)
            data = encode_file("custody", {**content, **sealed, "kept": kept})
            write_file(path, data, over=before)
            written[os.path.basename(path)] = sha256(data).hex()
        except (NotFound, FileChanged):
            continue
        except AvaultError as error:
            failed = error
    if failed:
        raise failed
    return written
