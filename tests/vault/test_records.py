"""Names, values and durations; and the merge of two copies of a vault, held against what each of them knew."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import avault

# Names, values, durations


@pytest.mark.parametrize("name", ["a", "0", "openai", "a.b_c-d", "A" * 64, "9..--__"])
def test_group_names(name):
    assert avault.check_group(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a b", "a/b", "é", "a\n", "٣", "a" * 65, None, 5, ["a"]])
def test_bad_group_names(name):
    with pytest.raises(avault.Usage):
        avault.check_group(name)


@pytest.mark.parametrize("name", ["a", "_", "API_KEY", "_9", "K" * 128])
def test_key_names(name):
    assert avault.check_key(name) == name


@pytest.mark.parametrize("name", ["", "9", "a-b", "a.b", "a b", "a=b", "é", "A\n", "A٣", "K" * 129, None, 5])
def test_bad_key_names(name):
    with pytest.raises(avault.Usage):
        avault.check_key(name)


@pytest.mark.parametrize(
    "value", ["x", "\n", " ", "\x01\x7f", "é🦄", "\u2028", "x" * avault.MAX_VALUE, "é" * (avault.MAX_VALUE // 2)]
)
def test_values(value):
    assert avault.check_value(value) == value


@pytest.mark.parametrize(
    "value", ["", "a\0b", "\ud800", "x" * (avault.MAX_VALUE + 1), "é" * (avault.MAX_VALUE // 2) + "x", None, 5]
)
def test_bad_values(value):
    with pytest.raises(avault.Usage) as refused:
        avault.check_value(value)
    assert len(str(refused.value)) < 100, "a value must not be repeated"


@pytest.mark.parametrize("note", [None, "", "é 🦄", "x" * 1000])
def test_notes_of_a_line(note):
    assert avault.check_note(note) == note


@pytest.mark.parametrize("note", ["x" * 1001, "two\nlines", "\x1b[2J", 5, ["x"], b"x"])
def test_bad_notes(note):
    with pytest.raises(avault.Usage, match="a note is one line"):
        avault.check_note(note)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("8h", 28_800), ("7d", 604_800)])
def test_durations(text, seconds):
    assert avault.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5", "5x", "5 m", "1h30m", "nan", "inf", "1e3", "٣", "5\n", "9" * 5000])
def test_bad_durations(text):
    with pytest.raises(avault.Usage):
        avault.parse_duration(text)


@given(st.text())
def test_names_that_are_accepted_are_plain(text):
    for check in (avault.check_group, avault.check_key):
        try:
            assert check(text).isascii() and text.isprintable() and not set(text) & set(" /='\"$\\`")
        except avault.Usage:
            pass


# One copy of a vault


def new_vault() -> avault.Vault:
    return avault.Vault("00" * 16, "a", "o", "test")


def write(vault: avault.Vault, machine: str, *changes) -> None:
    """What a Store does with a write: apply the changes, then raise this machine's count."""
    for change in changes:
        change(vault)
    vault.generation[machine] = vault.generation.get(machine, 0) + 1


def content(vault: avault.Vault) -> str:
    return vault.to_json()


def values(vault: avault.Vault) -> dict[str, list[str]]:
    """The values of each key, that which is served first."""
    return {f"{g}/{k}": [s.value for s in found] for g, group in vault.groups.items() for k, found in group.keys.items()}


def test_set_keeps_when_it_was_made_and_delete_removes_an_empty_group():
    vault = new_vault()
    vault.put("g", "K", "one", 10, "m")
    vault.put("g", "K", "two", 20, "m")
    [secret] = vault.secrets("g", "K")
    assert (secret.value, secret.created, secret.updated) == ("two", 10, 20)
    vault.put("g", "L", "three", 20, "m")
    assert vault.count() == 2 and vault.groups["g"].note == ("", "", 0)
    vault.annotate("g", "note", "m")
    vault.remove("g", "K")
    assert values(vault) == {"g/L": ["three"]}
    vault.remove("g", "L")
    assert vault.groups == {}
    for missing in (lambda: vault.remove("g", None), lambda: vault.remove("g", "K"), lambda: vault.annotate("g", "x", "m")):
        with pytest.raises(avault.NotFound):
            missing()


def test_a_copy_is_its_own():
    vault = new_vault()
    write(vault, "m", lambda v: v.put("g", "K", "one", 1, "m"))
    before = content(vault)
    twin = vault.copy()
    write(
        twin,
        "m",
        lambda v: v.put("g", "K", "two", 2, "m"),
        lambda v: v.put("h", "K", "x", 2, "m"),
        lambda v: v.annotate("g", "n", "m"),
    )
    twin.sources.append("x")
    assert content(vault) == before and vault.generation == {"m": 1} and vault.sources == []


