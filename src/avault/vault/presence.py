"""Which of a vault's files are there, and what they are for whom has not opened it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered
from avault.nostr import to_npub
from avault.places import Places
from avault.vault.files import VAULT_LIMIT, read_file, refuse_foreign
from avault.vault.own_files import NAME_CHARACTERS, decode_file
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any


def refuse_to_overwrite(places: Places) -> None:
    """Raise AvaultError where a vault's files are, or what is left of one.

    `init` makes none over them.

    An `init` that was cut off leaves hints and an unlock.json, and no pin: it may begin anew.
    """
    for name in ("avault.enc", "nsec.enc"):
        if is_file_there(places.file(name)):
            raise AvaultError(
                f"there is a vault already: {places.file(name)}",
                "use it, or choose another place with --dir",
            )
    refuse_foreign(places.file(".gitattributes"))
    if os.path.lexists(hints := places.file("nip46.json")):
        refuse_foreign(hints)
        decode_file("hints", read_file(hints), hints)
    if was_here(places):
        unlock = places.own("unlock.json")
        raise AvaultError(
            f"a vault was here, and {unlock} may be the last copy of its key", PUT_BACK
        )


PUT_BACK = "put that vault back, from git or a backup; or choose another place with --dir"


def was_here(places: Places) -> bool:
    """Whether this machine has opened a vault here, be it gone or not."""
    return all(os.path.lexists(places.own(name)) for name in ("unlock.json", "pin.json"))


def no_vault(places: Places) -> NotFound:
    """What is said where no vault is."""
    if was_here(places):
        return NotFound(f"no vault in {places.dir}, where one was", PUT_BACK)
    return NotFound(
        f"no vault in {places.dir}", "make one with: avault init, or name one with --dir"
    )


def has_vault(places: Places) -> bool:
    """Whether there is anything of a vault; raises AvaultError where we may not look."""
    return any(is_file_there(places.file(name)) for name in ("avault.enc", "nsec.enc"))


def is_file_there(path: str) -> bool:
    """Whether there is a file, or a link.

    Raises AvaultError where we may not look: that is not the same as none.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        closed = os.path.dirname(path)
        raise AvaultError(
            f"cannot look into {closed}: {error.strerror}", f"whose is it? ls -ld {closed}"
        ) from None
    return True


def need_vault(places: Places) -> None:
    """Raise NotFound where there is nothing of a vault."""
    if not has_vault(places):
        raise no_vault(places)


def read_vault(places: Places) -> bytes:
    """The bytes of avault.enc; raises Tampered where it is gone."""
    try:
        return read_file(places.file("avault.enc"), VAULT_LIMIT)
    except NotFound:
        raise Tampered(
            f"{places.file('avault.enc')} is gone", "put it back, from git or from a backup"
        ) from None


def read_unlock(places: Places) -> tuple[dict[str, Any], bool]:
    """What the phone is to be asked for, and whether it is this machine's own.

    unlock.json, or nsec.enc where there is none. Raises NotFound, Tampered.
    """
    try:
        return read_sealed("unlock", places.own("unlock.json")), True
    except NotFound:
        pass
    if not is_file_there(places.file("nsec.enc")):
        raise no_vault(places)
    return read_sealed("nsec", places.file("nsec.enc")), False


def read_sealed(kind: str, path: str) -> dict[str, Any]:
    """The content of nsec.enc or unlock.json, which people are shown; raises Tampered."""
    content = decode_file(kind, read_file(path), path)
    npubs = [content["agent"], content["operator"]]
    if (
        all(npub.startswith("npub1") and npub.isalnum() and npub.isascii() for npub in npubs)
        and set(content["name"]) <= NAME_CHARACTERS
    ):
        return content
    raise Tampered(f"{path} names nobody", "take it from a backup or from git history")


def is_of(vault: Vault, content: dict[str, Any]) -> bool:
    """Whether a vault is that of `content`, which is unlock.json's or nsec.enc's."""
    named = (content["vault"], content["name"], content["operator"])
    return (vault.identity, vault.name, to_npub(vault.operator)) == named
