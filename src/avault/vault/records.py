"""The vault as data: groups, keys and their names; merging two copies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound
from avault.vault.generations import check_dot, is_after, maximum
from avault.vault.guard_changes import link_known, note_moves
from avault.vault.guards import check_facts, is_kept, join_facts
from avault.vault.names import (
    PHONE,
    check_group,
    check_key,
    check_value,
    is_operator,
    is_public_key,
)
from avault.vault.secret import Secret, arrange, is_sealed, read_fact_values, read_secrets

if TYPE_CHECKING:
    from collections.abc import Callable


OTHERS = 32  # operators besides the first
SUCCEEDED = "succeeded/operator"  # the fact that another is the first operator now


class Group:
    """A group: its keys, and a note.

    A key has the secret that is served, first, and those in conflict with it.
    """

    __slots__ = ("keys", "note")

    def __init__(
        self, keys: dict[str, list[Secret]], note: tuple[str, str, int] = ("", "", 0)
    ) -> None:
        self.keys = keys
        self.note = note  # text, machine, count


class Vault:
    """All secrets, and what binds them to one vault, one agent and one operator.

    `made_for` is the operator (hex) whom it was made for. `generation` maps a machine id to the
    number of its writes; `sources` are the SHA-256 hashes of the ciphertexts that this one was made
    from. `facts` are what avault itself has to know wherever the vault is, by name, as
    "machine/ID": no command shows them so.
    """

    def __init__(self, identity: str, agent: str, operator: str, name: str) -> None:
        self.identity, self.agent, self.made_for, self.name = identity, agent, operator, name
        self.generation: dict[str, int] = {}
        self.sources: list[str] = []
        self.groups: dict[str, Group] = {}
        self.facts: dict[str, list[Secret]] = {}

    def copy(self) -> Vault:
        """A copy that can be changed without changing this one."""
        twin = Vault(self.identity, self.agent, self.made_for, self.name)
        twin.generation, twin.sources = dict(self.generation), list(self.sources)
        twin.groups = {
            name: Group(dict(group.keys), group.note) for name, group in self.groups.items()
        }
        twin.facts = dict(self.facts)
        return twin

    def take(self, other: Vault) -> None:
        """Have what another has."""
        self.groups, self.facts = other.groups, other.facts
        self.generation, self.sources = other.generation, other.sources

    def count(self) -> int:
        """How many keys there are."""
        return sum(len(group.keys) for group in self.groups.values())

    def group(self, name: object) -> Group:
        """The group of that name; raises NotFound."""
        try:
            return self.groups[check_group(name)]
        except KeyError:
            raise NotFound(f"no group {name}", "see what there is: avault list") from None

    def secrets(self, group: object, key: object) -> list[Secret]:
        """The secret of a key, and those in conflict with it; raises NotFound."""
        try:
            return self.group(group).keys[check_key(key)]
        except KeyError:
            hint = "see what there is: avault list"
            raise NotFound(f"no key {key} in group {group}", hint) from None

    def put(self, group: str, key: str, value: str, now: int, machine: str) -> None:
        """Set a key; it belongs to the machine's write after this generation."""
        keys = self.groups.setdefault(check_group(group), Group({})).keys
        created = keys[key][0].created if check_key(key) in keys else now
        kept = value if is_sealed(value) else check_value(value)
        count = self.generation.get(machine, 0) + 1
        keys[key] = [Secret(kept, created, now, machine, count)]

    def annotate(self, group: str, note: str, machine: str) -> None:
        """Set the note of a group that exists."""
        self.group(group).note = (note, machine, self.generation.get(machine, 0) + 1)

    def move(self, old: tuple[str, str], new: tuple[str, str], now: int, machine: str) -> None:
        """Give a key another name, in its group or in another one; raises NotFound, Denied."""
        self.move_all([(old, new)], now, machine)

    def move_all(
        self, moves: list[tuple[tuple[str, str], tuple[str, str]]], now: int, machine: str
    ) -> None:
        """Give keys other names; raises NotFound, Denied."""
        for old, new in moves:
            self.rename(old, new, now, machine)
        note_moves(self, [("/".join(old), "/".join(new)) for old, new in moves], now, machine)

    def rename(self, old: tuple[str, str], new: tuple[str, str], now: int, machine: str) -> None:
        """Have a value under a name that is not there yet, and not under the one before."""
        found = self.secrets(*old)
        if len(found) > 1:
            raise Denied(
                f"{'/'.join(old)} was set by two machines",
                f"settle it first: avault set {'/'.join(old)}",
            )
        if new[0] in self.groups and new[1] in self.groups[new[0]].keys:
            raise Denied(
                f"there is a {'/'.join(new)} already",
                f"take it away first: avault delete {'/'.join(new)}",
            )
        self.put(*new, found[0].value, now, machine)
        self.groups[new[0]].keys[new[1]][0].created = found[0].created
        self.remove(*old)

    def remove(self, group: str, key: str | None) -> None:
        """Delete a key, or a whole group; a group without keys is gone."""
        if key is not None:
            self.secrets(group, key)
            del self.groups[group].keys[key]
        if key is None or not self.groups[group].keys:
            self.group(group)
            del self.groups[group]

    def fact(self, name: str) -> str | None:
        """What is known under that name; of what two machines said, the later."""
        return self.facts[name][0].value if name in self.facts else None

    def facts_of(self, kind: str) -> dict[str, str]:
        """What is known of one kind, by the second half of its name."""
        return {
            name.partition("/")[2]: found[0].value
            for name, found in self.facts.items()
            if name.partition("/")[0] == kind
        }

    @property
    def operator(self) -> str:
        """The first operator's public key (hex): whom it was made for, or who took that place."""
        found = self.fact(SUCCEEDED)
        return found if found and is_public_key(found) else self.made_for

    def other_operators(self) -> dict[str, str]:
        """The operators besides the first: their public keys (hex), by name.

        Who has the agent's key can write anything: what can be no operator is left out.
        """
        found = {
            name: key
            for name, key in sorted(self.facts_of("operator").items())
            if is_operator(name) and name != PHONE and is_public_key(key)
        }
        return dict(list(found.items())[:OTHERS])

    def is_of(self, other: Vault) -> bool:
        """Whether this is a copy of another one, of any generation, under the same agent's key."""
        names = other.identity, other.agent, other.made_for
        return (self.identity, self.agent, self.made_for) == names

    def operators(self) -> list[str]:
        """The operators' public keys (hex), each once, and the first one first."""
        return list(dict.fromkeys([self.operator, *self.other_operators().values()]))

    def state(self, name: str, value: str | None, now: int, machine: str) -> None:
        """Note a fact, or with None take it away; it belongs to the machine's next write."""
        if value is None:
            self.facts.pop(name, None)
        else:
            made = self.facts[name][0].created if name in self.facts else now
            count = self.generation.get(machine, 0) + 1
            self.facts[name] = [Secret(value, made, now, machine, count)]

    def hand_over(self, old: str, new: str, since: int) -> None:
        """Have what a machine wrote after that time stand under its next name.

        Another has counted writes under the old one, and of those nothing is known here: the vault
        claims no more of them than what it has from before. Facts about guards stay as they were
        said: what the operator took away goes by their counts, and no merge by their dots.
        """
        count, rest = self.generation.get(new, 0) + 1, 0
        facts = {name: found for name, found in self.facts.items() if not is_kept(name)}
        for found in (*(group.keys for group in self.groups.values()), facts):
            for name, secrets in found.items():
                found[name] = [each.hand_over(old, new, count, since) for each in secrets]
                mine = [each.count for each in found[name] if each.machine == old]
                rest = max([rest, *mine])
        self.facts |= facts
        for group in self.groups.values():
            text, machine, number = group.note
            if machine == old and number > rest:
                group.note = (text, new, count)
        self.generation.pop(old, None)
        self.generation |= {old: rest} if rest else {}

    def is_after(self, other: dict[str, int]) -> bool:
        """Whether this generation has everything that another has: no machine's count is lower."""
        return is_after(self.generation, other)

    def knows(self, machine: str, count: int) -> bool:
        """Whether a write was seen by this copy of the vault."""
        return self.generation.get(machine, 0) >= count

    def merge(self, other: Vault) -> Vault:
        """Both machines' work: by key, without clocks, with what collides kept side by side.

        A secret stays if both have it, or if one has it and the other never
        saw it. If the other saw it and has it no more, it was changed or deleted there.
        """
        merged = self.copy()
        merged.generation = maximum(self.generation, other.generation)
        merged.groups = {}
        for name in sorted({*self.groups, *other.groups}):
            ours, theirs = self.groups.get(name, Group({})), other.groups.get(name, Group({}))
            keys = {}
            for key in sorted({*ours.keys, *theirs.keys}):
                kept = merge_secrets(self, ours.keys.get(key, []), other, theirs.keys.get(key, []))
                if kept:
                    keys[key] = kept
            if keys:
                merged.groups[name] = Group(keys, merge_notes(self, ours.note, other, theirs.note))
        merged.facts = merge_facts(self, other)
        link_known(merged, self, other)
        return merged

    def to_json(self) -> str:
        """The body of the vault's plaintext; ASCII, one encoding for one content."""
        groups = {
            name: {
                "note": list(group.note),
                "keys": {
                    key: [secret.to_list() for secret in group.keys[key]]
                    for key in sorted(group.keys)
                },
            }
            for name, group in sorted(self.groups.items())
        }
        body = {"agent": self.agent, "operator": self.made_for, "name": self.name, "groups": groups}
        if self.facts:
            body["facts"] = {
                name: [each.to_list() for each in found]
                for name, found in sorted(self.facts.items())
            }
        return json.dumps(body, separators=(",", ":"))

    def load_json(self, body: str) -> None:
        """Fill this vault from `to_json`'s text.

        Raises ValueError, TypeError or KeyError for anything else.
        """
        content = json.loads(body)
        self.agent, self.made_for, self.name = (
            content["agent"],
            content["operator"],
            content["name"],
        )
        for name, group in content["groups"].items():
            keys = {key: read_secrets(found) for key, found in group["keys"].items()}
            text, machine, count = group["note"]
            check_dot(machine, count)
            self.groups[name] = Group(keys, (text, machine, count))
        facts = content.get("facts", {})
        self.facts = {name: read_fact_values(found) for name, found in facts.items()}
        check_facts(self.facts)


