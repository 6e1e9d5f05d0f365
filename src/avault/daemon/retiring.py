"""Shared custodians that are used no more: the vault knows, so no copy brings one back."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from avault.custody.shared import REMOVED, REPLACED
from avault.daemon.entrusting import ask_operator, explain_change, tell_of_change
from avault.daemon.holding import Holding
from avault.daemon.sentences import describe_retiring
from avault.errors import Denied, Usage
from avault.vault.machine import RETIRED

if TYPE_CHECKING:
    from avault.protocol import Message
    from avault.vault.records import Vault


async def retire_shared(holding: Holding, message: Message) -> None:
    """If the operator agrees, have the vault know what is used no more; tell what came of it.

    Of what is `replaced` nobody is asked: the operator has agreed to what takes its place.
    """
    failed = None
    try:
        store, became = holding.store, REPLACED if message["replaced"] else REMOVED
        if not store or not holding.log:
            raise Denied("only an open vault can do without one", "open it: avault unlock")
        if not all(re.fullmatch("[0-9a-f]{64}", each) for each in message["digests"]):
            raise Usage("those are no digests")
        if became == REMOVED:
            said = {"op": "custody", "for": f"remove {message['custodian']}, for all machines"}
            holding.log.write(said, message["caller"], "ok")
            question = describe_retiring(store.vault.name, message)
            await ask_operator(holding, store, message, *question)
        machine = store.machine

        def change(vault: Vault) -> None:
            for digest in message["digests"]:
                vault.state(f"{RETIRED}/{digest}", became, int(time.time()), machine)

        await holding.writer.change(store, change)
        holding.reporter.wrote()
        holding.reporter.report()
    except Exception as error:
        failed = explain_change(error)
    tell_of_change(holding, message, None, failed)
