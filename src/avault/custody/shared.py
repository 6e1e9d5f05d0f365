"""Custodians for all machines of a vault: their files lie in the vault directory, signed.

Whoever can push can change, remove or bring back such a file. So the agent signs what a custodian
is, and what its unlock key opens; and no machine uses one that nobody named there.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Tampered, Usage, printable
from avault.keys.nostr import parse_npub, read_signed, sign_text
from avault.places import Places, sha256
from avault.vault.files import read_file, sync_directory, write_file
from avault.vault.machine import GIVEN, RETIRED
from avault.vault.machines import knows_phone
from avault.vault.own_files import complete_attributes, decode_file, encode_file

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from avault.keys.nostr import Keys
    from avault.vault.records import Vault


FILE_NAME = r"custody-([a-z0-9][a-z0-9-]{0,31})\.json"
# also what is kept, which a program or a server is given
STATED = (
    "vault", "name", "agent", "operator", "custodian", "kind", "account", "asks", "settings",
    "sealed", "agreed", "kept",
)  # fmt: skip
REMOVED, REPLACED = "removed", "replaced"  # what became of one that is used no more
DESCRIBED = ("custodian", "kind", "settings", "agent")
LOCAL_KINDS = {
    "phone": "each machine pairs with a phone itself",
    "keychain": "a keychain is of one machine",
    "systemd": "what systemd-creds encrypts is for one machine",
}


def state_custodian(content: dict[str, Any]) -> str:
    """What the agent signs of a custodian."""
    said = {"type": "avault/shared", "version": 1}
    return json.dumps({**said, **{name: content[name] for name in STATED}})


def digest_shared(content: dict[str, Any]) -> str:
    """What tells a shared custodian from others: the SHA-256 (hex) of what the agent signs."""
    return sha256(state_custodian(content).encode()).hex()


def list_retired(vault: Vault) -> dict[str, str]:
    """The digests of shared custodians that are used no more, as a vault knows them, and why."""
    return vault.facts_of(RETIRED)


def list_given(vault: Vault) -> dict[str, dict[str, Any]]:
    """What a vault knows of shared custodians, by their digests: the fields of `describe_given`.

    Those that are used no more are among them; those that an avault before has shared are not.
    """
    return read_described(vault.facts_of(GIVEN))


def read_described(found: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What is stated of shared custodians, by their digests, as `list_given` has it."""
    none = dict.fromkeys(DESCRIBED, "")
    return {digest: {**none, **json.loads(text)} for digest, text in found.items()}


def describe_given(content: dict[str, Any]) -> dict[str, Any]:
    """What a vault keeps of a shared custodian."""
    return {name: content[name] for name in DESCRIBED}


def state_given(
    vault: Vault, given: dict[str, dict[str, Any]], agent: str, now: int, machine: str
) -> None:
    """Have a vault know of shared custodians that an agent (an npub) has signed."""
    for digest, content in given.items():
        if content["agent"] == agent:
            text = json.dumps(describe_given(content), sort_keys=True)
            vault.state(f"{GIVEN}/{digest}", text, now, machine)


def name_given(given: dict[str, dict[str, Any]], name: str, agent: str | None = None) -> list[str]:
    """The digests of those that were given to all under a name, by an agent, or by any."""
    return sorted(
        digest
        for digest, each in given.items()
        if each["custodian"] == name and agent in (None, each["agent"])
    )


