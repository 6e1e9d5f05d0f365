"""Checks of the way to the phone: relays, pairing, clocks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.doctor.patient import RELAY_TIME, Finding, Patient, bad
from avault.errors import AvaultError, printable
from avault.keys.nostr import parse_npub
from avault.signer.pairing import Pairing
from avault.signer.relays import probe_relays
from avault.vault.own_files import read_hints
from avault.vault.presence import read_sealed

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        text = (
            "nobody has shown yet that the phone opens this vault: "
            "if it does not, the key ends with the daemon"
        )
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
    outcomes = asyncio.run(probe_relays(urls, RELAY_TIME))
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
