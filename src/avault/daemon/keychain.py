"""Giving a keychain an unlock key of its own, if the operator agrees."""

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


async def fill_keychain(holding: Holding, fd: int, pid: int, caller: dict[str, Any]) -> None:
    """If the phone agrees, seal the agent's key once more.

    What opens that goes to the keychain's process `pid` alone, through the socket `fd`.
    """
    reporter, helper = holding.reporter, None
    with socket.socket(fileno=fd) as door:
        try:
            pairing, store = holding.contact.find(holding.store), holding.store
            if not pairing or not store or not holding.log:
                raise Denied(
                    "only a paired, open vault can be given to a keychain",
                    "pair it with: avault pair",
                )
            helper = await meet(door, pid)
            holding.log.write({"op": "keychain", "for": "enable"}, caller, "ok")
            vault, token = store.vault, secrets.token_hex(32)
            sentence = (
                f"avault: let a keychain open {vault.name} on {holding.host} WITHOUT you, always."
                " Approve only if you want that."
            )
            title = f"a keychain for {vault.name}"
            envelope = make_envelope(store.keys, vault.operator, title, sentence, token)
            connected = holding.contact.connect(pairing, pairing.signer)
            async with asyncio.timeout(300), connected as signer:
                await signer.request("nip44_decrypt", [vault.agent, envelope], accept_token(token))
            if not is_hardened(pid):
                raise Unavailable(
                    "the keychain's process has ended, or is traced",
                    "try again: avault keychain enable",
                )
            unlock, sealed = seal_keys(store.keys, vault.identity, vault.operator, vault.name)
            # for the disk, once the keychain has what opens it
            reporter.control.send({"sealed": sealed})
            helper.sendall(unlock.encode())
        except AvaultError as error:
            reporter.fail(error)
        except TimeoutError:
            reporter.fail(TimedOut("nobody approved in time"))
        except OSError:
            reporter.fail(Unavailable("the keychain's process has ended"))
        finally:
            if helper:
                helper.close()
