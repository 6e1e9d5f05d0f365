"""Checks of the way to the phone: relays, pairing, clocks."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import time
from typing import TYPE_CHECKING

import nostr_sdk

from avault.doctor.patient import RELAY_TIME, Finding, Patient, bad
from avault.errors import AvaultError, printable
from avault.nostr import encrypt, parse_npub, public_hex
from avault.signer.pairing import Pairing
from avault.signer.relays import RPC_KIND
from avault.vault.own_files import read_hints
from avault.vault.presence import read_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


def check_pairing(patient: Patient) -> Iterator[Finding]:
    """Whether this machine has a signer, for this vault."""
    if not patient.has("pairing.json"):
        if not patient.has_vault():
            yield Finding("off", "no vault to pair for")
        else:
            known = patient.has("unlock.json")
            yield Finding(
                "bad",
                "this machine is not paired with a signer",
                "avault pair" if known else "avault recover",
            )
        return
    try:
        pairing = Pairing.load(patient.places)
        content = patient.sealed()
    except AvaultError as error:
        yield bad(error)
        return
    if pairing and (pairing.agent, pairing.operator) != (
        parse_npub(content["agent"]),
        parse_npub(content["operator"]),
    ):
        text = "this machine is paired for another agent or operator than the vault's"
        yield Finding(
            "bad", text, "put the right directory back; if it is right now: avault pair --replace"
        )
    else:
        yield Finding("ok", f"paired with the signer of {content['operator']}")


def check_drill(patient: Patient) -> Iterator[Finding]:
    """Whether the signer asks a person, as the drill found."""
    pairing = load_pairing(patient)
    if not pairing:
        yield Finding("off", "not paired")
    elif pairing.by_itself:
        text = "the signer approves by itself: whoever has this disk opens the vault"
        yield Finding(
            "bad", text, "have the app ask every time (references/signers.md), then: avault drill"
        )
    elif pairing.by_itself is None:
        yield Finding("warn", "nobody has tried whether the signer asks every time", "avault drill")
    else:
        yield Finding("ok", "the signer asks before it opens anything")


def load_pairing(patient: Patient) -> Pairing | None:
    """The pairing; None where there is none that can be read."""
    try:
        return Pairing.load(patient.places)
    except AvaultError:
        return None


def check_proof(patient: Patient) -> Iterator[Finding]:
    """Whether the phone has opened this vault here."""
    try:
        proven = read_sealed("unlock", patient.places.own("unlock.json"))["proven"]
    except AvaultError:
        yield Finding("off", "this machine has no copy of its own of the vault's key")
        return
    if proven:
        yield Finding("ok", f"the phone opened this vault at {printable(proven, 40)}")
    else:
        text = "nobody has shown yet that the phone opens this vault: if it does not, the key ends with the daemon"
        yield Finding(
            "bad", text, "avault pair --replace" if patient.has("pairing.json") else "avault pair"
        )


def check_relays(patient: Patient) -> Iterator[Finding]:
    """Each relay: whether it takes a message as the phone gets them, and delivers it."""
    urls: list[str] = []
    if pairing := load_pairing(patient):
        urls = pairing.relays
    else:
        try:
            urls = list(read_hints(patient.places.file("nip46.json"))["relays"])
        except AvaultError:
            pass
    if not urls or patient.offline:
        yield Finding("off", "not looked at, as --offline says" if urls else "no relay is known")
        return
    outcomes = asyncio.run(probe_all(urls))
    works = any(problem is None for problem, _ in outcomes)
    for url, (problem, seconds) in zip(urls, outcomes, strict=True):
        more = {"url": url, "ms": round(seconds * 1000) if problem is None else None}
        if problem is None:
            yield Finding(
                "ok", f"{url} takes a message and gives it back in {more['ms']} ms", more=more
            )
        else:
            state, hint = (
                ("warn", None)
                if works
                else (
                    "bad",
                    "check the network, or choose others: avault pair --replace --relay URL",
                )
            )
            yield Finding(state, f"{url} {problem}", hint, more=more)


async def probe_all(urls: list[str]) -> list[tuple[str | None, float]]:
    """For each relay what is wrong with it, or None, and the seconds that a message took; all at once, within RELAY_TIME."""
    nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())  # for NIP-42
    return await asyncio.gather(*(probe(url) for url in urls))


async def probe(url: str) -> tuple[str | None, float]:
    """Send a message of the kind that NIP-46 uses, to ourselves, under a key of the moment; and wait until it is back."""
    keys = nostr_sdk.Keys.generate()
    address, limit = nostr_sdk.RelayUrl.parse(url), datetime.timedelta(seconds=RELAY_TIME)
    client = nostr_sdk.ClientBuilder().authenticator(nostr_sdk.SignerAuthenticator(keys)).build()
    stage = "does not answer"
    try:
        async with asyncio.timeout(RELAY_TIME):
            await client.add_relay(address)
            relay = await client.relay(address)
            stream = client.notifications()
            await relay.try_connect(timeout=limit)
            stage = "takes no subscription"
            mine = nostr_sdk.Filter().kind(nostr_sdk.Kind(RPC_KIND)).pubkey(keys.public_key())
            await client.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="avault")
            await heard(stream, lambda message: bool(message.is_END_OF_STORED_EVENTS()))
            stage = "takes no message"
            text = encrypt(keys, public_hex(keys), secrets.token_hex(300))
            builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), text)
            event = builder.tags([nostr_sdk.Tag.public_key(keys.public_key())]).finalize(keys)
            sent = time.monotonic()
            await relay.send_event(event, ok_timeout=limit)
            stage = "does not deliver what it takes"
            await heard(
                stream,
                lambda message: bool(message.is_EVENT_MSG() and message.event.id() == event.id()),
            )
            return None, time.monotonic() - sent
    except TimeoutError:
        return stage, 0.0
    except (AvaultError, nostr_sdk.NostrSdkError) as error:
        return f"{stage}: {printable(str(error).strip(RELAY_QUOTES))}", 0.0
    finally:
        await client.shutdown()


async def heard(stream: Any, wanted: Callable[[Any], bool]) -> None:
    """Wait for a message of the relay; raises AvaultError when it closes the subscription, but not to ask who we are."""
    while notification := await stream.next():
        message = notification.message.as_enum() if notification.is_MESSAGE() else None
        if message and wanted(message):
            return
        if message and message.is_CLOSED() and not message.message.startswith("auth-required:"):
            raise AvaultError(message.message)


RELAY_QUOTES = "'\""  # which the library puts around what a relay says
