"""Shared custodians that are used no more: the vault knows, so no copy brings one back."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from avault.custody.shared import REMOVED, REPLACED, list_given, name_given, state_given
from avault.daemon.sentences import describe_retiring
from avault.errors import Denied, Usage
from avault.keys.entrusting import ask_operator, explain_change, tell_of_change
from avault.keys.holding import Holding
from avault.vault.machine import RETIRED

if TYPE_CHECKING:
    from avault.protocol import Message
    from avault.vault.records import Vault


async def retire_shared(holding: Holding, message: Message) -> None:
    """If the operator agrees, have the vault know what is used no more; tell what came of it.

    Where one is `given` in their place nobody is asked: the operator has agreed to that. What the
    vault knows of that name besides goes with them: its file need not be here.
    """
    failed = None
    try:
        store, given = holding.store, message["given"]
        became = REPLACED if given else REMOVED
        if not store or not holding.log:
            raise Denied("only an open vault can do without one", "open it: avault unlock")
        if not all(
            re.fullmatch("[0-9a-f]{64}", each)
            for each in filter(None, [*message["digests"], given])
        ):
            raise Usage("those are no digests")
        if became == REMOVED:
            said = {"op": "custody", "for": f"remove {message['custodian']}, for all machines"}
            holding.log.write(said, message["caller"], "ok")
            question = describe_retiring(store.vault.name, message)
            await ask_operator(holding, store, message, *question)
        machine = store.machine

        def change(vault: Vault) -> None:
            now = int(time.time())
            known = name_given(list_given(vault), message["custodian"])
            for digest in sorted({*message["digests"], *known} - {given}):
                if digest in message["digests"] or f"{RETIRED}/{digest}" not in vault.facts:
                    vault.state(f"{RETIRED}/{digest}", became, now, machine)
            if given:
                state_given(vault, {given: message}, message["agent"], now, machine)

        await holding.writer.change(store, change)
        holding.reporter.wrote()
        holding.reporter.report()
    except Exception as error:
        failed = explain_change(error)
    tell_of_change(holding, message, None, failed)
