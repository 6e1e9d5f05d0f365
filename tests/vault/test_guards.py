"""Guards as data: rules of which the stricter counts, and facts that no merge, no move and no older copy makes less of."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_records import new_vault, write
from test_store_alone import AGENT, Desk, elsewhere

import avault

ID = "0123456789abcdef"

# Rules


def some(*members: str) -> Any:
    """A set of rules: some of these, or none of them."""
    return st.lists(st.sampled_from(members), unique=True)


GH, GL = (f"{name}=SHA256:{letter * 43}" for name, letter in (("gh", "A"), ("gl", "B")))
PEERS = ["a" * 64, "b" * 64]
BROKERED = {
    "hosts": some("api.a.com", "*.a.com", "b.api.a.com", "*.api.a.com", "a.com", "c.com:8443", "*.com", "a.com:443"),
    "methods": some("GET", "POST"),
    "paths": some("/", "/v1/*", "/v1/x", "/*", "/v1/*/x*", "/v1*"),
    "servers": some(GH, GL, "any", "unproven", "forwarded"),
    "users": some("git", "root"),
    "namespaces": some("git", "file"),
    "kinds": some("1", "4"),
    "ciphers": some("nip44_encrypt", "nip04_decrypt"),
    "peers": some("any", *PEERS),
}
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "only": st.lists(st.sampled_from(avault.WAYS), unique=True),
        **BROKERED,
        "until": st.integers(0, 5),
        "times": st.integers(0, 3),
        "ask": st.integers(0, 3),
    },
)
# of one broker, as people set them: with all of the above at once nearly nothing is let
OF_ONE = st.sampled_from(["proxy", "ssh", "sign"]).flatmap(
    lambda way: st.fixed_dictionaries(
        {},
        optional={
            "only": st.lists(st.sampled_from(["run", way, way]), min_size=1, unique=True),
            **{name: BROKERED[name] for name in avault.SETS_OF[way]},
        },
    )
)
RULES = (OF_ONE | FIELDS).map(lambda fields: avault.Rules(**fields))
USES = [(way, now) for way in ("get", "run", "proxy") for now in range(7)]
REQUESTS = [
    (host, port, method, path)
    for host in ("api.a.com", "b.api.a.com", "x.b.api.a.com", "a.com", "evil.com", "c.com")
    for port in ((8443,) if host == "c.com" else (443,))
    for method, path in (("GET", "/"), ("POST", "/v1/x"), ("GET", "/v1/y/xz"), ("GET", "/v1"))
]
LOGINS: list[dict[str, Any]] = [
    {"as": "ssh", "through": through, "server": server, "user": user, "namespace": None}
    for through in ([], ["SHA256:x"])
    for server in (None, GH.partition("=")[2], "SHA256:other")
    for user in ("git", "me")
]
FILES: list[dict[str, Any]] = [
    {"as": "sshsig", "through": through, "server": None, "user": None, "namespace": namespace}
    for through in ([], ["SHA256:x"])
    for namespace in ("git", "file", "other")
]
POSTS: list[dict[str, Any]] = [{"as": "nostr-event", "kind": kind} for kind in (1, 4, 7)]
ENCIPHERED: list[dict[str, Any]] = [
    {"as": cipher.replace("_", "-"), "cipher": cipher, "peer": peer}
    for cipher in ("nip44_encrypt", "nip04_decrypt", "nip44_decrypt")
    for peer in (*PEERS, "c" * 64)
]
EVERY = {
    "proxy": range(len(REQUESTS)),
    "ssh": range(len(LOGINS) + len(FILES)),
    "sign": range(len(POSTS) + len(ENCIPHERED)),
}


def power(rules: avault.Rules, now: float = 0) -> set[tuple[str, int]]:
    """Every use of these that is let through, as those say that decide; where the value goes out by itself, each."""
    if any(rules.lets(way, now) for way in ("get", "run")):
        return {("value", 0)} | {(way, number) for way, numbers in EVERY.items() for number in numbers}
    found: set[tuple[str, int]] = set()
    if rules.lets("proxy", now):
        where = rules.named["hosts"], rules.named["methods"], rules.named["paths"]
        found |= {("proxy", number) for number, each in enumerate(REQUESTS) if not avault.find_proxy_fault(*each, *where)}
    if rules.lets("ssh", now):
        who = rules.named["servers"], rules.named["users"], rules.named["namespaces"]
        found |= {("ssh", number) for number, each in enumerate([*LOGINS, *FILES]) if not avault.find_ssh_fault(each, *who)}
    if rules.lets("sign", now):
        what = rules.named["kinds"], rules.named["ciphers"], rules.named["peers"]
        found |= {
            ("sign", number) for number, each in enumerate([*POSTS, *ENCIPHERED]) if not avault.find_nostr_fault(each, *what)
        }
    return found


def same(one: avault.Rules, other: avault.Rules) -> bool:
    return one.asks_at_least(other) and other.asks_at_least(one)


@settings(max_examples=300, deadline=None)
@given(RULES, RULES, RULES)
def test_rules_are_a_lattice(a: avault.Rules, b: avault.Rules, c: avault.Rules) -> None:
    assert same(a & b, b & a) and str(a & b) == str(b & a)
    assert same(a & (b & c), (a & b) & c)
    assert same(a & a, a) and a.asks_at_least(a) and a.asks_at_least(avault.Rules())
    assert (a & b).asks_at_least(a) and (a & b).asks_at_least(b)
    if c.asks_at_least(a) and c.asks_at_least(b):
        assert c.asks_at_least(a & b)
    for way, now in USES:
        assert not (a & b).lets(way, now) or (a.lets(way, now) and b.lets(way, now))
        assert not (a.asks_at_least(b) and a.lets(way, now)) or b.lets(way, now)
    assert power(a & b) <= power(a) & power(b), "what both ask lets nothing through that one of them does not"
    assert not a.asks_at_least(b) or power(a) <= power(b)
    assert power(a & b & c) == power(a & (b & c)) == power(c & b & a)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["m", "n"]), st.sampled_from(["g", "g/K", "h/L", "h"]), OF_ONE), max_size=5))
def test_what_is_set_freely_lets_nothing_through(steps: list[tuple[str, str, dict[str, Any]]]) -> None:
    """On the key, its group, a name that it had, or another machine: no guard is escaped by one that nobody agreed to."""
    start = with_key("g/K")
    move(start, "g/K", "h/L")
    vaults = {"m": start, "n": start.copy()}
    for machine, on, fields in steps:
        try:
            wanted = avault.check_rules(fields, 0)
        except avault.Usage:
            continue
        vault = vaults[machine]
        before = {name: power(rules_of(vault, name)) for name in ("g/K", "h/L")}
        change = avault.GuardChange(vault, on, wanted)
        if wanted and not change.weakens:
            write(vault, machine, change.make(machine))
            for name, could in before.items():
                assert power(rules_of(vault, name)) <= could, (name, wanted)
    both = vaults["m"].merge(vaults["n"])
    for vault in vaults.values():
        assert power(rules_of(both, "h/L")) <= power(rules_of(vault, "h/L")), "a merge lets through what both do"


HOST = st.lists(st.sampled_from(["a", "b", "s3", "x", "1"]), min_size=1, max_size=3).map(".".join)
PATTERN = st.tuples(st.sampled_from(["", "*."]), HOST, st.sampled_from(["", ":443", ":8443"])).map("".join).filter(avault.is_host)


@settings(max_examples=500, deadline=None)
@given(PATTERN, PATTERN, HOST, st.sampled_from([443, 8443]))
def test_a_host_within_another_is_let_by_the_same_that_lets_the_other(narrow: str, wide: str, host: str, port: int) -> None:
    if avault.Rules(hosts=[narrow]).asks_at_least(avault.Rules(hosts=[wide])):
        assert not avault.fits_host(host, port, narrow) or avault.fits_host(host, port, wide)


@pytest.mark.parametrize(
    ("on", "was", "place", "given"),
    [
        ("g/K", {"only": ["proxy"]}, "g/K", {"hosts": ["evil.com"]}),
        ("g/K", {"methods": ["GET"]}, "g/K", {"hosts": ["evil.com"]}),
        ("g/K", {"only": ["proxy", "ssh"]}, "g/K", {"hosts": ["evil.com"]}),
        ("g/K", {"only": ["ssh"], "namespaces": ["git"]}, "g/K", {"servers": ["any"]}),
        ("g/K", {"servers": [GH]}, "g/K", {"namespaces": ["git"]}),
        ("g/K", {"only": ["ssh", "sign"]}, "g/K", {"kinds": ["1"]}),
        ("g/K", {"hosts": ["*.a.com"]}, "g/K", {"hosts": ["b.api.a.com"]}),
        ("g/K", {"hosts": ["*.a.com"]}, "g/K", {"hosts": ["*.api.a.com"]}),
        ("g", {"only": ["proxy"]}, "g/K", {"hosts": ["evil.com"]}),
        ("g", {"only": ["sign"]}, "g/K", {"kinds": ["1", "4"]}),
        ("g", {"servers": [GH]}, "g/K", {"namespaces": ["git"]}),
        ("g/K", {"only": ["proxy"]}, "h/L", {"hosts": ["evil.com"]}),
        ("h", {"only": ["ssh"]}, "g", {"servers": ["any"]}),
    ],
    ids=repr,
)  # fmt: skip
def test_to_name_what_was_not_named_escapes_no_guard(on: str, was: dict[str, Any], place: str, given: dict[str, Any]) -> None:
    """Set beside it, before it (also on a name to which the secret is moved later), or on a machine that had not heard of it."""

    def put(vault: avault.Vault, where: str, fields: dict[str, Any], machine: str = "m") -> None:
        write(vault, machine, avault.GuardChange(vault, where, avault.check_rules(fields, 0)).make(machine))

    start = with_key("g/K")
    there = start.copy()
    move(start, "g/K", "h/L")
    put(start, on, was)
    could = power(rules_of(start, "h/L"))
    if avault.GuardChange(start, place, avault.check_rules(given, 0)).weakens:
        assert place == on
    else:
        beside = start.copy()
        put(beside, place, given)
        assert power(rules_of(beside, "h/L")) <= could
    put(there, place, given, "n")
    for both in (start.merge(there), there.merge(start)):
        assert power(rules_of(both, "h/L")) <= could and power(rules_of(both, "g/K")) <= could


def test_what_is_named_with_the_phone_is_let_through_on_its_place() -> None:
    vault = with_key("g/K")
    for fields in ({"only": ["proxy"]}, {"hosts": ["a.com"]}, {"methods": ["GET"]}):
        write(vault, "m", avault.GuardChange(vault, "g/K", avault.check_rules(fields, 0)).make("m"))
    assert str(rules_of(vault, "g/K")) == "only proxy, to a.com, by GET" and power(rules_of(vault, "g/K"))
    write(vault, "n", avault.GuardChange(vault, "g/K", avault.check_rules({"hosts": ["a.com"], "paths": ["/*"]}, 0)).make("n"))
    assert str(rules_of(vault, "g/K")) == "only proxy, to a.com, by GET, at /*", "another machine narrows it"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"only": ["run"]}, "only run"),
        ({"only": ["ssh", "run"]}, "only run or ssh"),
        ({"only": []}, "nobody"),
        ({"only": ["run"], "hosts": ["a.com"]}, "nobody, to a.com"),
        ({"hosts": ["a.com"], "methods": ["GET", "POST"], "paths": ["/v1/*"]}, "only proxy, to a.com, by GET or POST, at /v1/*"),
        ({"until": 0, "times": 1}, "until 1970-01-01T00:00:00Z, 1 more time"),
        ({"times": 2}, "2 more times"),
        ({}, "no rule"),
    ],
)
def test_rules_in_words(fields: dict[str, Any], words: str) -> None:
    assert str(avault.Rules(**fields)) == words


def test_of_hosts_and_paths_the_narrower_is_left() -> None:
    both = avault.Rules(hosts=["*.a.com"], paths=["/v1/*"]) & avault.Rules(hosts=["api.a.com"], paths=["/v1/x"])
    assert (both.named["hosts"], both.named["paths"]) == ([{"api.a.com"}], [{"/v1/x"}])
    apart = avault.Rules(hosts=["a.com"]) & avault.Rules(hosts=["b.com"])
    assert str(apart) == "only proxy, to a.com, to b.com", "both have to fit: nothing does"
    assert not avault.Rules(hosts=["evila.com"]).asks_at_least(avault.Rules(hosts=["*.a.com"]))
    assert not avault.Rules(hosts=["a.com"]).asks_at_least(avault.Rules(hosts=["*.a.com"])), "the host itself is not below it"


@pytest.mark.parametrize(
    "given",
    [
        {"only": "run"}, {"only": ["get"]}, {"only": [1]}, {"only": ["run"] * 33}, {"hosts": ["A.com"]}, {"hosts": ["a.com/x"]},
        {"hosts": ["a..com"]}, {"hosts": ["*.com:0"]}, {"hosts": ["*"]}, {"hosts": ["a b"]}, {"hosts": ["ex\u0430mple.com"]},
        {"hosts": [""]}, {"hosts": ["a.com:99999"]}, {"hosts": ["-a.com"]}, {"methods": ["get"]}, {"methods": ["G T"]},
        {"paths": ["v1"]}, {"paths": ["/a?b"]}, {"paths": ["/a b"]}, {"paths": ["/" + "a" * 300]}, {"until": 99}, {"until": True},
        {"until": 1 << 40}, {"until": 1e9}, {"times": 0}, {"times": -1}, {"times": "3"}, {"only": ["run"], "hosts": ["a.com"]},
        {"hosts": ["a.com:080"]},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_rule(given: dict[str, Any]) -> None:
    with pytest.raises(avault.Usage):
        avault.check_rules(given, 100)


def test_what_is_about_requests_is_for_the_proxy() -> None:
    assert avault.check_rules({"hosts": ["a.com", "a.com"]}, 0) == {"hosts": ["a.com"], "only": ["proxy"]}
    assert avault.check_rules({"only": [], "hosts": None}, 0) == {}


@pytest.mark.parametrize(
    "more",
    [{"operator": "npub1"}, {"ask": -1}, {"ask": True}, {"only": ["magic"]}, {"times": "1"}, {"hosts": "a.com"}, {"until": -1}],
)
def test_what_a_later_avault_asks_lets_nobody_through(more: dict[str, Any]) -> None:
    """It is kept and merged as it is; and no rule that this one knows makes it less."""
    on, rules = avault.read_rules(json.dumps({"on": "g", "only": ["run"], **more}))
    assert on == "g" and not rules.is_known and not any(rules.lets(way, 0) for way in (*avault.WAYS, "get"))
    assert not avault.Rules(only=[]).asks_at_least(rules) and not (rules & avault.Rules()).is_known
    assert "nobody" in str(rules) and rules.to_dict()["unknown"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"guard/{ID}", "x"), (f"guard/{ID}", "[]"), (f"guard/{ID}", "{}"), (f"guard/{ID}", '{"on": "*"}'),
        (f"guard/{ID}", '{"on": "g/"}'), ("guard/", '{"on": "g"}'), ("guard/1", '{"on": "g"}'), (f"guard/{ID}/x", '{"on": "g"}'),
        ("guard/AB12cd34ef56ab78", '{"on": "g"}'), (f"moved/{ID}", '{"from": "g", "to": "h/K"}'),
        (f"moved/{ID}", '{"from": "g/K"}'), (f"moved/{ID}", "7"), (f"used/{ID}/m", "-1"), (f"used/{ID}/m", "x"),
        (f"used/{ID}/m", ""), (f"used/{ID}/m", "9" * 20), (f"used/{ID}", "1"), (f"used/{ID}/m/n", "1"),
        (f"unguarded/{ID}", "x"), ("unguarded/1", "1"), (f"guard/{ID}", "[" * 100_000),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_fact_that_can_be_no_guard_is_damage(name: str, text: str) -> None:
    vault = new_vault()
    vault.agent = avault.public_hex(AGENT)
    vault.state(name, text, 1, "m")
    with pytest.raises(avault.Tampered):
        avault.open_vault(avault.seal_vault(vault, AGENT), AGENT)


def test_a_vault_with_a_guard_is_of_a_version_that_an_avault_before_does_not_open() -> None:
    vault = new_vault()
    assert '"version": 1' in avault.split_vault(vault)[0]
    avault.note_moves(vault, [("g/K", "g/L")], 1, "m")
    assert '"version": 1' in avault.split_vault(vault)[0]
    avault.add_guard(vault, "g", {"only": ["run"]}, 1, "m")
    assert '"version": 2' in avault.split_vault(vault)[0]


# Guards in a vault


def rules_of(vault: avault.Vault, name: str) -> avault.Rules:
    guards = avault.Guards(vault.facts)
    return guards.rules_of(guards.of(name))


def guard(vault: avault.Vault, on: str, machine: str = "m", **fields: Any) -> None:
    write(vault, machine, lambda draft: avault.add_guard(draft, on, fields, 1, machine))


def unguard(vault: avault.Vault, on: str, machine: str = "m") -> None:
    write(vault, machine, lambda draft: avault.take_off(draft, on, 2, machine))


def with_key(*names: str) -> avault.Vault:
    vault = new_vault()
    for name in names:
        group, key = name.split("/")
        write(vault, "m", lambda draft, group=group, key=key: draft.put(group, key, f"value of {group}/{key}", 1, "m"))
    return vault


def move(vault: avault.Vault, old: str, new: str, machine: str = "m") -> None:
    write(vault, machine, lambda draft: draft.move(tuple(old.split("/")), tuple(new.split("/")), 3, machine))


def test_a_guard_of_a_group_is_for_keys_that_come_later() -> None:
    vault = with_key("g/K")
    guard(vault, "g", only=["run"])
    write(vault, "m", lambda draft: draft.remove("g", None), lambda draft: draft.put("g", "L", "x", 2, "m"))
    assert str(rules_of(vault, "g/L")) == "only run" and str(rules_of(vault, "h/L")) == "no rule"


def test_a_secret_that_is_moved_keeps_its_guards_also_one_that_comes_meanwhile() -> None:
    here = with_key("g/K")
    there = here.copy()
    guard(there, "g/K", "n", only=["run"])
    move(here, "g/K", "h/L")
    move(here, "h/L", "i/M")
    both = here.merge(there)
    assert str(rules_of(both, "i/M")) == "only run" and both.secrets("i", "M")


def test_what_the_operator_took_away_stays_away_and_a_concurrent_stricter_one_stays() -> None:
    here = with_key("g/K")
    guard(here, "g/K", only=["run", "proxy"])
    old, there = here.copy(), here.copy()
    unguard(here, "g/K")
    assert str(rules_of(here.merge(old), "g/K")) == "no rule", "it wins over the older one"
    guard(there, "g/K", "n", only=["run"])
    for both in (here.merge(there), there.merge(here), there.merge(here).merge(old)):
        assert str(rules_of(both, "g/K")) == "only run"


def test_uses_are_counted_by_machine_and_merged_by_the_higher() -> None:
    here = with_key("g/K")
    guard(here, "g/K", times=5)
    [one] = avault.Guards(here.facts).of("g/K")
    there = here.copy()
    for vault, machine, times in ((here, "m", 2), (there, "n", 1)):
        for _ in range(times):
            write(vault, machine, lambda draft, machine=machine: avault.count_use(draft, one.identity, 1, machine))
    assert rules_of(here.merge(there), "g/K").times == rules_of(there.merge(here).merge(here), "g/K").times == 2
    unguard(here, "g/K")
    assert not [name for name in here.merge(there).facts if name.startswith("guard/")]
    avault.count_use(here, one.identity, 1, "m")
    assert here.fact(f"used/{one.identity}/m") == "2", "nothing counts for what is gone"


def test_what_is_said_again_is_later_than_a_removal_that_has_not_heard_of_it() -> None:
    """A guard that is set as it is, and a move on a way that is known: neither goes with what it was before."""
    here = with_key("g/K")
    guard(here, "g/K", only=["run"])
    there = here.copy()
    unguard(here, "g/K")
    guard(there, "g/K", only=["run"])
    for both in (here.merge(there), there.merge(here)):
        assert str(rules_of(both, "g/K")) == "only run"
    assert len(avault.Guards(there.facts).of("g/K")) == 1, "said by one machine, it is one"


def test_what_was_said_again_stays_also_where_its_machine_takes_another_name() -> None:
    """It follows no dots: under the next name, with a low count, the removal that it outlived would take it away."""
    here = with_key("g/K")
    guard(here, "g/K", only=["run"])
    there = here.copy()
    unguard(there, "g/K", "n")
    write(here, "m", lambda draft: draft.put("g", "K", "later", 2, "m"))
    guard(here, "g/K", only=["run"])
    both = here.merge(there)
    both.hand_over("m", "next", 1)
    assert both.generation == {"n": 1} and str(rules_of(both.merge(there), "g/K")) == "only run"


def test_a_move_is_later_than_a_parting_that_has_not_heard_of_it() -> None:
    here = with_key("s/K")
    guard(here, "s/K", only=["run"])
    move(here, "s/K", "t/D")
    move(here, "t/D", "s/K")
    write(here, "m", lambda draft: draft.put("t", "D", "dummy", 3, "m"))
    there = here.copy()
    unguard(here, "t/D")
    assert str(rules_of(here, "t/D")) == "no rule" and str(rules_of(here, "s/K")) == "only run"
    write(there, "n", lambda draft: draft.remove("t", "D"))
    move(there, "s/K", "t/D", "n")
    for both in (here.merge(there), there.merge(here)):
        assert [each.value for each in both.secrets("t", "D")] == ["value of s/K"] and str(rules_of(both, "t/D")) == "only run"


def test_names_stay_one_when_the_one_between_them_is_parted() -> None:
    vault = with_key("s/K")
    guard(vault, "s/K", only=["run"])
    move(vault, "s/K", "t/P")
    move(vault, "t/P", "u/Q")
    unguard(vault, "t/P")
    assert str(rules_of(vault, "u/Q")) == "only run" and str(rules_of(vault, "t/P")) == "no rule"


def test_what_comes_from_a_copy_comes_with_the_guards_and_the_names_that_it_has_there() -> None:
    vault = with_key("s/K")
    guard(vault, "s/K", only=["run"])
    move(vault, "s/K", "t/D")
    older = vault.copy()
    guard(older, "t/D", "n", times=2)
    [counted] = [each for each in avault.Guards(older.facts).of("t/D") if each.rules.times]
    write(older, "n", lambda draft: avault.count_use(draft, counted.identity, 1, "n"))
    gone = vault.copy()
    unguard(gone, "s/K", "n")
    older.facts |= {name: found for name, found in gone.facts.items() if name.startswith("unguarded/")}
    move(vault, "t/D", "s/K")
    unguard(vault, "t/D")
    assert str(rules_of(vault, "t/D")) == "no rule"
    write(vault, "m", lambda draft: avault.adopt_guards(draft, older, ["t/D"], 4, "m"))
    for each in (vault, vault.merge(vault.copy())):  # it may be the value that was s/K; what it knew to be gone is not
        assert str(rules_of(each, "t/D")) == "only run, 1 more time"


def test_what_equals_a_guarded_value_is_guarded_when_it_comes_from_a_copy() -> None:
    """A version before the guard may have it under a name that no move tells of."""
    vault = with_key("old/KEY")
    older = vault.copy()
    write(vault, "m", lambda draft: draft.put("s", "KEY", "value of old/KEY", 2, "m"), lambda draft: draft.remove("old", "KEY"))
    guard(vault, "s/KEY", only=["run"])
    write(vault, "m", lambda draft: avault.adopt_guards(draft, older, ["old/KEY"], 4, "m"))
    assert str(rules_of(vault, "old/KEY")) == "only run"


def test_a_guess_that_is_restored_is_not_told_that_it_is_right() -> None:
    """Any program sets guesses, and restores them; only a copy from before the value was known is guarded by it."""
    vault = with_key("s/KEY")
    before = vault.copy()
    guard(vault, "s/KEY", ask=True)
    write(vault, "m", lambda draft: avault.note_had(draft, "s/KEY", "value of s/KEY", 2, "m"))
    write(vault, "m", lambda draft: draft.put("s", "KEY", "sealed", 2, "m"))
    for older in (before, vault.copy()):
        write(
            older, "n", lambda draft: draft.put("free", "GUESS", "value of s/KEY", 3, "n"), lambda draft: draft.remove("s", "KEY")
        )
        here = vault.copy()
        write(here, "m", lambda draft, older=older: avault.adopt_guards(draft, older, ["free/GUESS"], 4, "m"))
        assert (rules_of(here, "free/GUESS").ask is not None) == (older is before)


def test_what_is_counted_keeps_its_count_when_another_field_is_less() -> None:
    here = with_key("g/K")
    guard(here, "g/K", until=9, times=3)
    there = here.copy()
    write(here, "m", avault.GuardChange(here, "g/K", {"until": 10}).make("m"))
    [counted] = [each for each in avault.Guards(there.facts).of("g/K") if each.rules.times]
    write(there, "n", lambda draft: avault.count_use(draft, counted.identity, 1, "n"))
    assert str(rules_of(here.merge(there), "g/K")) == "until 1970-01-01T00:00:10Z, 2 more times"


def test_a_group_that_is_moved_takes_its_guard_along() -> None:
    vault = with_key("g/K")
    guard(vault, "g", only=["run"])
    guard(vault, "g", ask=True)
    write(vault, "m", lambda draft: avault.copy_guard(draft, "g", "h", 1, "m"))
    write(vault, "m", lambda draft: draft.put("h", "LATER", "x", 1, "m"))
    assert not rules_of(vault, "h/LATER").is_known and len(avault.Guards(vault.facts).of("h")) == 2


def refuse_more(vault: avault.Vault, *places: str) -> None:
    avault.refuse_more(avault.Guards({}), vault, [*places])


def test_there_is_an_end_to_what_counts_for_a_name() -> None:
    vault = with_key("g/K")
    for number in range(65):
        guard(vault, "g/K", f"m{number}", times=number + 9)
    with pytest.raises(avault.AvaultError, match="more than 64 guards would count for g/K"):
        refuse_more(vault, "g/K")
    wide = with_key("g/K")
    guard(wide, "g/K", hosts=[f"host{number}.example.com" for number in range(30)])
    with pytest.raises(avault.Usage, match="more than a phone shows"):
        refuse_more(wide, "g/K")
    many = with_key("g/K")
    guard(many, "hub/K", only=["run"])
    avault.note_moves(many, [("hub/K", f"old/K{number}") for number in range(1001)], 1, "m")
    with pytest.raises(avault.AvaultError, match="more than 1000 guards, or moves"):
        refuse_more(many, "g/K")


def test_what_is_not_in_the_vault_counts_as_well() -> None:
    """A group that is guarded guards the names in it that a secret had: from there it comes to the others."""
    vault = with_key("g0/K")
    for number in range(5):
        move(vault, f"g{number}/K", f"g{number + 1}/K")
    for number in range(5):
        before = avault.Guards(vault.facts)
        guard(vault, f"g{number}", hosts=[f"{number}x{each}.{'x' * 40}" for each in range(4)])
        if number < 2:
            avault.refuse_more(before, vault, [f"g{number}"])
            continue
        with pytest.raises(avault.Usage, match="the rules for g2/K would be more than a phone shows"):
            avault.refuse_more(before, vault, [f"g{number}"])
        break
    plan = avault.Plan
    with pytest.raises(avault.Usage, match="more than a phone shows"):
        plan(with_key("s/K"), "m", "s/K", {"hosts": [f"{each}.{'x' * 60}" for each in range(9)]})


def test_what_is_too_much_by_a_merge_is_refused_only_where_it_becomes_more() -> None:
    vault = pile_up(70)
    before = avault.Guards(vault.facts)
    place, other, *_ = sorted(before.guards)
    move(vault, place, other)
    avault.refuse_more(before, vault, [other])
    guard(vault, other, only=["run"])
    with pytest.raises(avault.AvaultError, match="more than 64 guards would count for ggg"):
        avault.refuse_more(before, vault, [other])
    before = avault.Guards(vault.facts)
    move(vault, other, "new/K")
    with pytest.raises(avault.Usage, match="new/K would be guarded as one with more names than a phone shows"):
        avault.refuse_more(before, vault, ["new/K"])
    many = with_key("g/K")
    guard(many, "hub/K", only=["run"])
    avault.note_moves(many, [("hub/K", f"old/K{number}") for number in range(1001)], 1, "m")
    before = avault.Guards(many.facts)
    guard(many, "g/K", only=["run"])
    avault.refuse_more(before, many, ["g/K"])
    before = avault.Guards(many.facts)
    move(many, "g/K", "h/K")
    with pytest.raises(avault.AvaultError, match="more than 1000 guards, or moves"):
        avault.refuse_more(before, many, ["h/K"])


def test_a_group_of_many_is_moved_without_looking_at_what_was_moved_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(dict[str, Any]):
        looked = 0

        def items(self) -> Any:
            Counted.looked += 1
            return super().items()

    vault = with_key(*(f"g/K{number}" for number in range(20)))
    vault.facts = Counted(vault.facts)
    vault.move_all([(("g", f"K{number}"), ("h", f"K{number}")) for number in range(20)], 1, "m")
    assert Counted.looked == 1 and len(vault.facts) == 20
    guards = avault.Guards(vault.facts)
    asked = guards.of("h/K1"), guards.places(), avault.list_known(guards)
    avault.refuse_more(guards, vault, ["h"])
    assert asked == ([], [], {}) and len(guards.moves) == 20, "where nothing is guarded no move is read"
    vault.move_all([(("h", "K1"), ("g", "K1"))], 1, "m")
    assert len(vault.facts) == 20, "said again"


def test_many_names_with_many_guards_are_seen_through_at_once() -> None:
    """What a program may pile up must not keep the keyholder from others: it took minutes to find every set anew."""
    vault = with_key("p0/K")
    for number in range(64):
        hosts = [f"h{number}x{each}.example.com" for each in range(32)]
        avault.add_guard(vault, f"p{number}/K", {"hosts": hosts}, 1, "m")
        vault.move((f"p{number}", "K"), (f"p{number + 1}", "K"), 1, "m")
    asked: list[str] = []
    simplify = avault.simplify
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(avault, "simplify", lambda name, sets: asked.append(name) or simplify(name, sets))
        guards = avault.Guards(vault.facts)
        for place in guards.places():
            assert len(guards.rules_of(guards.of(place)).named["hosts"]) == 64
    assert asked == [*avault.SETS], "each set once"


def test_a_place_in_requests_is_no_other() -> None:
    """A wildcard for the query holds no host for headers, nor the other way."""
    for wide, narrow in (("*.a.com", "query@x.a.com"), ("query@*.a.com", "x.a.com"), ("query@*.a.com", "body@x.a.com")):
        assert not avault.Rules(hosts=[narrow]).asks_at_least(avault.Rules(hosts=[wide]))
    assert avault.Rules(hosts=["query@x.a.com"]).asks_at_least(avault.Rules(hosts=["query@*.a.com"]))


# What a change of a guard comes to


@pytest.mark.parametrize(
    ("before", "given", "weakens", "after"),
    [
        ([], {"only": ["run"]}, False, "only run"),
        ([{"only": ["run"]}], {"only": ["run"]}, False, "only run"),
        ([{"only": ["run"]}], {"until": 9}, False, "only run, until 1970-01-01T00:00:09Z"),
        ([{"only": ["run", "proxy"]}], {"only": ["run"]}, False, "only run"),
        ([{"only": ["run"]}], {"only": ["run", "ssh"]}, True, "only run or ssh"),
        ([{"only": ["run"]}], {"only": ["proxy"]}, True, "only proxy, to none"),
        ([{"only": ["run"]}], {"only": ["proxy"], "hosts": ["a.com"]}, True, "only proxy, to a.com"),
        ([{"only": ["proxy"], "hosts": ["*.a.com"]}], {"only": ["proxy"], "hosts": ["x.a.com"]}, False, "only proxy, to x.a.com"),
        ([{"only": ["proxy"], "hosts": ["a.b"]}], {"only": ["proxy"], "methods": ["GET"]}, False, "only proxy, to a.b, by GET"),
        ([{"only": ["proxy"], "hosts": ["a.com"]}], {"only": ["proxy"], "hosts": ["b.com"]}, True, "only proxy, to b.com"),
        ([{"only": ["proxy"], "hosts": ["a.com"]}], {"only": ["proxy"], "hosts": ["path@a.com"]}, True,
         "only proxy, to a.com (in the path)"),
        ([{"only": ["proxy"], "hosts": ["a.com"]}], {"only": ["proxy"], "hosts": ["a.com", "body@a.com"]}, True,
         "only proxy, to a.com or a.com (in the body)"),
        ([{"only": ["proxy"], "hosts": ["a.com", "query@*.a.com"]}], {"only": ["proxy"], "hosts": ["query@x.a.com"]}, False,
         "only proxy, to x.a.com (in the query)"),
        ([{"only": ["proxy"], "hosts": ["*.a.com"]}], {"only": ["proxy"], "hosts": ["query@x.a.com"]}, True,
         "only proxy, to x.a.com (in the query)"),
        ([], {"only": ["proxy"], "hosts": ["websocket@a.com"]}, False, "only proxy, to a.com (in the websocket)"),
        ([{"only": ["proxy"], "hosts": ["a.com"], "times": 2}], {"only": ["run"]}, True, "only run, 2 more times"),
        ([{"until": 9}, {"until": 7}], {"until": 8}, True, "until 1970-01-01T00:00:08Z"),
        ([{"until": 9}], {"until": 8}, False, "until 1970-01-01T00:00:08Z"),
        ([{"times": 3}], {"times": 3}, False, "3 more times"),
        ([{"times": 3}], {"times": 4}, True, "4 more times"),
        ([{"only": ["sign"]}], {"only": ["sign"], "kinds": ["1"]}, True,
         "only sign, signing events of kind 1, for none, with nobody"),
        ([{"only": ["sign"], "kinds": ["1"]}], {"only": ["sign"], "ciphers": ["nip44_encrypt"]}, True,
         "only sign, signing events of kind 1, for nip44_encrypt, with nobody"),
        ([{"only": ["sign"]}], {"only": ["sign"], "times": 4}, False,
         "only sign, signing events of kind none, for none, with nobody, 4 more times"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_given_takes_the_place_of_its_field_alone(
    before: list[dict[str, Any]], given: dict[str, Any], weakens: bool, after: str
) -> None:
    vault = with_key("g/K")
    for fields in before:
        guard(vault, "g/K", **fields)
    planned = avault.GuardChange(vault, "g/K", given)
    assert planned.weakens is weakens and bool(planned.marks) is weakens
    write(vault, "m", planned.make("m"))
    assert str(rules_of(vault, "g/K")) == after


def test_to_begin_counting_anew_is_less() -> None:
    vault = with_key("g/K")
    guard(vault, "g/K", times=3)
    [one] = avault.Guards(vault.facts).of("g/K")
    write(vault, "m", lambda draft: avault.count_use(draft, one.identity, 1, "m"))
    assert avault.GuardChange(vault, "g/K", {"times": 3}).weakens
    assert not avault.GuardChange(vault, "g/K", {"times": 2}).weakens
    kept = avault.GuardChange(vault, "g/K", {"only": ["run"]})
    write(vault, "m", kept.make("m"))
    assert str(rules_of(vault, "g/K")) == "only run, 2 more times"


def test_a_rule_that_is_not_known_is_weakened_by_no_other() -> None:
    vault = with_key("g/K")
    guard(vault, "g/K", ask=True)
    guard(vault, "g/K", only=["run"])
    planned = avault.GuardChange(vault, "g/K", {"only": ["ssh"]})
    assert len(planned.marks) == 1
    write(vault, "m", planned.make("m"))
    assert not rules_of(vault, "g/K").is_known
    unguard(vault, "g/K")
    assert rules_of(vault, "g/K").is_known


def said_of(vault: avault.Vault, place: str, given: dict[str, Any] | None = None) -> str:
    return avault.Plan(vault, "m", place, given).said


def test_the_sentence_says_all_that_becomes_possible() -> None:
    vault = with_key("g/K", "g/L", "h/M")
    guard(vault, "g", only=["run"])
    guard(vault, "g/L", only=["proxy"])
    move(vault, "g/K", "i/K")
    assert said_of(vault, "g") == (
        "in test, from now on all in g (0 now, and later ones) and i/K may be used by: anything, by any program here"
        " (until now: only run); and g/L may be used by: only proxy (until now: nobody)"
    )
    assert said_of(vault, "h/M", {"only": ["run"]}) == "", "stricter is free"


def test_the_sentence_names_what_a_name_was() -> None:
    """Else a secret is moved to a name that nobody knows, and the phone is asked for that one."""
    vault = with_key("stripe/SECRET")
    guard(vault, "stripe/SECRET", only=["run"])
    move(vault, "stripe/SECRET", "tmp/DUMMY")
    with pytest.raises(avault.AvaultError):
        said_of(vault, "tmp/OTHER")
    said = said_of(vault, "tmp/DUMMY")
    assert said == (
        "in test, from now on tmp/DUMMY, which is or was stripe/SECRET, may be used by: anything, by any program here"
        " (until now: only run)"
    )
    for number in range(20):
        move(vault, *(("tmp/DUMMY", "a/X0") if not number else (f"a/X{number - 1}", f"a/X{number}")))
    said = said_of(vault, "tmp/DUMMY")
    assert "which is or was" in said and "stripe/SECRET" in said and all(f"a/X{number}" in said for number in range(20))
    assert "stripe/SECRET" in said_of(vault, "stripe/SECRET").split(" may be")[0]


def test_names_are_parted_freely_where_nothing_guards_them() -> None:
    """Else what they are one with could never be guarded by itself."""
    vault = with_key("free/K")
    move(vault, "free/K", "free/L")
    plan = avault.Plan(vault, "m", "free/L", None)
    assert plan.said == ""
    write(vault, "m", plan.write)
    guard(vault, "free/K", only=["run"])
    assert str(rules_of(vault, "free/L")) == "no rule"
    with pytest.raises(avault.NotFound, match="no guard on free/L"):
        said_of(vault, "free/L")


def test_what_is_less_is_as_old_as_what_it_takes_the_place_of() -> None:
    """Of more than are sealed beside the key, the oldest are: nobody makes one younger than those that come later."""
    vault = with_key("g/K")
    guard(vault, "g/K", times=3)
    avault.add_guard(vault, "g/K", {"only": ["run"]}, 5, "m")
    write(vault, "m", avault.Plan(vault, "m", "g/K", {"times": 9}).write)
    assert {str(each.rules): each.since for each in avault.Guards(vault.facts).of("g/K")} == {"9 more times": 1, "only run": 5}


def test_what_nothing_guards_can_be_guarded_however_often_it_was_moved() -> None:
    vault = with_key("g/K")
    for number in range(60):
        move(vault, *(("g/K", "tmp/LONGER0") if not number else (f"tmp/LONGER{number - 1}", f"tmp/LONGER{number}")))
    assert len(avault.Guards(vault.facts).moves) < 40
    before = avault.Guards(vault.facts)
    guard(vault, "tmp/LONGER59", only=["run"])
    avault.refuse_more(before, vault, ["tmp/LONGER59"])
    assert str(rules_of(vault, "tmp/LONGER58")) == "only run"


MASKS: dict[str, dict[str, Any]] = {
    "the same": {"only": ["proxy"], "hosts": ["api.stripe.com"]},
    "a stricter one": {"only": ["proxy"], "hosts": ["api.stripe.com"], "times": 1, "until": 9},
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_parting_is_said_also_where_another_guard_is_there_for_now(mask: str) -> None:
    """Else it is put there first, freely; then the one goes, which changes nothing, and the other, which names nothing."""
    vault = with_key("stripe/SECRET")
    guard(vault, "stripe/SECRET", only=["proxy"], hosts=["api.stripe.com"])
    move(vault, "stripe/SECRET", "tmp/P")
    guard(vault, "tmp", **MASKS[mask])
    said = said_of(vault, "tmp/P")
    assert (
        "tmp/P, which is or was stripe/SECRET, is no more guarded by what is on stripe/SECRET (for now as before, by tmp)" in said
    )
    unguard(vault, "tmp/P")
    assert "all in tmp (1 now, and later ones) may be used by: anything" in said_of(vault, "tmp")


def test_a_guard_that_is_taken_away_or_weakened_under_another_is_said() -> None:
    vault = with_key("prod/ROOT", "prod/OTHER")
    guard(vault, "prod/ROOT", only=["run"], until=20)
    guard(vault, "prod", only=["run"], until=10)
    assert said_of(vault, "prod/ROOT") == (
        "in test, from now on prod/ROOT is no more guarded by what is on prod/ROOT (for now as before, by prod)"
    )
    assert said_of(vault, "prod/ROOT", {"until": 30}) == (
        "in test, from now on prod/ROOT is guarded less by what is on prod/ROOT (for now as before, by prod/ROOT and prod)"
    )
    for number in range(9):
        guard(vault, f"prod/K{number}", only=["run"], until=10)
        write(vault, "m", lambda draft, number=number: draft.put("prod", f"K{number}", "x", 1, "m"))
    assert "; and 9 in prod are no more guarded by what is on prod (for now as before, by 9 guards); and" in said_of(
        vault, "prod"
    )


def test_nobody_is_asked_to_part_names_that_stay_guarded_as_they_are() -> None:
    vault = with_key("g/K")
    move(vault, "g/K", "g/L")
    guard(vault, "g", only=["run"])
    with pytest.raises(avault.AvaultError, match="g/L is guarded as g is") as refused:
        said_of(vault, "g/L")
    assert refused.value.hint == "take that away: avault unguard g"


def test_names_that_are_there_come_before_those_that_were() -> None:
    vault = with_key("s/K", "z/THERE")
    guard(vault, "s/K", only=["run"])
    avault.note_moves(vault, [("s/K", "z/THERE"), *(("s/K", f"a/X{number}") for number in range(9))], 1, "m")
    assert said_of(vault, "s/K").startswith(
        "in test, from now on s/K, z/THERE, a/X0, a/X1, a/X2, a/X3, a/X4, a/X5, a/X6, a/X7 and a/X8 may be used"
    )


def pile_up(count: int, width: int = 60) -> avault.Vault:
    """More than any phone shows, as of merges: names of one secret, each with rules of its own, and the longest there are."""
    vault = new_vault()
    names = [f"{'g' * width}{number:04}/{'K' * 2 * width}{number:04}" for number in range(count)]
    for number, name in enumerate(names):
        avault.add_guard(
            vault, name, {"hosts": [f"{number}.{'x' * 60}.{each}" for each in range(9)], "until": 9 + number}, number, "m"
        )
    avault.note_moves(vault, [*itertools.pairwise(names)], 1, "m")
    write(vault, "m", lambda draft: draft.put(*names[0].split("/"), "x", 1, "m"))
    return vault


def test_a_phone_is_told_of_all_names_or_is_not_asked() -> None:
    """Whatever was piled up: with a choice of them, who piles it up chooses. Merges alone make it more than there is room for."""
    for vault in (pile_up(3), pile_up(42, 1), pile_up(26, 4)):
        places = sorted(avault.Guards(vault.facts).guards)
        assert len(", ".join(places)) <= avault.NAMES_TOGETHER
        for place in (places[0], places[7 % len(places)], places[-1]):
            said = said_of(vault, place)
            assert len(said) <= 1200 and all(each in said for each in places) and said.endswith(f"{2 * len(places)} rules)")
    assert "with this one on" in said_of(pile_up(26, 4), places[0], {"hosts": ["a.com"]})
    vault = pile_up(8)
    with pytest.raises(avault.Usage, match="more than a phone shows"):
        said_of(vault, min(avault.Guards(vault.facts).guards))


def test_less_can_be_asked_for_of_a_group_whatever_is_in_it() -> None:
    many = with_key("g/K")
    guard(many, "g", only=["run"])
    for number in range(200):
        write(many, "m", lambda draft, number=number: draft.put("g", f"K{number}", "x", 1, "m"))
        guard(many, f"g/K{number}", until=number + 9)
    assert said_of(many, "g") == (
        "in test, from now on all in g (201 now, and later ones) may be used by: anything, by any program here,"
        " or what the guards that are left on them let (until now: 201 rules)"
    )


def test_what_is_agreed_to_is_all_of_it_and_not_its_words() -> None:
    vault = pile_up(40, 1)
    places = sorted(avault.Guards(vault.facts).guards)
    agreed = avault.Plan(vault, "m", places[0], None)
    agreed.check(avault.Plan(vault.copy(), "m", places[0], None))
    guard(vault, places[9], "n", until=5)
    [one, _] = avault.Guards(vault.facts).guards[places[8]]
    avault.remove_marks(vault, {one.identity: 99}, 1, "m")
    with pytest.raises(avault.Denied, match="changed meanwhile"):
        avault.Plan(vault, "m", places[0], None).check(agreed)


def test_the_sentence_is_whole_or_says_how_much_more_there_is() -> None:
    vault = with_key("g/K")
    guard(vault, "g/K", hosts=[f"{letter * 60}.example.com" for letter in "abcde"])
    guard(vault, "g/K", times=1, until=2_000_000_000)
    said = said_of(vault, "g/K", {"times": 5})
    assert said.endswith("(until now: only proxy, to one of 5 hosts, until 2033-05-18T03:33:20Z, 1 more time)")
    assert all(letter * 60 in said for letter in "abcde"), "what becomes possible is said in full"
    for number in range(30):
        write(vault, "m", lambda draft, number=number: draft.put("g", f"X{number}", "x", 1, "m"))
        guard(vault, f"h{number}/{'Y' * 60}", until=number + 9)
        avault.note_moves(vault, [(f"g/X{number}", f"h{number}/{'Y' * 60}")], 1, "m")
    guard(vault, "g", only=["run"])
    assert said_of(vault, "g") == (
        "in test, from now on all in g (31 now, and later ones), "
        + ", ".join(f"h{number}/{'Y' * 60}" for number in (0, 1, 10))
        + f", h11/{'Y' * 60} and 26 other names of it may be used by: anything, by any program here,"
        " or what the guards that are left on them let (until now: 34 rules)"
    )


# Any machines. The model knows of each value under which names it was, and of each guard who has heard of it, or that it is gone.


class World:
    """Machines with a vault each, and what they have heard, as plain sets.

    A guard or a move is known by its id and the count under which it was said: said again, it is another.
    """

    def __init__(self) -> None:
        self.vaults = {machine: new_vault() for machine in "abc"}
        self.names = {machine: machine for machine in "abc"}  # that each counts under
        self.kept: dict[str, dict[str, Any]] = {machine: {} for machine in "abc"}
        self.older: dict[str, list[avault.Vault]] = {machine: [new_vault()] for machine in "abc"}
        self.heard: dict[str, set[tuple[str, int, str, str]]] = {machine: set() for machine in "abc"}  # id, count, place, way
        self.moves: dict[str, set[tuple[str, int, str, str]]] = {machine: set() for machine in "abc"}  # id, count, from, to
        self.gone: dict[str, set[tuple[str, int]]] = {machine: set() for machine in "abc"}
        self.past: dict[str, set[tuple[str, str]]] = {machine: set() for machine in "abc"}  # value, name
        self.is_cut = False  # the operator took moves away too: then values tell nothing
        self.count = 0

    def write(self, machine: str, change: Any) -> None:
        """What a Store does; and with it each machine keeps the guards that it has seen."""
        before = self.vaults[machine].copy()
        try:
            write(self.vaults[machine], self.names[machine], change)
        except (avault.NotFound, avault.Denied):
            self.vaults[machine] = before
        self.moves[machine] |= {
            (name[6:], found[0].count, *map(json.loads(found[0].value).get, ("from", "to")))
            for name, found in self.vaults[machine].facts.items()
            if name.startswith("moved/")
        }
        self.remember(machine)

    def live(self, machine: str, heard: set[Any]) -> list[Any]:
        """What of that nobody whom the machine has heard of took away."""
        gone = self.gone[machine]
        return [each for each in heard if not any(each[0] == name and each[1] <= count for name, count in gone)]

    def names_of(self, machine: str, name: str) -> set[str]:
        """The names that are one with another by the moves."""
        found, moves = {name}, self.live(machine, self.moves[machine])
        while more := {end for *_, one, other in moves if {one, other} & found for end in (one, other)} - found:
            found |= more
        return found

    def remember(self, machine: str) -> None:
        vault = self.vaults[machine]
        self.older[machine].append(vault.copy())
        self.kept[machine] = avault.own_facts(vault.facts)
        self.past[machine] |= {
            (secret.value, f"{group}/{key}")
            for group, each in vault.groups.items()
            for key, found in each.keys.items()
            for secret in found
        }

    def put(self, machine: str, group: str, key: str) -> None:
        self.count += 1
        value = f"the value {self.count}"
        self.write(machine, lambda vault: vault.put(group, key, value, self.count, self.names[machine]))

    def guard(self, machine: str, on: str, way: str) -> None:
        self.write(machine, lambda vault: avault.add_guard(vault, on, {"only": [way, "ssh"]}, 1, self.names[machine]))
        name, count = self.said(machine, "guard", {"on": on, "only": [way, "ssh"]})
        self.heard[machine].add((name, count, on, way))

    def said(self, machine: str, kind: str, what: dict[str, Any]) -> tuple[str, int]:
        """What a machine has just said: it is said under its last count."""
        vault, me = self.vaults[machine], self.names[machine]
        [name] = [
            name
            for name, [each] in vault.facts.items()
            if name.startswith(kind)
            and (each.machine, each.count) == (me, vault.generation[me])
            and json.loads(each.value) == what
        ]
        return name.partition("/")[2], vault.generation[me]

    def places_of(self, machine: str, name: str) -> set[str]:
        """The places whose guards count for a name."""
        had = self.names_of(machine, name)
        places = had | {other.partition("/")[0] for other in had}
        return {place for *_, place, _ in self.live(machine, self.heard[machine]) if place in places}

    def unguard(self, machine: str, on: str) -> None:
        vault, names = self.vaults[machine].copy(), [f"{group}/K" for group in "ghi"]
        before = {name: self.places_of(machine, name) for name in names}
        self.take_off(machine, on)
        lost = {name: before[name] - self.places_of(machine, name) for name in names}
        self.check_words(vault, self.names[machine], on, lost)

    def check_words(self, vault: avault.Vault, me: str, on: str, lost: dict[str, set[str]]) -> None:
        """The phone is told of each name that a guard counts for no more, masked or not, and of where that is."""
        try:
            plan = avault.Plan(vault, me, on, None)
        except avault.AvaultError:
            assert not any(lost.values()), "nobody is asked where nothing is lost"
            return
        if not plan.said:
            assert not plan.steps and not any(lost.values()), "nobody is asked where nothing is lost"
            return
        assert plan.steps and plan.said.startswith("in test, from now on ")
        for name, places in lost.items():
            told = [step for step in plan.steps if name in step or (on == name.partition("/")[0] and on in step)]
            assert not places or (any(places <= {*step} for step in told) and all(place in plan.said for place in places))

    def take_off(self, machine: str, on: str) -> None:
        marks = avault.Guards(self.vaults[machine].facts).marks_of(on)
        heard = {each[0] for each in self.live(machine, self.heard[machine]) if each[2] == on}
        assert heard <= {*marks}
        self.is_cut = self.is_cut or bool({*marks} - heard)
        self.gone[machine] |= {*marks.items()}
        self.write(machine, lambda vault: avault.take_off(vault, on, 1, self.names[machine]))

    def sync(self, to: str, source: str) -> None:
        ours, theirs = self.vaults[to], self.vaults[source]
        if theirs.is_after(ours.generation) and not avault.lacks_guards(theirs, ours):
            self.vaults[to] = theirs.copy()
        elif not ours.is_after(theirs.generation):
            merged = ours.merge(theirs)
            assert merged.to_json() == theirs.merge(ours).to_json() == merged.merge(theirs).to_json()
            self.vaults[to] = merged
            write(self.vaults[to], self.names[to])
        else:
            return
        self.heard[to] |= self.heard[source]
        self.moves[to] |= self.moves[source]
        self.gone[to] |= self.gone[source]
        self.past[to] |= self.past[source]
        self.remember(to)

    def roll_back(self, machine: str, back: int) -> None:
        """An older copy is accepted: under another name, with the guards that the machine has seen."""
        older = self.older[machine][-1 - back % len(self.older[machine])].copy()
        self.count += 1
        self.names[machine] = f"{machine}{self.count}"
        older.facts = {**avault.other_facts(older), **avault.join_facts(older.facts, self.kept[machine])}
        self.vaults[machine] = older
        write(older, self.names[machine])
        self.remember(machine)

    def restore(self, machine: str, group: str, key: str, back: int) -> None:
        older = self.older[machine][-1 - back % len(self.older[machine])]
        try:
            value = older.secrets(group, key)[0].value
        except avault.NotFound:
            return

        def change(vault: avault.Vault) -> None:
            avault.adopt_guards(vault, older, [f"{group}/{key}"], 1, self.names[machine])
            vault.put(group, key, value, 1, self.names[machine])

        self.write(machine, change)

    def move(self, machine: str, old: tuple[str, str], new: tuple[str, str]) -> None:
        if old == new:
            return
        before = self.vaults[machine].generation.get(self.names[machine], 0)
        self.write(machine, lambda vault: vault.move(old, new, 1, self.names[machine]))
        vault, me = self.vaults[machine], self.names[machine]
        if vault.generation.get(me, 0) > before:
            last = [json.loads(each.value) for [each] in vault.facts.values() if (each.machine, each.count) == (me, before + 1)]
            assert any({each.get("from"), each.get("to")} == {"/".join(old), "/".join(new)} for each in last), "each move is said"

    def check(self) -> None:
        for machine, vault in self.vaults.items():
            live = self.live(machine, self.heard[machine])
            for group, each in vault.groups.items():
                for key, found in each.keys.items():
                    name = f"{group}/{key}"
                    values = {secret.value for secret in found}
                    had = self.names_of(machine, name)
                    had |= {other for value, other in self.past[machine] if value in values and not self.is_cut}
                    places = had | {other.partition("/")[0] for other in had}
                    asked = avault.Rules()
                    for *_, place, way in live:
                        if place in places:
                            asked = asked & avault.Rules(only=[way, "ssh"])
                    assert rules_of(vault, name).asks_at_least(asked), (machine, name)
            on_it = {identity for place in avault.Guards(vault.facts).guards.values() for identity in (g.identity for g in place)}
            assert on_it == {each[0] for each in live}, "none is lost, and none comes back"

    def settle(self) -> None:
        for to, source in ("ab", "ac", "ba", "ca", "bc", "ab", "cb"):
            self.sync(to, source)
        self.check()
        facts = {json.dumps([*map(sorted, self.told(vault))]) for vault in self.vaults.values()}
        assert len(facts) == 1

    def told(self, vault: avault.Vault) -> Iterable[list[str]]:
        return [[name, *(json.dumps(e.to_list()) for e in found)] for name, found in avault.own_facts(vault.facts).items()]


class Guarding(RuleBasedStateMachine):
    """Any work of three machines: nothing but the operator's word makes a guard less, and that wins over what it knew."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    machines, groups, keys = st.sampled_from("abc"), st.sampled_from("ghi"), st.just("K")
    places = st.sampled_from(["g", "g/K", "h/K", "i/K"])

    @initialize()
    def begin(self) -> None:
        self.world.put("a", "g", "K")
        self.world.sync("b", "a")

    @rule(machine=machines, group=groups, key=keys)
    def put(self, machine: str, group: str, key: str) -> None:
        self.world.put(machine, group, key)

    @rule(machine=machines, group=groups, key=keys | st.none())
    def delete(self, machine: str, group: str, key: str | None) -> None:
        self.world.write(machine, lambda vault: vault.remove(group, key))

    @rule(machine=machines, old=st.tuples(groups, keys), new=st.tuples(groups, keys))
    def move(self, machine: str, old: tuple[str, str], new: tuple[str, str]) -> None:
        self.world.move(machine, old, new)

    @rule(machine=machines, on=places, way=st.sampled_from(["run", "proxy"]))
    def guard(self, machine: str, on: str, way: str) -> None:
        self.world.guard(machine, on, way)

    @rule(machine=machines, on=places)
    def unguard(self, machine: str, on: str) -> None:
        self.world.unguard(machine, on)

    @rule(machine=machines, old=groups, new=groups, way=st.sampled_from(["run", "proxy"]), is_masked=st.booleans())
    def part(self, machine: str, old: str, new: str, way: str, is_masked: bool) -> None:
        """What is guarded is moved, guarded by the group there as it is already, and taken from its names before."""
        self.world.guard(machine, f"{old}/K", way)
        self.world.move(machine, (old, "K"), (new, "K"))
        if is_masked:
            self.world.guard(machine, new, way)
        self.world.unguard(machine, f"{new}/K")

    @rule(machine=machines, group=groups, key=keys, back=st.integers(0, 20))
    def restore(self, machine: str, group: str, key: str, back: int) -> None:
        self.world.restore(machine, group, key, back)

    @rule(machine=machines, back=st.integers(0, 20))
    def roll_back(self, machine: str, back: int) -> None:
        self.world.roll_back(machine, back)

    @rule(to=machines, source=machines)
    def sync(self, to: str, source: str) -> None:
        self.world.sync(to, source)

    @invariant()
    def nothing_is_less_guarded(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        copy.deepcopy(self.world).settle()


TestGuarding = Guarding.TestCase
TestGuarding.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


# The file, and what a machine keeps beside it


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "vault", tmp_path / "state")