def refuse_retired(
    content: dict[str, Any],
    retired: Collection[str],
    given: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Raise Tampered for one that was taken away or replaced, by the digests of those that were.

    The vault knows them: whoever brings such a file back has the agent's signature, and nothing
    else. So is one of a name of which it knows others, and not this.
    """
    if not content.get("signed"):
        return
    name, digest = content["custodian"], digest_shared(content)
    known = name_given(given or {}, name, content["agent"])
    who = f"who has put it there? git log custody-{name}.json"
    if digest in retired:
        raise Tampered(
            f"the shared custodian {name} was taken away or replaced, and its old file is back",
            f"{who}; then: avault custody remove {name}",
        )
    if known and digest not in known:
        raise Tampered(
            f"the shared custodian {name} is another than the one that this vault knows",
            f"get the latest vault: avault sync; if it is that already, {who}",
        )


def refuse_removed(content: dict[str, Any], vault: Vault) -> None:
    """Raise Tampered for a machine's own copy of what was taken away for all, where it has a phone.

    What was replaced goes on until the new one is taken in; a vault without a phone has nothing
    besides.
    """
    became = list_retired(vault).get(digest_shared(content)) if content.get("signed") else None
    if became == REMOVED and knows_phone(vault):
        name = content["custodian"]
        raise Tampered(
            f"the shared custodian {name} was taken away, for all machines",
            f"avault custody remove {name} --here",
        )


def is_shared(content: dict[str, Any]) -> bool:
    """Whether a custodian is one for all machines: its own agent says so, and nobody else."""
    try:
        check_custodian_of(content, content["agent"])
    except AvaultError:
        return False
    return True


class Unsigned:
    """A shared custodian that was agreed to, until it is known what it keeps: then it is signed."""

    def __init__(self) -> None:
        self.keys: Keys | None = None
        self.agreed: dict[str, Any] = {}
        self.signed: dict[str, dict[str, Any]] = {}  # those that were, by their digests

    def expect(self, keys: Keys, content: dict[str, Any]) -> None:
        """Be ready to sign this one, once; it is not known yet what it keeps."""
        self.keys, self.agreed = keys, {name: content[name] for name in STATED if name != "kept"}

    def sign(self, content: dict[str, Any]) -> dict[str, str]:
        """What makes a custodian one for all machines; raises Denied for one not agreed to."""
        keys, self.keys = self.keys, None
        if not keys or any(content[name] != known for name, known in self.agreed.items()):
            raise Denied("that is not the custodian that was agreed to")
        self.signed[digest_shared(content)] = content
        return {"signed": sign_text(keys, state_custodian(content))}


def check_custodian_of(content: dict[str, Any], agent: str) -> None:
    """Raise Tampered unless an agent (an npub) has signed that custodian as it is."""
    try:
        author, said = read_signed(content.get("signed", ""))
        if author == parse_npub(agent) and said == state_custodian(content):
            return
    except ValueError:
        pass
    name = content["custodian"]
    raise Tampered(
        f"the shared custodian {name} is not signed by this vault's agent",
        f"take its file from git history (git log custody-{name}.json), or add it again",
    )


def refuse_local(kind: str, settings: dict[str, str]) -> None:
    """Raise Usage for what opens a vault on one machine only, itself or as a member of a quorum."""
    members = settings.get("of", "").split(",") if kind == "quorum" else []
    for each in (kind, *(member.strip().partition(":")[0] for member in members)):
        if each in LOCAL_KINDS:
            raise Usage(f"{each} cannot be shared: {LOCAL_KINDS[each]}", "add it without --shared")


class Shared:
    """The custodians in the vault directory. Each machine that uses one has its own copy."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def names(self) -> list[str]:
        """Those that have a file, by their names."""
        try:
            found = os.listdir(self.places.dir)
        except OSError:
            return []
        return sorted(match[1] for name in found if (match := re.fullmatch(FILE_NAME, name)))

    def path_of(self, name: str) -> str:
        """The file of one."""
        return self.places.file(f"custody-{name}.json")

    def read(self, name: str) -> dict[str, Any]:
        """What its file says, whoever has written it; raises NotFound, Tampered."""
        path = self.path_of(name)
        if name not in self.names():
            raise NotFound(
                f"there is no shared custodian {printable(name)}", "see: avault custody list"
            )
        content = decode_file("custody", read_file(path), path)
        words = [each for pair in content["settings"].items() for each in pair]
        if content["custodian"] != name or not all(isinstance(each, str) for each in words):
            raise Tampered(f"{path} is damaged", "take it from git history")
        return content

    def load(self, name: str, agent: str) -> dict[str, Any]:
        """What the vault's agent (an npub) has said of one; raises NotFound, Tampered."""
        content = self.read(name)
        check_custodian_of(content, agent)
        return content

    def save(self, content: dict[str, Any]) -> None:
        """Give a custodian to all machines."""
        self.keep_whole()
        write_file(self.path_of(content["custodian"]), encode_file("custody", content))

    def keep_whole(self) -> None:
        """See to it that git mixes no two versions of their files."""
        path = self.places.file(".gitattributes")
        wanted = complete_attributes(path)
        if not os.path.lexists(path) or read_file(path) != wanted:
            write_file(path, wanted)

    def drop(self, name: str) -> None:
        """Take the file of one away."""
        path = self.path_of(name)
        if os.path.lexists(path):
            os.unlink(path)
            sync_directory(os.path.dirname(path))