# Two copies. Each begins as the same vault of machine "a"; then "a" and "b" work apart.


def fork(*common) -> tuple[avault.Vault, avault.Vault]:
    vault = new_vault()
    for change in common:
        write(vault, "a", change)
    return vault, vault.copy()


def put(key: str, value: str, machine: str, now: int = 1):
    return lambda vault: vault.put("g", key, value, now, machine)


def delete(key: str | None):
    return lambda vault: vault.remove("g", key)


def note(text: str, machine: str):
    return lambda vault: vault.annotate("g", text, machine)


def merged(one: avault.Vault, other: avault.Vault) -> avault.Vault:
    """The merge, after checking that it is the same from both sides and changes neither."""
    before = content(one), content(other)
    result = one.merge(other)
    assert content(result) == content(other.merge(one)) and result.generation == other.merge(one).generation
    assert (content(one), content(other)) == before
    return result


def test_what_the_other_never_saw_stays():
    a, b = fork(put("K", "0", "a"))
    write(a, "a", put("A", "1", "a"))
    write(b, "b", put("B", "2", "b"))
    both = merged(a, b)
    assert values(both) == {"g/A": ["1"], "g/B": ["2"], "g/K": ["0"]}
    assert both.generation == {"a": 2, "b": 1}


def test_a_delete_wins_where_it_saw_the_value_and_only_there():
    a, b = fork(put("K", "0", "a"), put("L", "0", "a"))
    write(a, "a", delete("K"))
    write(b, "b", put("M", "1", "b"))
    assert values(merged(a, b)) == {"g/L": ["0"], "g/M": ["1"]}
    write(b, "b", put("K", "changed", "b"))
    assert values(merged(a, b))["g/K"] == ["changed"]


def test_a_change_wins_over_what_it_changed_whatever_the_clocks_say():
    a, b = fork(put("K", "old", "a", now=1_000))
    write(b, "b", put("K", "new", "b", now=1))
    assert values(merged(a, b)) == {"g/K": ["new"]}


def test_two_changes_are_kept_side_by_side_until_somebody_chooses():
    a, b = fork(put("K", "0", "a"))
    write(a, "a", put("K", "from a", "a", now=5))
    write(b, "b", put("K", "from b", "b", now=6))
    both = merged(a, b)
    assert values(both) == {"g/K": ["from b", "from a"]}
    assert avault.describe_vault(both)[0]["keys"][0]["conflict"] is True
    write(both, "a", put("K", "chosen", "a"))
    assert values(merged(both, b)) == {"g/K": ["chosen"]}
    assert values(merged(both, a)) == {"g/K": ["chosen"]}


def test_a_group_deleted_on_both_sides_is_gone():
    a, b = fork(put("K", "0", "a"), note("n", "a"))
    write(a, "a", delete(None))
    write(b, "b", delete(None))
    assert merged(a, b).groups == {}


def test_notes():
    a, b = fork(put("K", "0", "a"), note("old", "a"))
    write(b, "b", note("new", "b"))
    assert merged(a, b).groups["g"].note[0] == "new"
    write(a, "a", note("other", "a"))
    assert merged(a, b).groups["g"].note[0] in ("new", "other")


def test_the_note_of_a_deleted_group_goes_with_it_when_the_other_added_a_key():
    a, b = fork(put("K", "0", "a"), note("about K", "a"))
    write(a, "a", delete(None))
    write(b, "b", put("B", "1", "b"))
    both = merged(a, b)
    assert values(both) == {"g/B": ["1"]} and both.groups["g"].note == ("", "", 0)


def state(name: str, value: str | None, machine: str, now: int = 1):
    return lambda vault: vault.state(name, value, now, machine)


def test_facts_are_merged_as_secrets_are():
    a, b = fork(state("operator/alice", "one", "a"))
    write(a, "a", state("machine/a", "here", "a"))
    write(b, "b", state("operator/alice", "two", "b", now=2))
    both = merged(a, b)
    assert both.fact("operator/alice") == "two" and both.facts_of("machine") == {"a": "here"} and not both.count()
    write(a, "a", state("operator/alice", None, "a"))
    assert merged(a, b).fact("operator/alice") == "two", "what the one took away, the other had changed meanwhile"
    write(both, "a", state("operator/alice", None, "a"))
    assert merged(both, b).facts_of("operator") == {} and merged(both, b).fact("operator/alice") is None