@pytest.fixture
def store(desk: Desk) -> avault.Store:
    return desk.create()


def put_guard(on: str = "g/K", **fields: Any) -> Any:
    return lambda vault: avault.add_guard(vault, on, fields or {"only": ["run"]}, 1, "m")


@pytest.mark.parametrize("pinned", [True, False], ids=["accepted", "without a pin"])
def test_an_older_vault_brings_no_guard_back_to_what_it_was(desk: Desk, store: avault.Store, pinned: bool) -> None:
    before = desk.path.read_bytes()
    store.write([put_guard()])
    desk.path.write_bytes(before)
    assert str(rules_of(avault.open_vault(before, AGENT), "g/K")) == "no rule"
    if pinned:
        with pytest.raises(avault.Tampered, match="older"):
            desk.load()
    else:
        Path(desk.places.own("pin.json")).unlink()
    again = desk.load(accept_rollback=pinned)
    assert str(rules_of(again.vault, "g/K")) == "only run"
    assert str(rules_of(avault.open_vault(desk.path.read_bytes(), AGENT), "g/K")) == "only run", "it is on the disk too"


def test_what_the_operator_took_away_an_older_vault_does_not_bring_back(desk: Desk, store: avault.Store) -> None:
    store.write([put_guard()])
    before = desk.path.read_bytes()
    marks = avault.Guards(store.vault.facts).marks_of("g/K")
    store.write([lambda vault: avault.remove_marks(vault, marks, 1, "m")])
    desk.path.write_bytes(before)
    assert str(rules_of(desk.load(accept_rollback=True).vault, "g/K")) == "no rule"


