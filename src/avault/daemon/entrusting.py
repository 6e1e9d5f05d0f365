"""Giving a custodian an unlock key of its own, if the operator agrees."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING

from avault.daemon.holding import Holding
from avault.errors import AvaultError, Denied, TimedOut, Unavailable
from avault.process import is_hardened, meet
from avault.signer.question import accept_token
from avault.vault.seal import make_envelope, seal_keys

if TYPE_CHECKING:
    from typing import Any

    from avault.vault.store import Store


async def ask_operator(holding: Holding, store: Store, title: str, sentence: str) -> None:
    """Have the operator of the open vault agree to something, by phone.

    Raises Denied, TimedOut, and Tampered where the pairing is another's. Where the vault was made
    without a phone, whoever opened it with a custodian has agreed (`holding.agreed`).
    """
    pairing, vault = holding.contact.find(store), store.vault
    if holding.is_phoneless or holding.take_agreement():
        return
    if not pairing:
        raise Denied(
            "only a paired vault can ask whether that is meant", "pair it with: avault pair"
        )
    token = secrets.token_hex(32)
    envelope = make_envelope(store.keys, vault.operator, title, sentence, token)
    connected = holding.contact.connect(pairing, pairing.signer)
    async with asyncio.timeout(300), connected as signer:
        await signer.request("nip44_decrypt", [vault.agent, envelope], accept_token(token))


def ask_to_entrust(name: str, host: str, custodian: str, kind: str, asks: bool) -> tuple[str, str]:
    """The title and the sentence by which a custodian is agreed to."""
    who = kind if custodian == kind else f"{custodian} ({kind})"
    how = "WITHOUT your phone" if asks else "WITHOUT anybody, always"
    sentence = f"avault: let {who} open {name} on {host} {how}. Approve only if you want that."
    return f"{who} for {name}", sentence


async def entrust(holding: Holding, fd: int, message: dict[str, Any]) -> None:
    """If the operator agrees, seal the agent's key once more, for a custodian.

    What opens that goes to the helper's process alone, through the socket `fd`.
    """
    reporter, helper, pid = holding.reporter, None, message["helper"]
    custodian, kind, asks = message["custodian"], message["kind"], bool(message["asks"])
    with socket.socket(fileno=fd) as door:
        try:
            store = holding.store
            if not store or not holding.log:
                raise Denied("only an open vault can be entrusted", "open it: avault unlock")
            helper = await meet(door, pid)
            said = {"op": "custody", "for": f"add {custodian}, {kind}"}
            holding.log.write(said, message["caller"], "ok")
            vault = store.vault
            question = ask_to_entrust(vault.name, holding.host, custodian, kind, asks)
            await ask_operator(holding, store, *question)
            if not is_hardened(pid):
                raise Unavailable(
                    "the custodian's process has ended, or is traced", "try the same again"
                )
            unlock, sealed = seal_keys(
                store.keys, vault.identity, vault.operator, vault.name, custodian
            )
            # for the disk, once the custodian has what opens it
            reporter.control.send({"sealed": sealed})
            helper.sendall(unlock.encode())
        except AvaultError as error:
            reporter.fail(error)
        except TimeoutError:
            reporter.fail(TimedOut("nobody approved in time"))
        except OSError:
            reporter.fail(Unavailable("the custodian's process has ended"))
        finally:
            if helper:
                helper.close()


async def part_with_phone(holding: Holding) -> None:
    """Have the operator agree that the phone opens this vault no more; tell what came of it."""
    reporter, store = holding.reporter, holding.store
    try:
        if not store:
            raise Denied("only an open vault can do without the phone", "open it: avault unlock")
        name = store.vault.name
        sentence = (
            f"avault: from now on your phone does NOT open {name} on {holding.host}, only its"
            " custodians. Approve only if you want that."
        )
        await ask_operator(holding, store, f"{name} without your phone", sentence)
        reporter.control.send({"agreed": True})
    except AvaultError as error:
        reporter.fail(error)
    except TimeoutError:
        reporter.fail(TimedOut("nobody approved in time"))
