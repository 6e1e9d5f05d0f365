"""Which of a vault's files are there, and what they are for whom has not opened it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Locked, NotFound, Tampered
from avault.keys.nostr import parse_npub, to_npub
from avault.places import SANDBOX, Places
from avault.vault.files import VAULT_LIMIT, read_file, refuse_foreign
from avault.vault.own_files import NAME_CHARACTERS, decode_file, others_of, read_hints
from avault.vault.records import Vault
from avault.vault.statements import find_successor, succeed_known

if TYPE_CHECKING:
    from typing import Any


def refuse_to_overwrite(places: Places, begun: str = "") -> None:
    """Raise AvaultError where a vault's files are, or what is left of one.

    `init` makes none over them.

    An `init` that was cut off leaves hints and an unlock.json, and no pin: it may begin anew. So
    does a recovery from relays, which leaves an nsec.enc of the agent that was `begun` with (hex).
    """
    names = ("avault.enc",) if begun and is_begun(places, begun) else ("avault.enc", "nsec.enc")
    for name in names:
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


def is_begun(places: Places, agent: str) -> bool:
    """Whether nsec.enc is one of that agent (hex)."""
    try:
        return parse_npub(read_sealed("nsec", places.file("nsec.enc"))["agent"]) == agent
    except AvaultError:
        return False


PUT_BACK = "put that vault back, from git or a backup; or choose another place with --dir"


def was_here(places: Places) -> bool:
    """Whether this machine has opened a vault here, be it gone or not."""
    return all(os.path.lexists(places.own(name)) for name in ("unlock.json", "pin.json"))


def no_vault(places: Places) -> NotFound:
    """What is said where no vault is, or where it is out of sight."""
    if os.path.isdir(SANDBOX):
        return NotFound(
            "this is a sandbox of avault's, and no vault is in its reach",
            "what was chosen for the command is in its environment; who started it can give more",
        )
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


def read_unlock(places: Places, operator: str | None = None) -> tuple[dict[str, Any], bool]:
    """What the phone is to be asked for, and whether it is this machine's own.

    unlock.json, or nsec.enc where there is none, or where it is for another than this `operator`
    (an npub; None: whoever it is for). Raises NotFound, Tampered, and Locked where the agent's key
    was rotated on another machine.
    """
    own = None
    if is_file_there(path := places.own("unlock.json")):
        own = read_sealed("unlock", path)
        if successor := find_successor(places, own["vault"], own["agent"], own["operator"]):
            raise successor
        if operator in (None, own["operator"]) or not is_file_there(places.file("nsec.enc")):
            return own, True
        if branch := succeed_known(places, own):
            raise branch
    if not is_file_there(places.file("nsec.enc")):
        raise no_vault(places)
    whole = read_sealed("nsec", places.file("nsec.enc"))
    found = as_operator(whole, operator or whole["operator"])
    if own and not found:
        return own, True
    return found or {name: each for name, each in whole.items() if name != "others"}, False


def read_sealed(kind: str, path: str) -> dict[str, Any]:
    """The content of nsec.enc or unlock.json, which people are shown; raises Tampered."""
    content = decode_file(kind, read_file(path), path)
    others = others_of(content)
    npubs = [content["agent"], content["operator"], *(each["operator"] for each in others)]
    if (
        all(npub.startswith("npub1") and npub.isalnum() and npub.isascii() for npub in npubs)
        and set(content["name"]) <= NAME_CHARACTERS
    ):
        return content
    raise Tampered(f"{path} names nobody", "take it from a backup or from git history")


def as_operator(content: dict[str, Any], operator: str) -> dict[str, Any] | None:
    """What one operator (an npub) opens of nsec.enc's content; None for a stranger."""
    found = {name: value for name, value in content.items() if name != "others"}
    if operator == content["operator"]:
        return found
    for other in others_of(content):
        if other["operator"] == operator:
            return {**found, **other}
    return None


def is_of(vault: Vault, content: dict[str, Any]) -> bool:
    """Whether a vault is that of `content`, which is unlock.json's or nsec.enc's.

    With None for an operator, whoever that is: not all open it by an operator's envelope.
    """
    named = (content["vault"], content["name"])
    operators = [None, *(to_npub(each) for each in vault.operators())]
    return (vault.identity, vault.name) == named and content["operator"] in operators


def refuse_other(vault: Vault, content: dict[str, Any]) -> None:
    """Raise Tampered, and Denied for who was an operator, where a vault is not of `content`."""
    if is_of(vault, content):
        return
    if f"operator/{content['operator']}" in vault.facts_of("revoked"):
        npub = to_npub(vault.operator)
        raise Denied(
            f"{content['operator']} approves for this vault no more",
            f"pair with its operator's phone: avault pair --replace --operator {npub}",
        )
    raise Tampered(
        "avault.enc belongs to another vault or another operator",
        "take it from git history or from a backup",
    )


def refuse_successor(ours: Vault, found: Vault) -> None:
    """Raise Locked where what was found has another first operator than the open vault knows."""
    if ours.operator != found.operator:
        npub = to_npub(found.operator)
        raise Locked(
            f"avault.enc has another first operator, {npub}, than the open vault",
            "if you know of that: avault lock, then avault unlock; else take it from git history",
        )


def doubt_hints(places: Places, vault: Vault) -> str:
    """What is wrong with nip46.json beside a vault that is open; "" for nothing."""
    try:
        hints = read_hints(places.file("nip46.json"))
    except AvaultError as error:
        return error.message
    operators = [to_npub(each) for each in vault.operators()]
    named = hints["agent_npub"], hints["name"]
    if named == (to_npub(vault.agent), vault.name) and hints["signer_npub"] in operators:
        return ""
    return (
        "nip46.json names another agent, operator or name than the vault does; it is not believed"
    )