def test_a_later_copy_that_lost_guards_does_not_take_ours(desk: Desk, store: avault.Store) -> None:
    """As of a program that knows none, and writes a vault without them."""
    store.write([put_guard()])
    theirs = store.vault.copy()
    theirs.facts = {}
    desk.path.write_bytes(elsewhere(theirs))
    store.refresh()
    assert store.trouble is None and str(rules_of(store.vault, "g/K")) == "only run" and store.vault.secrets("g", "E")
    assert str(rules_of(avault.open_vault(desk.path.read_bytes(), AGENT), "g/K")) == "only run"


def test_what_is_kept_is_this_vaults_and_whole_or_nothing(desk: Desk, store: avault.Store) -> None:
    path = Path(desk.places.own("guards.enc"))
    assert not path.exists(), "a vault without guards has none"
    store.write([put_guard()])
    good = path.read_bytes()
    alone = avault.open_vault(good, AGENT)
    assert not alone.groups and not alone.generation, "no secret is in it, and a merge with it takes none away"
    other = avault.Vault("11" * 16, avault.public_hex(AGENT), store.vault.operator, "test")
    avault.add_guard(other, "g", {"only": []}, 1, "m")
    for bad in (b"", good[:-9], avault.seal_vault(other, AGENT)):
        path.write_bytes(bad)
        assert str(rules_of(desk.load().vault, "g/K")) == "only run"
        assert path.read_bytes() != bad, "it is made anew"
        path.write_bytes(good)
    key = nostr_sdk.Keys.generate()
    assert avault.KeptGuards(desk.places, key).read(store.vault) == {}, "another agent's"


