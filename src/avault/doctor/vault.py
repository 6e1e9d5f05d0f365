"""Checks of the vault directory: private, and its files whole and of one vault."""

from __future__ import annotations

import binascii
import functools
import os
import shlex
from typing import TYPE_CHECKING

from avault.doctor.directories import NETWORKED, check_private, filesystem_of
from avault.doctor.patient import Finding, Patient, bad
from avault.doctor.phone import load_pairing
from avault.errors import AvaultError, Tampered
from avault.git.repository import Repository
from avault.keys.nostr import parse_npub
from avault.places import Places
from avault.vault.files import read_file, write_file
from avault.vault.own_files import complete_attributes, decode_file, encode_hints, read_hints
from avault.vault.presence import read_sealed, read_vault
from avault.vault.recovery import check_recovery

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_vault_directory(patient: Patient) -> Iterator[Finding]:
    """The vault directory: private, and its files whole and of one vault."""
    places = patient.places
    if not patient.has_vault():
        yield Finding("bad", f"no vault in {places.dir}", "avault init, or name one with --dir")
        return
    yield from check_private(places.dir)
    identities = {}
    for name, read in NAME_READERS.items():
        try:
            identities[name] = read(places.file(name))
        except AvaultError as error:
            fix = (
                functools.partial(write_hints, patient)
                if name == "nip46.json" and can_write_hints(patient)
                else None
            )
            yield Finding(
                "bad",
                error.message,
                "avault doctor --fix" if fix else bring_back(places, name),
                fix,
            )
    try:
        check_payloads(places.file("avault.enc"), read_vault(places))
    except AvaultError as error:
        yield Finding(
            "bad",
            error.message,
            error.hint if error.hint == "avault sync" else bring_back(places, "avault.enc"),
        )
    # an open vault has looked itself
    if "nsec.enc" in identities and patient.has("unlock.json") and not patient.is_open():
        try:
            check_recovery(places)
        except AvaultError as error:
            yield Finding("warn", error.message, error.hint)
    if len(set(identities.values())) > 1:
        yield Finding("bad", f"{' and '.join(identities)} are of different vaults", FROM_BACKUP)
    yield from check_attributes(places)
    kind = filesystem_of(places.dir)
    if kind in NETWORKED:
        yield Finding(
            "warn",
            f"the vault is on {kind}, where other machines may write it, and where permissions "
            "may not hold",
            "keep it on a disk of this machine, and share it by git",
        )
    yield Finding("ok", f"{places.dir} is whole and private")


FROM_BACKUP = "take it from git history or from a backup"
LOOKS_BACK = 50  # commits of a file


def bring_back(places: Places, name: str) -> str:
    """The command that puts git's latest whole version of a file back; else where to look."""
    path = places.file(name)
    try:
        repository = Repository(places.dir)
        inside = repository.paths[name]
        for commit in (
            repository.run("rev-list", "-n", str(LOOKS_BACK), "HEAD", "--", inside).decode().split()
        ):
            found = repository.tree(commit).get(inside)
            if found and is_whole(name, path, repository.blob(found)):
                top, file = shlex.quote(repository.top), shlex.quote(inside)
                return f"git -C {top} checkout {commit[:12]} -- {file}"
    except AvaultError:
        pass
    return FROM_BACKUP


def is_whole(name: str, path: str, data: bytes) -> bool:
    """Whether these bytes can be that file of the vault."""
    try:
        if name == "avault.enc":
            check_payloads(path, data)
        else:
            decode_file({"nsec.enc": "nsec", "nip46.json": "hints"}[name], data, path)
    except AvaultError:
        return False
    return True


def can_write_hints(patient: Patient) -> bool:
    """Whether this machine knows what stands in nip46.json."""
    try:
        patient.sealed()
    except AvaultError:
        return False
    return load_pairing(patient) is not None and not os.path.islink(
        patient.places.file("nip46.json")
    )


def write_hints(patient: Patient) -> str:
    """Write nip46.json from what this machine knows; raises AvaultError."""
    content, pairing, path = (
        patient.sealed(),
        load_pairing(patient),
        patient.places.file("nip46.json"),
    )
    relays = pairing.relays if pairing else []
    write_file(
        path,
        encode_hints(
            parse_npub(content["agent"]), parse_npub(content["operator"]), relays, content["name"]
        ),
    )
    return f"wrote {path}"


def read_recovery_names(path: str) -> tuple[str, str]:
    """Agent and operator as nsec.enc names them; raises AvaultError."""
    content = read_sealed("nsec", path)
    return content["agent"], content["operator"]


def read_hinted_names(path: str) -> tuple[str, str]:
    """Agent and operator as nip46.json names them; raises AvaultError."""
    content = read_hints(path)
    return content["agent_npub"], content["signer_npub"]


NAME_READERS = {"nsec.enc": read_recovery_names, "nip46.json": read_hinted_names}


def check_payloads(path: str, data: bytes) -> None:
    """Raise Tampered unless avault.enc is made of NIP-44 v2 payloads, one a line.

    More cannot be told without the key.
    """
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            payload = binascii.a2b_base64(line, strict_mode=True)
        except binascii.Error:
            payload = b""
        if len(payload) < 99 or payload[0] != 2 or not data.endswith(b"\n"):
            what = (
                "holds a merge conflict of git's"
                if line.startswith((b"<<<<<<<", b"=======", b">>>>>>>"))
                else "is damaged"
            )
            hint = "avault sync" if "conflict" in what else FROM_BACKUP
            raise Tampered(f"{path} {what}, in line {number}", hint)


def check_attributes(places: Places) -> Iterator[Finding]:
    """.gitattributes, which keeps git from mixing two versions of a file line by line."""
    path = places.file(".gitattributes")
    try:
        wanted = complete_attributes(path)
        lines = read_file(path).splitlines() if os.path.lexists(path) else []
    except AvaultError as error:
        yield bad(error)
        return

    def add() -> str:
        write_file(path, wanted)
        return f"completed {path}"

    if [line for line in wanted.splitlines() if line not in lines and not line.startswith(b"#")]:
        yield Finding(
            "bad", f"{path} does not keep git from mixing ciphertexts", "avault doctor --fix", add
        )
