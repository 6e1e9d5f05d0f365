"""The guards that this machine has seen: guards.enc, in the state directory.

An older copy of the vault, though it was accepted, brings none of them back to what it was before.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Tampered
from avault.keys.nostr import decrypt, parse_npub
from avault.keys.seal import old_keys, open_vault, seal_vault, unseal
from avault.places import Places
from avault.vault.files import VAULT_LIMIT, has_bytes, read_file, write_file
from avault.vault.guard_changes import link_known
from avault.vault.guards import (
    Guards,
    join_facts,
    lacks_known,
    list_known,
    only_additions,
    own_facts,
)
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys


class KeptGuards:
    """A sealed vault that has nothing but the facts about guards.

    `warning` is what should be known about it, `damage` what of that was wrong at first.
    """

    def __init__(self, places: Places, keys: Keys) -> None:
        self.keys, self.path, self.warning = keys, places.own("guards.enc"), ""
        self.damage = ""
        self.kept: dict[str, list[Any]] = {}
        self.data: bytes | None = None  # what was written last, or read

    def read(self, vault: Vault) -> dict[str, Any]:
        """The facts in it; none where it is not this vault's, or of none of its agents.

        Of what an agent's key before had sealed, what it adds is taken: see `only_additions`.
        """
        if not os.path.lexists(self.path):
            return {}
        for keys in (self.keys, *old_keys(vault)):
            with contextlib.suppress(AvaultError):
                self.data = read_file(self.path, VAULT_LIMIT)
                found = open_vault(self.data, keys)
                if found.identity == vault.identity:
                    facts = own_facts(found.facts)
                    return facts if keys is self.keys else only_additions(vault.facts, facts)
        self.damage = "guards.enc was damaged, and is made anew from what the vault has"
        return {}

    def join(self, vault: Vault, content: dict[str, Any]) -> Vault:
        """The vault with the guards that this machine has seen besides.

        What was known when the vault was open last (see `read_known`) is in `content`; raises
        Tampered where it is neither here nor there.
        """
        seen = self.read(vault)
        self.kept = list_facts(seen)
        draft = vault.copy()
        draft.facts = dict(sorted({**other_facts(vault), **join_facts(vault.facts, seen)}.items()))
        if list_facts(own_facts(draft.facts)) != list_facts(own_facts(vault.facts)):
            link_known(draft)
        if lacks_known(draft.facts, content.get("guards", {})):
            raise Tampered(
                "guards or payments known to this machine are in neither avault.enc nor guards.enc",
                "get the latest (git pull), or put guards.enc back;"
                " if they are lost: move unlock.json away, and the phone is asked for nsec.enc",
            )
        return draft

    def keep(self, vault: Vault) -> None:
        """Remember the guards of what is served.

        What cannot be kept is served all the same: the vault itself is written.
        """
        facts = own_facts(vault.facts)
        if list_facts(facts) == self.kept and (not facts or os.path.lexists(self.path)):
            return
        twin = Vault(vault.identity, vault.agent, vault.operator, vault.name)
        twin.facts = facts  # of no generation: nobody can merge it, as if it had no secrets
        try:
            data = seal_vault(twin, self.keys)
            write_file(self.path, data)
            self.kept, self.data, self.warning = list_facts(facts), data, self.damage
        except AvaultError as error:
            self.warning = f"an older copy of the vault could be without guards: {error.message}"

    def restore(self, vault: Vault) -> bool:
        """Write it anew where the disk has another than it should; whether that was so."""
        if not self.kept or self.data is None or has_bytes(self.path, self.data):
            return False
        self.kept = {}
        self.keep(vault)
        return True


def list_facts(facts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Facts, to be compared."""
    return {name: [each.to_list() for each in found] for name, found in facts.items()}


def other_facts(vault: Vault) -> dict[str, list[Any]]:
    """The facts that are not about guards."""
    own = own_facts(vault.facts)
    return {name: found for name, found in vault.facts.items() if name not in own}


def lacks_guards(found: Vault, ours: Vault) -> bool:
    """Whether a copy of the vault is without guards that another one has."""
    own = own_facts(found.facts)
    return list_facts(join_facts(own, ours.facts)) != list_facts(own)


def known_guards(vault: Vault) -> dict[str, int]:
    """What a machine is to know of a vault's guards when it opens it again."""
    return list_known(Guards(vault.facts))


def read_known(keys: Keys, content: dict[str, Any]) -> dict[str, int]:
    """The guards that were known when `content` was sealed, as the agent's key opens that too."""
    try:
        answer = decrypt(keys, parse_npub(content["operator"]), content["envelope"])
        known = unseal(content, answer)[1].get("guards", {})
        return {str(name): int(count) for name, count in known.items()}
    except (Tampered, ValueError, TypeError, KeyError, AttributeError):
        return {}