def test_what_can_be_no_operator_is_none():
    """Who has the agent's key can write anything."""
    key = avault.public_hex(avault.parse_keys("1" * 64))
    [vault, _] = fork(state("operator/alice", key, "a"))
    for name, value in (
        ("phone", key),
        ("Alice", key),
        ("a b", key),
        ("", key),
        ("-a", key),
        ("x" * 33, key),
        ("bob", "ab"),
        ("eve", ""),
    ):
        write(vault, "a", state(f"operator/{name}", value, "a"))
    assert vault.other_operators() == {"alice": key}


def test_facts_are_written_and_a_vault_without_them_is_written_without():
    [vault, _] = fork(state("operator/alice", "one", "a", now=7))
    other = new_vault()
    other.load_json(vault.to_json())
    assert [each.to_list() for each in other.facts["operator/alice"]] == [["one", 7, 7, "a", 1]]
    write(vault, "a", state("operator/alice", None, "a"))
    assert '"facts"' not in vault.to_json()


ODD_SECRETS = [
    [], {}, "x", [[]], [["v", 1, 1, "m"]], [["v", 1, 1, "m", 1, 1]], [[7, 1, 1, "m", 1]], [["v", "1", 1, "m", 1]],
    [["v", 1, 10**17, "m", 1]], [["v", True, 1, "m", 1]], [["v", 1, 1, 7, 1]], [["v", 1, 1, "m", -1]], [["v", 1, 1, "m", "1"]],
    [["v", 1, 2, "m", 1], ["w", 1, 1, "m", 1]],
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_SECRETS, ids=repr)
@pytest.mark.parametrize("place", ["groups", "facts"])
def test_who_can_write_a_vault_writes_nothing_odd_into_it(place: str, odd: object) -> None:
    """Else it would be noticed where two copies are merged, or times are shown."""
    body = json.loads(new_vault().to_json())
    body[place] = {"g": {"note": ["", "", 0], "keys": {"K": odd}}} if place == "groups" else {"machine/m": odd}
    with pytest.raises((ValueError, TypeError)):
        new_vault().load_json(json.dumps(body))


@pytest.mark.parametrize("note", [["", 7, 0], ["", "m", -1], ["", "m", "1"], ["", "m"], ["", "m", 0, 0], None], ids=repr)
def test_nor_an_odd_note(note: object) -> None:
    body = json.loads(new_vault().to_json())
    new_vault().load_json(json.dumps({**body, "groups": {"g": {"note": ["", "m", 0], "keys": {}}}}))
    with pytest.raises((ValueError, TypeError)):
        new_vault().load_json(json.dumps({**body, "groups": {"g": {"note": note, "keys": {}}}}))


@pytest.mark.parametrize("values", [[["v", 1, 1, "m", 1], ["w", 1, 2, "m", 2]], [["v", 1, 1, "n", 1], ["w", 1, 1, "m", 1]]])
def test_which_value_of_a_fact_counts_is_not_what_a_writer_says(values: list[list[object]]) -> None:
    """It is what counts after a merge; a value of a key may be in any order, as an earlier version wrote it."""
    body = json.loads(new_vault().to_json())
    with pytest.raises(ValueError, match="not in order"):
        new_vault().load_json(json.dumps({**body, "facts": {"operator/m": values}}))
    new_vault().load_json(json.dumps({**body, "groups": {"g": {"note": ["", "", 0], "keys": {"K": values}}}}))
    new_vault().load_json(json.dumps({**body, "facts": {"operator/m": values[::-1]}}))


# Any copies

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["put", "delete", "delete group", "note", "sync"]),
        st.sampled_from(["g", "g", "g", "h"]),
        st.sampled_from(["K", "L"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 9),
    ),
    max_size=30,
)


