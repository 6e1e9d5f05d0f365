"""Both sides of a conflict, merged."""

from __future__ import annotations

import shlex

from avault.client import ask_daemon
from avault.errors import Locked, Unavailable, Usage, printable
from avault.git.committed import ATTRIBUTES, HINTS, RECOVERY, VAULT, Conflict, is_custodian
from avault.git.copies import copies, has_all, inspect
from avault.git.repository import Repository
from avault.places import Places
from avault.vault.files import VAULT_LIMIT, read_file
from avault.vault.own_files import decode_file


def merge_public(name: str, ours: bytes, theirs: bytes) -> None:
    """Merge nsec.enc, nip46.json or a custodian's file, which needs no key.

    Ours stays, if both sides are for the same agent and operator.

    Each machine that recovers or pairs anew writes its own, and the operator's phone opens either.
    Of two custodians of one name, each machine has its own still. Raises Conflict.
    """
    fields = {
        RECOVERY: ("vault", "agent", "operator", "name"),
        HINTS: ("agent_npub", "signer_npub", "name"),
    }
    kinds = {RECOVERY: "nsec", HINTS: "hints"}
    if is_custodian(name):
        fields[name], kinds[name] = ("vault", "agent", "custodian"), "custody"
    if name not in kinds:
        raise Usage(f"not a file of the vault: {printable(name)}")
    one, other = (decode_file(kinds[name], data, name) for data in (ours, theirs))
    if differing := [field for field in fields[name] if one[field] != other[field]]:
        raise Conflict(
            f"{name} is another on both sides: {', '.join(differing)}",
            f"choose one: git checkout --ours or --theirs {name}",
        )


def settle_vault(places: Places, ours: bytes, theirs: bytes) -> None:
    """Merge both sides of a conflict into the vault that is served.

    Raises Conflict while it is locked or keys collide.
    """
    try:
        for side in (ours, theirs):
            served = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT))
            if not has_all(served, inspect(places, side)):
                with copies(places, side) as [name]:
                    ask_daemon(places, "merge", theirs=name)
        conflicts = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT)).conflicts
    except (Locked, Unavailable) as error:
        raise Conflict(
            f"avault.enc is in conflict, and {error.message}",
            "the next unlock merges it: avault unlock",
        ) from None
    if conflicts:
        many = "a key was" if len(conflicts) == 1 else f"{len(conflicts)} keys were"
        raise Conflict(
            f"{many} set on two machines; both values are in the vault",
            "see: avault list; settle with: avault set",
        )


def settle(repository: Repository, places: Places) -> bool:
    """Resolve conflicts that git has left in our files: True if there were some. Raises Conflict.

    Both sides of avault.enc are merged into the vault that is served, which is in the work tree.
    """
    index = repository.index()
    stages = {
        name: {entry.stage: entry.object for entry in index.get(repository.paths[name], [])}
        for name in repository.paths
        if name != ATTRIBUTES
    }
    stages = {name: found for name, found in stages.items() if found.keys() - {0}}
    for name, found in stages.items():
        path = repository.paths[name]
        if 2 not in found or 3 not in found:
            raise Conflict(
                f"{path} was deleted on one side", "keep it: git add; or let it go: git rm"
            )
        ours, theirs = repository.blob(found[2]), repository.blob(found[3])
        if name == VAULT:
            settle_vault(places, ours, theirs)
        else:
            merge_public(name, ours, theirs)
        resolved = repository.files().get(path)
        if name != VAULT and resolved not in found.values():
            raise Conflict(
                f"{path} is of neither side", f"when it is right: git add {shlex.quote(path)}"
            )
        repository.stage([path])
    return bool(stages)
