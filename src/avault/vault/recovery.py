"""The recovery copy, nsec.enc, beside an open vault: verified, and made anew.

It is all that is left where a machine is lost, and nothing opens it in the meantime: a bad one
would be noticed when it is too late.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered
from avault.keys.nostr import decrypt, to_npub
from avault.keys.seal import open_nsec, open_vault, seal_nsec
from avault.places import Places, sha256
from avault.vault.files import FileChanged, has_bytes, look_at, read_file, write_file
from avault.vault.own_files import decode_file, encode_file, others_of
from avault.vault.presence import as_operator, read_sealed, read_vault
from avault.vault.records import Vault
from avault.vault.statements import statements_of, succeed_vault
from avault.vault.work_tree import is_git_at_work

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys


def carry(vault: Vault) -> dict[str, list[str]]:
    """What nsec.enc has besides the key: that the agents before have said who takes their place."""
    statements = statements_of(vault)
    return {"rotated": statements} if statements else {}


def verify_recovery(data: bytes, keys: Keys, vault: Vault) -> None:
    """Raise Tampered unless these bytes of an nsec.enc lead the operator to the agent's key.

    The agent's key opens the envelope as the operator's does (NIP-44): nobody is asked.
    """
    whole = decode_file("nsec", data, "nsec.enc")
    names = (vault.identity, vault.name, to_npub(vault.operator), to_npub(vault.agent))
    if (whole["vault"], whole["name"], whole["operator"], whole["agent"]) != names:
        raise Tampered("nsec.enc is of another vault, agent or operator")
    wanted = [to_npub(operator) for operator in vault.operators()]
    if [whole["operator"], *(str(other["operator"]) for other in others_of(whole))] != wanted:
        raise Tampered("nsec.enc is not for the operators that the vault has")
    try:
        for operator in vault.operators():
            content = as_operator(whole, to_npub(operator)) or whole
            open_nsec(content, decrypt(keys, operator, content["envelope"]))
    except (Tampered, ValueError):
        raise Tampered("nsec.enc does not open") from None


def is_recovery(data: bytes, keys: Keys, vault: Vault) -> bool:
    """Whether these bytes are a recovery copy of that vault."""
    try:
        verify_recovery(data, keys, vault)
    except AvaultError:
        return False
    return True


def is_for_several(places: Places) -> bool:
    """Whether nsec.enc is for several operators, as far as it tells."""
    try:
        return bool(others_of(read_sealed("nsec", places.file("nsec.enc"))))
    except AvaultError:
        return False


def seal_recovery(keys: Keys, vault: Vault, host: str) -> dict[str, Any]:
    """What is in nsec.enc: for each operator an envelope of its own, and what that opens."""
    first, *others = [
        seal_nsec(keys, vault.identity, operator, vault.name, host)
        for operator in vault.operators()
    ]
    told = [{name: other[name] for name in ("operator", "envelope", "sealed")} for other in others]
    return {**first, **({"others": told} if told else {}), **carry(vault)}


class Recovery:
    """The recovery copy of an open vault: looked at when it changes, made anew if it does not open.

    `digest` is the hash of what was verified last, `warning` what should be known of it.
    """

    def __init__(self, places: Places, host: str) -> None:
        self.places, self.host = places, host
        self.seen: tuple[int, ...] | None = ()
        self.digest = self.warning = ""
        self.operators: list[str] = []  # whom it was verified for
        self.was_made = False  # anew, since the vault was opened

    def is_changed(self, vault: Vault) -> bool:
        """Whether the file, or for whom it is, is another than what was verified."""
        is_same = look_at(self.places.file("nsec.enc")) == self.seen
        return not is_same or self.operators != vault.operators()

    def verify(self, keys: Keys, vault: Vault) -> bool:
        """Verify the file, and make it anew if it does not open: whether that was so.

        While git is at work, or the vault is gone too, the file may be on its way: look again.
        """
        path = self.places.file("nsec.enc")
        seen, problem, over, data = look_at(path), None, None, b""
        self.operators = vault.operators()
        try:
            if os.path.islink(path):
                raise Tampered("nsec.enc is a link")
            data = read_file(path)
            over = sha256(data).hex()
            verify_recovery(data, keys, vault)
        except AvaultError as error:
            problem, over = error, "" if isinstance(error, NotFound) else over
        if not problem:
            self.warning = self.warning if self.was_made else ""
            self.seen = seen
            self.note(data)
            return False
        beside = self.open_beside(keys)
        successor = succeed_vault(self.places, vault)
        if successor and not (isinstance(successor, Tampered) and beside):
            self.warning, self.was_made = f"{successor.message}; {successor.hint}", False
            return False
        problem = successor or problem
        if beside and is_recovery(data, keys, beside):  # of operators who came meanwhile
            self.warning, self.was_made = (
                f"{problem.message}, but is of the avault.enc there",
                False,
            )
            return False
        if is_git_at_work(self.places.dir) or not os.path.lexists(self.places.file("avault.enc")):
            self.warning, self.was_made = f"{problem.message}; it is looked at again", False
            return False
        try:
            data = encode_file("nsec", seal_recovery(keys, vault, self.host))
            write_file(path, data, over=over)  # what a git pull brings meanwhile is looked at first
            self.seen = look_at(path)
            self.note(data)
            self.warning = (
                f"the recovery copy did not open the vault, and was made anew: {problem.message}"
            )
            self.was_made = True
            return True
        except FileChanged:
            return False
        except AvaultError as error:
            self.seen, self.digest = seen, ""
            self.warning = f"{problem.message}, so nothing but this machine opens the vault; "
            self.warning += f"nor can it be made anew: {error.message}"
            return False

    def open_beside(self, keys: Keys) -> Vault | None:
        """What avault.enc on the disk is, where it is under this agent's key."""
        try:
            return open_vault(read_vault(self.places), keys)
        except AvaultError:
            return None

    def note(self, data: bytes) -> None:
        """Remember what was verified, also for a locked vault; failing that, `forget` refuses."""
        self.digest = sha256(data).hex()
        path = self.places.own("recovery.json")
        content = encode_file("recovery", {"hash": self.digest})
        try:
            if not has_bytes(path, content):
                write_file(path, content)
        except AvaultError:
            pass


def read_verified(places: Places) -> str:
    """The SHA-256 of the nsec.enc last seen to open this vault; "" for none. Raises Tampered."""
    path = places.own("recovery.json")
    return (
        str(decode_file("recovery", read_file(path), path)["hash"]) if os.path.lexists(path) else ""
    )


def check_recovery(places: Places) -> None:
    """Raise AvaultError unless nsec.enc is what was last seen to open this vault; needs no key."""
    path = places.file("nsec.enc")
    read_sealed("nsec", path)
    if sha256(read_file(path)).hex() != read_verified(places):
        raise Tampered(
            f"{path} has changed since it was last seen to open this vault",
            "avault unlock, which looks whether it opens, and mends it",
        )