class World:
    """Machines, and for every value ever written who deleted or replaced it: what a merge has to come to, told apart
    from generations by plain sets of facts."""

    def __init__(self) -> None:
        self.vaults = {machine: new_vault() for machine in "abc"}
        self.seen: dict[str, set[str]] = {machine: set() for machine in "abc"}  # values that it has or had
        self.gone: dict[str, set[str]] = {machine: set() for machine in "abc"}  # and that it knows to be over
        self.place: dict[str, str] = {}
        self.count = 0

    def live(self, machine: str) -> dict[str, set[str]]:
        result: dict[str, set[str]] = {}
        for value in self.seen[machine] - self.gone[machine]:
            result.setdefault(self.place[value], set()).add(value)
        return result

    def end(self, machine: str, *names: str) -> None:
        self.gone[machine] |= {value for value in self.seen[machine] if self.place[value] in names}

    def put(self, machine: str, group: str, key: str, now: int) -> None:
        self.count += 1
        value = f"value {self.count}"
        write(self.vaults[machine], machine, lambda vault: vault.put(group, key, value, now, machine))
        self.end(machine, f"{group}/{key}")
        self.place[value] = f"{group}/{key}"
        self.seen[machine].add(value)

    def delete(self, machine: str, group: str, key: str | None) -> None:
        try:
            write(self.vaults[machine], machine, lambda vault: vault.remove(group, key))
        except avault.NotFound:
            names = {f"{group}/{key}"} if key else {f"{group}/K", f"{group}/L"}
            assert not names & self.live(machine).keys()
        else:
            self.end(machine, *([f"{group}/{key}"] if key else [f"{group}/K", f"{group}/L"]))

    def note(self, machine: str, group: str, now: int) -> None:
        if group in self.vaults[machine].groups:
            write(self.vaults[machine], machine, lambda vault: vault.annotate(group, f"note {now}", machine))

    def sync(self, to: str, source: str) -> None:
        """What a Store does when a pull brings another state: take it, keep its own, or merge and count."""
        ours, theirs = self.vaults[to], self.vaults[source]
        if theirs.is_after(ours.generation):
            self.vaults[to] = theirs.copy()
        elif not ours.is_after(theirs.generation):
            self.vaults[to] = merged(ours, theirs)
            write(self.vaults[to], to)
        self.seen[to] |= self.seen[source]
        self.gone[to] |= self.gone[source]

    def do(self, machine: str, what: str, group: str, key: str, source: str, now: int) -> None:
        if what == "put":
            self.put(machine, group, key, now)
        elif what == "note":
            self.note(machine, group, now)
        elif what == "sync":
            self.sync(machine, source)
        else:
            self.delete(machine, group, key if what == "delete" else None)

    def check(self) -> None:
        for machine, vault in self.vaults.items():
            assert {name: set(found) for name, found in values(vault).items()} == self.live(machine)

    def settle(self) -> None:
        """After everybody has heard of everything, all have the same."""
        for to, source in ("ab", "ac", "ba", "ca", "bc"):
            self.sync(to, source)
        contents = {content(vault) for vault in self.vaults.values()}
        assert len(contents) == 1
        self.check()


def world(changes) -> World:
    result = World()
    for change in changes:
        result.do(*change)
    return result


@settings(max_examples=500)
@given(CHANGES)
def test_merging_is_commutative_and_idempotent(changes):
    vaults = world(changes).vaults
    for one in vaults.values():
        assert content(merged(one, one)) == content(one)
        for other in vaults.values():
            both = merged(one, other)
            assert content(merged(both, one)) == content(both)
            assert both.is_after(one.generation) and both.is_after(other.generation)


@given(CHANGES)
def test_merging_is_associative_but_for_notes(changes):
    """A note goes with its group's last key, and nothing remembers that it was there."""
    a, b, c = (world(changes).vaults[machine] for machine in "abc")
    assert values(a.merge(b).merge(c)) == values(a.merge(b.merge(c)))


@settings(max_examples=300)
@given(CHANGES)
def test_nothing_is_lost_nothing_returns_and_all_converge(changes):
    result = world(changes)
    result.check()
    result.settle()


class Machines(RuleBasedStateMachine):
    """The same, with hypothesis choosing step by step, and a look after each."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    machines, groups, keys = st.sampled_from("abc"), st.sampled_from("gh"), st.sampled_from("KL")

    @rule(machine=machines, group=groups, key=keys, now=st.integers(0, 9))
    def put(self, machine, group, key, now):
        self.world.put(machine, group, key, now)

    @rule(machine=machines, group=groups, key=keys | st.none())
    def delete(self, machine, group, key):
        self.world.delete(machine, group, key)

    @rule(machine=machines, group=groups, now=st.integers(0, 9))
    def note(self, machine, group, now):
        self.world.note(machine, group, now)

    @rule(to=machines, source=machines)
    def sync(self, to, source):
        self.world.sync(to, source)

    @invariant()
    def each_has_what_it_should(self):
        self.world.check()

    def teardown(self):
        copy.deepcopy(self.world).settle()


TestMachines = Machines.TestCase
TestMachines.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
