"""Checks of who and what may open the vault: machines, operators, custodians' files, rotations."""

from __future__ import annotations

import functools
import os
import shlex
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.custody.shared import Shared, refuse_retired
from avault.custody.stale import find_stale
from avault.doctor.patient import Finding, Patient, bad
from avault.doctor.phone import load_pairing
from avault.errors import AvaultError, printable
from avault.keys.nostr import public_hex
from avault.process import lock_directory
from avault.signer.pairing import shorten_key
from avault.systemd import NoDaemon
from avault.vault.leftovers import BEGINNINGS
from avault.vault.machine import read_retired
from avault.vault.names import PHONE
from avault.vault.rotation import DONE, READY, REFUSED, STAGED, drop

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_machines(patient: Patient) -> Iterator[Finding]:
    """Whether this machine is on the vault's list, as the phone knows it; and what was removed."""
    if not patient.is_open():
        yield Finding("off", "the vault's list of machines is in it, and it is not open")
        return
    found = patient.ask("machines")["machines"]
    me = next((each for each in found if each["this"]), None)
    pairing = load_pairing(patient)
    key = public_hex(pairing.keys) if pairing else None
    if pairing and (not me or not me["host"]):
        text = "this machine is not on the vault's list: who removes it does not find it"
        yield Finding("warn", text, "avault lock && avault unlock, which enters it")
    elif me and me["client_key"] != key:
        listed = shorten_key(me["client_key"]) if me["client_key"] else "not paired"
        now = shorten_key(key) if key else "not paired"
        text = f"this machine is on the vault's list as {listed}, and is {now}"
        yield Finding("warn", text, "avault lock && avault unlock, which enters it anew")
    left = patient.ask("exposed")
    if left["exposed"]:
        text = f"{len(left['exposed'])} value(s) were known to what was removed since"
        yield Finding("warn", text, "avault rotate report")
    names = ", ".join(printable(each["host"] or each["id"], 70) for each in found)
    yield Finding("ok", f"{len(found)} machine(s): {names}")


def check_operators(patient: Patient) -> Iterator[Finding]:
    """Whether each phone that is asked here is an operator's; not all have to be asked here."""
    custodians, phones = Custodians(patient.places), {}
    for name in custodians.names():
        try:
            content = custodians.load(name)
        except AvaultError:
            continue  # said by another check
        if content["kind"] == PHONE:
            phones[name] = content["settings"].get("operator")
    known = (patient.status or {}).get("operators")
    if known is None:
        asked = f"; phones that are asked here: {', '.join(phones)}" if phones else ""
        yield Finding("off", f"who is an operator is in the vault, which is not open{asked}")
        return
    for name, operator in phones.items():
        if known.get(name) != operator:
            text = f"the phone of {name} is paired here, who is no operator of this vault"
            yield Finding("bad", text, f"avault custody remove {name}")
    shown = [f"{printable(each)}{'' if each in phones else ' (not asked here)'}" for each in known]
    others = f", and besides: {', '.join(shown)}" if shown else ""
    yield Finding("ok", f"the operator of this machine's phone{others}")


def check_custodians(patient: Patient) -> Iterator[Finding]:
    """Whether the files of custodians are of this vault's agent, here and for all machines."""
    places = patient.places
    for text, hint in find_stale(places):
        yield Finding("warn", text, hint)
    shared = Shared(places)
    try:
        agent = str(patient.sealed()["agent"])
    except AvaultError:
        agent = ""
    for name in shared.names() if agent else []:
        try:
            refuse_retired(shared.load(name, agent), read_retired(places))
        except AvaultError as error:
            yield bad(error)
    count = len(Custodians(places).names())
    yield Finding(
        "ok" if count or shared.names() else "off",
        f"{count} custodian(s) here, {len(shared.names())} for all machines, of this vault's agent",
    )


def check_rotation(patient: Patient) -> Iterator[Finding]:
    """What a rotation has left: one that was cut off, one that was refused, what was in its way."""
    places = patient.places
    names = sorted(os.listdir(places.state)) if os.path.isdir(places.state) else []
    stopped = isinstance(patient.silence, NoDaemon)
    for name in (STAGED, DONE):
        if name in names and stopped:
            yield Finding(
                "warn",
                f"{places.own(name)} is of a rotation that was cut off, and counts for nothing",
                "avault daemon start, which takes it away",
                functools.partial(drop_leftover, patient, name),
            )
    if READY in names:
        text = f"{places.own(READY)} is a rotation that counts, and is not in place yet"
        yield Finding("bad", text, "avault unlock, which completes it")
    if REFUSED in names:
        path = places.own(REFUSED)
        text = f"{path} was put there by somebody else: it is no rotation by this vault's agent"
        yield Finding("warn", text, f"who could write there? Then: rm -r {shlex.quote(path)}")
    for name in names:
        path = shlex.quote(places.own(name))
        if name.startswith(BEGINNINGS) and name.endswith(".enc"):
            text = (
                f"{path} is a copy of the vault that was set aside: it may have what no other has"
            )
            hint = f"avault restore --unsaved, which takes that over; or: rm {path}"
            yield Finding("warn", text, hint)
    logs = [name for name in names if name.startswith("log-")]
    kept = f"; of earlier keys, the access log is in {', '.join(logs)}" if logs else ""
    yield Finding("ok", f"no rotation is under way{kept}")


def drop_leftover(patient: Patient, name: str) -> str:
    """Take away what a rotation has left that counts for nothing, while no daemon runs."""
    fd = lock_directory(patient.places.dir)
    try:
        drop(patient.places.own(name))
    finally:
        os.close(fd)
    return f"removed {patient.places.own(name)}"