def attempt(change: Callable[[Vault], None], draft: Vault) -> AvaultError | None:
    """Apply a change to a draft, whole or not at all; the error that refused it."""
    twin = draft.copy()
    try:
        change(twin)
    except AvaultError as error:
        return error
    draft.take(twin)
    return None


def merge_facts(ours: Vault, theirs: Vault) -> dict[str, list[Secret]]:
    """The facts that are left of two copies of the vault; of guards, what either has."""
    names = sorted(name for name in {*ours.facts, *theirs.facts} if not is_kept(name))
    merged = {
        name: merge_secrets(ours, ours.facts.get(name, []), theirs, theirs.facts.get(name, []))
        for name in names
    }
    for name in names:  # what opens a value is kept, whichever side it comes from
        if name.startswith("lock/") and not merged[name]:
            merged[name] = arrange([*ours.facts.get(name, []), *theirs.facts.get(name, [])])
    merged |= join_facts(ours.facts, theirs.facts)
    return {name: found for name, found in sorted(merged.items()) if found}


def merge_notes(
    ours: Vault, one: tuple[str, str, int], theirs: Vault, other: tuple[str, str, int]
) -> tuple[str, str, int]:
    """The note of one group that is left of two copies of the vault.

    The later, or none where it was taken away.
    """
    kept = [note for note, copy in ((one, theirs), (other, ours)) if not copy.knows(*note[1:])]
    if not kept:
        return one if one == other else ("", "", 0)
    return max(kept, key=lambda note: note[1:])


def merge_secrets(
    ours: Vault, one: list[Secret], theirs: Vault, other: list[Secret]
) -> list[Secret]:
    """The secrets of one key that are left of two copies of the vault, the latest first."""
    dots = (
        {(secret.machine, secret.count) for secret in one},
        {(secret.machine, secret.count) for secret in other},
    )
    kept = {
        dot: secret
        for secret in one
        if (dot := (secret.machine, secret.count)) in dots[1] or not theirs.knows(*dot)
    }
    kept |= {
        dot: secret
        for secret in other
        if (dot := (secret.machine, secret.count)) in dots[0] or not ours.knows(*dot)
    }
    return arrange(kept.values())