def test_what_is_kept_is_held_against_the_disk_however_long_it_is(desk: Desk, store: avault.Store) -> None:
    """Else it is written anew at each look, and said to be another's work."""
    links = [(f"a/{number:0100}", f"b/{number:0100}") for number in range(3000)]
    avault.note_moves(store.vault, links, 1, "m")
    store.kept_guards.keep(store.vault)
    kept = Path(desk.places.own("guards.enc"))
    assert kept.stat().st_size > 1 << 20 and not store.kept_guards.restore(store.vault)
    kept.write_bytes(kept.read_bytes() + b"\n")
    assert store.kept_guards.restore(store.vault)


def test_a_disk_that_keeps_no_guards_is_told_of(desk: Desk, store: avault.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise avault.AvaultError("the disk is full")

    monkeypatch.setattr(avault, "write_file", fail)
    store.kept_guards.keep(store.vault)
    assert store.kept_guards.warning == ""
    put_guard()(store.vault)
    store.kept_guards.keep(store.vault)
    assert "could be without guards: the disk is full" in store.warning


def known_by(store: avault.Store) -> dict[str, Any]:
    """unlock.json's content, as it is sealed when these guards are known."""
    vault = store.vault
    sealed = avault.seal_nsec(AGENT, vault.identity, vault.operator, vault.name, "here", avault.known_guards(vault))
    return {**sealed, "guards": avault.read_known(AGENT, sealed)}


@pytest.mark.slow
def test_more_guards_than_fit_are_known_as_far_as_they_do(store: avault.Store) -> None:
    for number in range(3000):
        avault.add_guard(store.vault, "g", {"times": number + 1}, 1, f"m{number}")
    for number in range(3000):
        avault.add_guard(store.vault, "f", {"times": number + 1}, 2, f"m{number}")
    known = known_by(store)["guards"]
    later = [name for name, [each] in store.vault.facts.items() if each.created == 2]
    assert len(known) == 2500 and not {f"guard/{name}" for name in known} & {*later}, "none is pushed out by later ones"


def spoil(path: Path, how: str) -> None:
    if how == "flipped":
        path.write_bytes(b"garbage")
    else:
        path.unlink()
    if how == "a directory":
        path.mkdir()


@pytest.mark.parametrize("how", ["flipped", "a directory", "gone"])
def test_guards_that_are_known_are_not_done_without(desk: Desk, store: avault.Store, how: str) -> None:
    """Not with --accept-rollback, which is the word of who starts avault."""
    before = desk.path.read_bytes()
    store.write([put_guard()])
    store.write([lambda vault: vault.move(("g", "K"), ("h", "L"), 1, "m")])
    desk.content, after = known_by(store), desk.path.read_bytes()
    spoil(Path(desk.places.own("guards.enc")), how)
    desk.path.write_bytes(before)
    with pytest.raises(avault.Tampered, match="guards or payments known to this machine are in neither"):
        desk.load(accept_rollback=True)
    assert desk.path.read_bytes() == before, "nothing was written"
    desk.path.write_bytes(after)
    again = desk.load()
    assert str(rules_of(again.vault, "h/L")) == "only run"
    assert ("guards.enc was damaged" in again.warning) is (how == "flipped") or how == "a directory"


def test_uses_that_are_known_are_not_forgotten(desk: Desk, store: avault.Store) -> None:
    store.write([put_guard(times=3)])
    [one] = avault.Guards(store.vault.facts).of("g/K")
    before, kept = desk.path.read_bytes(), Path(desk.places.own("guards.enc")).read_bytes()
    store.write([lambda vault: avault.count_use(vault, one.identity, 1, "m")])
    desk.content = known_by(store)
    desk.path.write_bytes(before)
    Path(desk.places.own("guards.enc")).write_bytes(kept)
    with pytest.raises(avault.Tampered, match="guards or payments known to this machine"):
        desk.load(accept_rollback=True)


def test_what_the_operator_took_away_is_not_missed(desk: Desk, store: avault.Store) -> None:
    store.write([put_guard()])
    desk.content = known_by(store)
    store.write([lambda vault: avault.take_off(vault, "g/K", 1, "m")])
    assert str(rules_of(desk.load().vault, "g/K")) == "no rule"


def test_guards_that_are_replaced_while_it_is_open_are_put_back(desk: Desk, store: avault.Store) -> None:
    path = Path(desk.places.own("guards.enc"))
    assert not store.kept_guards.restore(store.vault)
    store.write([put_guard()])
    assert not store.kept_guards.restore(store.vault)
    good = path.read_bytes()
    for how in ("flipped", "gone"):
        spoil(path, how)
        assert store.kept_guards.restore(store.vault)
        assert avault.open_vault(path.read_bytes(), AGENT).facts.keys() == avault.open_vault(good, AGENT).facts.keys()


def test_what_is_kept_unsaved_has_the_guards_that_are_known(desk: Desk, store: avault.Store) -> None:
    store.write([lambda vault: vault.put("g", "L", "second", 1, store.machine)])
    store.keep()
    unsaved, pin = Path(desk.places.own("unsaved.enc")), Path(desk.places.own("pin.json")).read_bytes()
    before = unsaved.read_bytes()
    store.write([put_guard()])
    unsaved.write_bytes(before)
    desk.path.write_bytes(b"x")
    Path(desk.places.own("pin.json")).write_bytes(pin)
    again = desk.load()
    assert again.trouble and str(rules_of(again.vault, "g/K")) == "only run"
    Path(desk.places.own("pin.json")).unlink()
    with pytest.raises(avault.Tampered):  # nothing says how old it is
        desk.load()
    assert unsaved.read_bytes() == before


def test_what_is_kept_unsaved_is_set_aside_where_nothing_says_how_old_it_is(desk: Desk, store: avault.Store) -> None:
    before = desk.path.read_bytes()
    store.write([lambda vault: vault.put("g", "L", "second", 1, store.machine)])
    store.keep()
    desk.path.write_bytes(before)
    Path(desk.places.own("pin.json")).unlink()
    assert "no pin.json" in desk.load().warning
    assert not Path(desk.places.own("unsaved.enc")).exists() and Path(desk.places.own("unsaved-before.enc")).exists()


def test_guards_that_a_key_before_has_sealed_still_count(desk: Desk, store: avault.Store) -> None:
    """As after a rotation; but who got that key could have sealed a removal too."""
    old = nostr_sdk.Keys.generate()
    store.write([put_guard(), lambda vault: avault.keep_old_key(vault, old, 1, "m")])
    twin = avault.Vault(store.vault.identity, avault.public_hex(old), store.vault.operator, "test")
    twin.facts = avault.own_facts(store.vault.facts)
    avault.add_guard(twin, "h", {"only": ["ssh"]}, 1, "n")
    avault.take_off(twin, "g/K", 1, "n")
    path = Path(desk.places.own("guards.enc"))
    path.write_bytes(avault.seal_vault(twin, old))
    again = desk.load()
    assert str(rules_of(again.vault, "g/K")) == "only run" and str(rules_of(again.vault, "h/X")) == "only ssh"
    assert again.warning == "" and avault.open_vault(path.read_bytes(), AGENT)


def say_otherwise(vault: avault.Vault, keys: Any) -> avault.Vault:
    """A copy by who has a key that was rotated away: each fact about guards is said again, later, and means another thing."""
    twin = avault.Vault(vault.identity, avault.public_hex(keys), vault.made_for, "x")
    texts = {
        "guard": json.dumps({"on": "nobody/CARES", "only": ["run"]}),
        "moved": json.dumps({"from": "nobody/CARES", "to": "nobody/ELSE"}),
        "used": "0",
        "unguarded": "9",
    }
    for name in avault.own_facts(vault.facts):
        kind, identity, *_ = name.split("/")
        twin.facts[name] = [avault.Secret(texts[kind], 0, 1 << 36, "m", 10**9)]
        twin.facts[f"unguarded/{identity}"] = [avault.Secret(str(10**10), 0, 1 << 36, "m", 10**9)]
    return twin


def test_a_key_before_says_no_guard_otherwise_under_whatever_count(desk: Desk, store: avault.Store) -> None:
    old = nostr_sdk.Keys.generate()
    store.write([put_guard(), put_guard("t/K", times=3), lambda vault: avault.keep_old_key(vault, old, 1, "m")])
    store.write([lambda vault: vault.move(("g", "K"), ("h", "L"), 1, "m")])
    [counted] = avault.Guards(store.vault.facts).of("t/K")
    store.write([lambda vault: avault.count_use(vault, counted.identity, 1, "m")])
    before, path = avault.own_facts(store.vault.facts), Path(desk.places.own("guards.enc"))
    forged = avault.seal_vault(say_otherwise(store.vault, old), old)
    path.write_bytes(forged)
    once = desk.load().vault
    assert avault.list_facts({name: once.facts[name] for name in before}) == avault.list_facts(before)
    assert str(rules_of(once, "h/L")) == "only run" and str(rules_of(once, "t/K")) == "2 more times"
    assert rules_of(once, "nobody/ELSE").named["only"], "what it adds counts, too"
    path.write_bytes(forged)
    assert desk.load().vault.facts.keys() == once.facts.keys(), "and once"
    genuine = put_guard("g/K", only=["ssh"])
    genuine(twin := store.vault.copy())
    assert str(rules_of(once.merge(twin), "g/K")) == str(rules_of(twin.merge(once), "g/K")) == "nobody"


def test_guards_that_are_known_are_not_had_from_a_key_before(desk: Desk, store: avault.Store) -> None:
    """Its ids are in each copy that it has sealed; what it says under them is anything."""
    old = nostr_sdk.Keys.generate()
    store.write([lambda vault: avault.keep_old_key(vault, old, 1, "m")])
    before = desk.path.read_bytes()
    store.write([put_guard()])
    desk.content = known_by(store)
    desk.path.write_bytes(before)
    Path(desk.places.own("guards.enc")).write_bytes(avault.seal_vault(say_otherwise(store.vault, old), old))
    with pytest.raises(avault.Tampered, match="guards or payments known to this machine"):
        desk.load(accept_rollback=True)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"only": ["proxy"]}, {"hosts": ["evil.example"], "only": ["proxy"]}),
        ({"only": ["proxy"]}, {"hosts": ["evil.example"]}),
        ({"only": ["ssh"]}, {"servers": ["any"], "namespaces": ["file"], "only": ["ssh"]}),
        ({"only": ["sign"]}, {"kinds": ["1"]}),
        ({"only": ["proxy"], "hosts": []}, {"hosts": ["evil.example"]}),
    ],
)
def test_a_key_before_names_nothing_that_is_to_be_named(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What lets nothing through until it is named (as an avault before has written it) is named by who has the key now alone."""
    facts = [
        {f"guard/{each:016x}": [avault.Secret(json.dumps({"on": "g/K", **rules}), 1, 1, "m", 1)]}
        for each, rules in enumerate((ours, theirs))
    ]
    more = avault.join_facts(facts[0], avault.only_additions(*facts, 7))
    was, now = (avault.Guards(each).rules_of(avault.Guards(each).of("g/K")) for each in (facts[0], more))
    assert now.asks_at_least(was) and len(more) == 2
    assert avault.list_facts(avault.join_facts(more, avault.only_additions(more, facts[1], 8))) == avault.list_facts(more)


IDS = [f"{each:016x}" for each in range(3)]
PLACES = st.sampled_from(["g/K", "h/K", "g"])
TEXTS = {
    "guard": st.builds(
        lambda on, ways: json.dumps({"on": on, "only": sorted(ways)}), PLACES, st.sets(st.sampled_from(avault.WAYS))
    ),
    "moved": st.builds(
        lambda *ends: json.dumps(dict(zip(("from", "to"), ends, strict=True))), *[st.sampled_from(["g/K", "h/K", "i/K"])] * 2
    ),
    "unguarded": st.integers(0, 9).map(str),
}


@pytest.mark.slow
@given(st.data())
def test_what_a_key_before_has_sealed_lessens_nothing_in_whatever_order(data: Any) -> None:
    def draw() -> dict[str, list[Any]]:
        names = data.draw(st.lists(st.tuples(st.sampled_from(sorted(TEXTS)), st.sampled_from(IDS)), unique=True, max_size=6))
        drawn = {
            f"{kind}/{each}": [avault.Secret(data.draw(TEXTS[kind]), 1, 1, "m", data.draw(st.integers(1, 9)))]
            for kind, each in names
        }
        return avault.join_facts(drawn, {})

    def rules(facts: dict[str, list[Any]], name: str) -> avault.Rules:
        guards = avault.Guards(facts)
        return guards.rules_of(guards.of(name))

    ours, theirs, later = draw(), draw(), draw()
    more = avault.join_facts(ours, avault.only_additions(ours, theirs, 7))
    for name in ("g/K", "h/K", "i/K"):
        assert rules(more, name).asks_at_least(rules(ours, name))
        with_it, without = avault.join_facts(more, later), avault.join_facts(ours, later)
        assert rules(with_it, name).asks_at_least(rules(without, name)), "nor does it what is merged later"
    again = avault.join_facts(more, avault.only_additions(more, theirs, 8))
    assert avault.list_facts(again) == avault.list_facts(more)
