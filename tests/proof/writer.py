"""The writes of a vault, each in a process of its own that stops before it begins, so that strace can take hold of it.

A line of JSON on stdin begins one: {"kind", "nsec", "value", "theirs"}; the vault is that of $AVAULT_DIR. Lines on
stdout tell of it: {"stopped": pid} whenever it stops, and at its end {"status", "said": what it told, or null}.

What is run is the keyholder's own code, whole: only its threads are taken from it (one thread makes the same calls in
the same order each time), and its hardening, which it does before all this.
"""

import asyncio
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
from types import SimpleNamespace
from typing import Any

import nostr_sdk

import avault

SAID = 200  # the descriptor on which a write says that it is done: what comes later is not part of it
PTRACER = 0x59616D61  # PR_SET_PTRACER (prctl(2)): where Yama is, only parents may trace unless they are told


async def at_once(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold(keyholder: avault.Keyholder, job: dict[str, Any]) -> avault.Store:
    """An open vault, as after an unlock."""
    keyholder.holding.ratchet.content, _ = avault.read_unlock(keyholder.places)
    keyholder.holding.store = avault.Store.load(
        keyholder.places, nostr_sdk.Keys.parse(job["nsec"]), keyholder.holding.ratchet.content
    )
    return keyholder.holding.store


async def put(keyholder: avault.Keyholder, job: dict[str, Any]) -> None:
    store = hold(keyholder, job)
    stop()
    try:
        await keyholder.change(lambda vault: vault.put("g", "K", job["value"], 2, store.machine))
    finally:
        if job.get("again"):  # as the next requests do
            store.refresh()
            await keyholder.change(lambda vault: vault.put("g", "AGAIN", job["value"], 2, store.machine))


async def merge(keyholder: avault.Keyholder, job: dict[str, Any]) -> None:
    """Another machine's vault lies where ours was, without our last write: both are merged, and written."""
    store = hold(keyholder, job)
    with open(keyholder.places.file("avault.enc"), "wb") as file:
        file.write(job["theirs"].encode())
    stop()
    store.refresh()
    if store.trouble:
        raise store.trouble


async def insist(keyholder: avault.Keyholder, job: dict[str, Any]) -> None:
    """An older vault is taken with --accept-rollback, and written under a new name."""
    content, _ = avault.read_unlock(keyholder.places)
    with open(keyholder.places.file("avault.enc"), "wb") as file:
        file.write(job["theirs"].encode())
    stop()
    keys = nostr_sdk.Keys.parse(job["nsec"])
    keyholder.holding.store = avault.Store.load(keyholder.places, keys, content, accept_rollback=True)


async def unlock(keyholder: avault.Keyholder, job: dict[str, Any]) -> None:
    """Open the vault: access log, pin, and the ratchet; nsec.enc too where there is no unlock.json."""
    stop()
    await keyholder.unlocking.open(avault.GivenKey(job["nsec"]))


async def pair(keyholder: avault.Keyholder, job: dict[str, Any]) -> None:
    content, _ = avault.read_unlock(keyholder.places)
    agent, operator = avault.parse_npub(content["agent"]), avault.parse_npub(content["operator"])
    pairing = avault.Pairing(nostr_sdk.Keys.generate(), operator, agent, operator, [job["value"]])
    stop()
    pairing.save(keyholder.places)


async def init(keyholder: avault.Keyholder, job: dict[str, Any]) -> None:
    session: Any = SimpleNamespace(send=lambda message: None)
    stop()
    request = {"name": "test@machine", "signer_npub": job["value"], "relays": ["wss://relay.example"]}
    await avault.talk_init(keyholder, session, request, {"nsec": job["nsec"]})


KINDS = {act.__name__: act for act in (put, merge, insist, unlock, pair, init)}


async def write(job: dict[str, Any]) -> None:
    """One write, and what a command would say of it; then the process ends."""
    ours, theirs = socket.socketpair()
    keyholder = avault.Keyholder(avault.Places(), theirs, (None, None))
    error = None
    try:
        await KINDS[job["kind"]](keyholder, job)
    except Exception as refused:  # as a request's is: `complain` makes an answer of it
        error = avault.complain(refused).to_dict()["error"]
    store = keyholder.holding.store
    said = {"error": error, "warnings": keyholder.reporter.warnings, "pin": store and store.warning, "served": bool(store)}
    with ours:  # the supervisor was there to the end
        os.write(SAID, json.dumps(said).encode())
        os._exit(0)


def tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    ctypes.CDLL(None).prctl(PTRACER, ctypes.c_ulong(-1 % (1 << 64)), 0, 0, 0)
    asyncio.to_thread = at_once  # type: ignore[assignment]
    for module in ("secrets", "hmac", "json", "time", "errno", "binascii"):  # else each write would load them
        importlib.import_module(module)
    avault.encrypt(keys := nostr_sdk.Keys.generate(), avault.public_hex(keys), "so is the library's own")
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PTRACER, ctypes.c_ulong(-1 % (1 << 64)), 0, 0, 0)
            os.dup2(writing, SAID)
            asyncio.run(write(job))
        os.close(writing)
        while os.WIFSTOPPED(status := os.waitpid(pid, os.WUNTRACED)[1]):
            tell(stopped=pid)
        with open(reading, "rb") as pipe:
            said = pipe.read()
        tell(status=status, said=json.loads(said) if said else None)


if __name__ == "__main__":
    os.umask(0o077)
    main()
