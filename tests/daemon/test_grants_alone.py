"""What a grant answers, by the keyholder alone: no more than its rules, and no more than its maker would get."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gate import FORMS, GUARDS, VALUES, House, asks, shows
from test_keyholder_alone import CALLER, Desk
from test_seal import Example

import avault

GRANTED = {"get", "has", "list", "export", "reveal", "provide", "keys", "sign", "proxy"}
UID = os.getuid()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.fill()
    yield house
    house.close()


async def grant(desk: Desk, **fields: Any) -> avault.Grant:
    """A new grant, and the desk's next requests through it."""
    desk.session.grant = None
    made = (await desk.serve("grant", name="web", **fields))["grant"]
    desk.session = SimpleNamespace(caller=None, send=lambda message: None, transport=None, task=None, awaited=None)
    desk.session.grant = desk.keyholder.grants.known[made["name"]]

    def identify(session: Any) -> dict[str, Any]:
        session.caller = {**CALLER, "grant": "web"}
        return session.caller  # type: ignore[no-any-return]

    desk.keyholder.identify = identify  # type: ignore[method-assign]
    return desk.session.grant  # type: ignore[no-any-return]


def as_maker(desk: Desk) -> None:
    desk.session = SimpleNamespace(caller=CALLER, send=lambda message: None, grant=None)


async def test_what_may_be_asked_through_a_grant_is_a_table_and_all_else_is_refused(house: House) -> None:
    everything = avault.VALUES | avault.DOOR | avault.SESSIONS
    assert everything >= avault.GRANTED == GRANTED and GRANTED - {"has", "list", "keys"} == avault.RELEASING
    await grant(house, groups=[*VALUES], can=["get", "run", "proxy", "sign"])
    store = house.holding.store
    assert store
    before = store.digest, store.vault
    for op in [*sorted(everything - GRANTED), "", "nonsense", "__init__", "GET", "get "]:
        for fields in asks(op, "free") if op in avault.VALUES else [{}]:
            with pytest.raises(avault.Denied, match="through a grant that may not be asked") as refused:
                await house.serve(op, "new", **{name: each for name, each in fields.items() if name != "value"})
            assert refused.value.hint, (op, fields)
    assert (store.digest, store.vault) == before and house.unlocking.task is None and not house.keyholder.ended.is_set()
    assert [*house.keyholder.grants.known] == ["web"]
    refused = {line["op"] for line in house.lines("refused.log") if line.get("grant") == "web"}
    assert refused and refused <= everything | {"?"}, "what is no request is not repeated"


@pytest.mark.parametrize("op", sorted(GRANTED))
async def test_what_is_not_granted_is_answered_as_what_is_not_there(house: House, op: str) -> None:
    await grant(house, groups=["soon"], only=["onlyrun/KEY"], can=["get", "run", "proxy", "sign"])
    for hidden in ("free", "proxied", "used", "twice"):
        for fields in asks(op, hidden):
            answer = await house.hear(op, **fields)
            absent = json.loads(json.dumps(fields).replace(hidden, "a" * len(hidden)))
            other = await house.hear(op, **absent)
            answer, other = (re.sub("end_[0-9a-f]{32}", "end", each) for each in (answer, other))
            assert answer.replace(hidden, "N") == other.replace("a" * len(hidden), "N"), (op, fields)
            assert not shows(answer, hidden)


@pytest.mark.parametrize("op", ["get", "export", "reveal", "provide"])
@pytest.mark.parametrize("can", [["get"], ["run"], ["get", "run"], ["sign"], ["proxy"]])
async def test_it_is_for_what_it_names_and_guards_count_as_well(house: House, op: str, can: list[str]) -> None:
    names = ["free", *GUARDS]
    await grant(house, groups=names, can=can)
    for name in names:
        for fields in asks(op, name):
            answer = await house.hear(op, **fields)
            is_run = op in ("export", "reveal") and fields.get("for") == "run"
            came = {each for each in VALUES if shows(answer, each)}
            assert came <= {"free"} | ({"onlyrun"} if is_run else set()), (op, fields)
            assert not came or ("run" if is_run else "get") in can, (op, fields)
    shown = [await house.hear(op, **fields) for fields in asks(op, "free")]
    assert any(shows(each, "free") for each in shown) is bool(
        {*can} & ({"get", "run"} if "port" in op or op == "reveal" else {"get"})
    )


SECRETS = [(group, key) for group in "abc" for key in ("K", "L")]
PLACES = [*"abc", *(f"{group}/{key}" for group, key in SECRETS)]
RULES: list[dict[str, Any]] = [{"only": ["run"]}, {"only": []}, {"times": 1}, {"until": 1}, {"only": ["ssh"]}]
REQUESTS = st.one_of(
    st.fixed_dictionaries(
        {
            "op": st.just("get"),
            "group": st.sampled_from("abcd"),
            "key": st.sampled_from(["K", "L", "M", None]),
            "format": st.sampled_from(FORMS),
        }
    ),
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["export", "reveal"]),
            "groups": st.lists(st.sampled_from("abcd"), max_size=2),
            "only": st.lists(st.sampled_from([*PLACES, "K", "d/M"]), max_size=2),
            "for": st.sampled_from([None, "run", "mask", "scan"]),
            "prefix": st.just(True),
        }
    ),
)


def answer(gate: avault.Gate, vault: avault.Vault, request: dict[str, Any], made: avault.Grant | None) -> set[str] | None:
    """The secrets whose values come out, by name; None where the whole was refused."""
    pick = avault.pick_get if request["op"] == "get" else avault.pick_export
    try:
        passage = gate.admit(vault, request, pick, made)
        told = json.dumps(avault.ANSWERED[request["op"]](passage.vault, request))
        if made and not made.is_mask(request):
            made.use(passage.way)
    except avault.AvaultError:
        return None
    return {f"{group}/{key}" for group, key in SECRETS if f"value-{group}-{key}" in told}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), max_size=2),
    st.lists(st.sampled_from([*PLACES[3:], "d/M"]), max_size=3),
    st.lists(st.sampled_from(avault.GRANT_USES), min_size=1),
    st.none() | st.integers(0, 2),
    st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(RULES)), max_size=2),
    st.lists(REQUESTS, min_size=1, max_size=4),
)
def test_a_grant_answers_a_part_of_what_its_maker_gets_and_of_its_rules(
    groups: list[str],
    only: list[str],
    can: list[str],
    times: int | None,
    guards: list[tuple[str, dict[str, Any]]],
    requests: list[dict[str, Any]],
) -> None:
    vault, gate = avault.Vault("00" * 16, "a" * 64, "b" * 64, "test"), avault.Gate()
    for group, key in SECRETS:
        vault.put(group, key, f"value-{group}-{key}", 1, "m")
    for place, rules in guards:
        avault.add_guard(vault, place, rules, 1, "m")
    made = avault.Grant("web", groups, only, can)
    made.times = times
    granted = {f"{group}/{key}" for group, key in SECRETS if group in groups or f"{group}/{key}" in only}
    for request in requests:
        mine, its = answer(gate, vault, request, None), answer(gate, vault, request, made)
        if its is None:
            continue
        assert its <= granted
        is_named = request["op"] == "get" or request["groups"] or request["only"]
        if mine is None:  # the maker named what a guard keeps, or what is there for it alone
            by_name = {"op": "export", "for": None, "prefix": True} if request["op"] == "get" else request
            every = answer(gate, vault, {**by_name, "groups": [], "only": sorted(its)}, None)
            assert not its or (every is not None and its <= every)
        else:
            assert its <= mine
            assert its == mine & granted or not is_named or request.get("for") == "mask" or its < mine
        way = "run" if request["op"] != "get" and request["for"] == "run" else "get"
        assert not its or way in can
        assert not its or times != 0


async def test_a_secret_that_moves_comes_or_is_guarded(house: House) -> None:
    await grant(house, groups=["free"], only=["later/NEW"])
    mine = house.session

    async def get(group: str, key: str = "KEY") -> str:
        house.session = mine
        found = json.loads(await house.hear("get", group=group, key=key))
        as_maker(house)
        return str(found.get("value") or found["error"]["code"])

    assert await get("free") == VALUES["free"] and await get("later", "NEW") == "not_found"
    await house.serve("set", "it is there", group="later", key="NEW")
    await house.serve("set", "another", group="later", key="OTHER")
    assert await get("later", "NEW") == "it is there" and await get("later", "OTHER") == "not_found"
    await house.serve("move", group="free", key="KEY", to_group="away", to_key="KEY")
    assert await get("free") == await get("away") == "not_found", "a grant is by name"
    await house.serve("move", group="soon", key="KEY", to_group="free", to_key="KEY")
    assert await get("free") == VALUES["soon"]
    await house.serve("guard", group="free", only=["run"])
    assert await get("free") == "denied", "a stricter guard counts at once"


async def test_no_hint_names_what_a_secret_was_called_elsewhere(house: House) -> None:
    """Through a connection, whose refusals are told by `Session.explain`."""
    as_maker(house)
    await house.serve("move", group="proxied", key="KEY", to_group="free", to_key="MOVED")
    made = await grant(house, groups=["free"])
    with pytest.raises(avault.Denied) as refused:
        await house.serve("get", group="free", key="MOVED")
    assert "proxied" in str(refused.value.hint), "the maker is told"
    session = avault.Session({}, lambda *_: {}, lambda: None, {}, 0.0, made)
    told = session.explain(refused.value)["error"]
    assert "proxied" not in told["message"] and told["hint"] == "ask whoever made the grant"


async def test_times_are_counted_before_anything_goes_out(house: House) -> None:
    made = await grant(house, groups=["free"], times=3)
    for wrong in ({"group": "none", "key": "KEY"}, {"group": "free", "key": "NONE"}):
        assert json.loads(await house.hear("get", **wrong))["error"]["code"] == "not_found"
    await house.hear("has", group="free")
    assert made.times == 3, "what gives nothing is no use"
    found = await asyncio.gather(*(house.hear("get", group="free", key="KEY") for _ in range(20)))
    assert sum(shows(each, "free") for each in found) == 3 and made.times == 0
    ids = json.dumps({"protocolVersion": 1, "ids": ["free/KEY"]})
    assert "DENIED" in await house.hear("provide", value=ids)
    as_maker(house)
    assert shows(await house.hear("get", group="free", key="KEY"), "free")


@pytest.mark.parametrize("fields", [{"times": 1}, {"can": ["run"]}])
async def test_what_is_masked_of_nothing_is_no_use_and_keeps_no_vault_open(house: House, fields: dict[str, Any]) -> None:
    await grant(house, groups=["free"], **fields)
    lines, autolock = len(house.lines("access.log")), house.holding.autolock
    autolock.used = 5.0
    for _ in range(3):
        assert json.loads(await house.hear("reveal", **{"for": "mask"})) == {"ok": True, "secrets": []}
    assert autolock.used == 5.0 and len(house.lines("access.log")) == lines and not house.lines("refused.log")


@pytest.mark.parametrize(
    ("op", "fields"), [("export", {}), ("reveal", {}), ("export", {"for": "run"}), ("reveal", {"groups": []})]
)
async def test_what_gives_nothing_is_no_use_and_keeps_no_vault_open(house: House, op: str, fields: dict[str, Any]) -> None:
    made = await grant(house, only=["not/THERE"], times=1)
    lines, autolock = len(house.lines("access.log")), house.holding.autolock
    autolock.used = 5.0
    for _ in range(3):
        assert json.loads(await house.hear(op, **fields))["ok"]
    assert made.times == 1 and autolock.used == 5.0 and made.used is None
    assert len(house.lines("access.log")) == lines and not house.lines("refused.log")


@pytest.mark.parametrize("op", ["get", "provide"])
async def test_a_grant_that_ends_while_a_use_is_counted_gives_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, op: str
) -> None:
    made = await grant(house, groups=["twice"])
    change = house.keyholder.change

    async def end_meanwhile(function: Any) -> Any:
        try:
            return await change(function)
        finally:
            made.is_ended = True

    monkeypatch.setattr(house.keyholder, "change", end_meanwhile)
    ids = json.dumps({"protocolVersion": 1, "ids": ["twice/KEY"]})
    fields = {"value": ids} if op == "provide" else {"group": "twice", "key": "KEY"}
    answer = await house.hear(op, **fields)
    assert not shows(answer, "twice") and "has ended" in answer
    assert not [line for line in house.lines("access.log") if line["op"] == op]


async def test_whether_anything_else_is_guarded_is_not_told(house: House) -> None:
    """What is named is looked for in a vault without guards, too."""
    vault, gate = avault.Vault("00" * 16, "a" * 64, "b" * 64, "test"), avault.Gate()
    vault.put("free", "KEY", "value", 1, "m")
    made = avault.Grant("web", ["free"], [], ["get"])
    request = {"op": "reveal", "as": ["X=other/KEY"]}
    for is_guarded in (False, True):
        if is_guarded:
            vault = vault.copy()
            avault.add_guard(vault, "other", {"only": ["run"]}, 1, "m")
        with pytest.raises(avault.NotFound):
            gate.admit(vault, request, avault.pick_export, made)


async def test_a_log_that_cannot_be_written_releases_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await grant(house, groups=["free"])

    def fail(*_: Any) -> None:
        raise avault.AvaultError("the disk is full")

    monkeypatch.setattr(avault.AccessLog, "write", fail)
    assert not shows(await house.hear("get", group="free", key="KEY"), "free")


async def test_who_gets_nothing_keeps_no_vault_open(house: House) -> None:
    made = await grant(house, groups=["free"])
    autolock = house.holding.autolock
    autolock.used = 5.0
    for op, fields in (("get", {"group": "none", "key": "K"}), ("set", {"group": "free", "key": "K"}), ("lock", {})):
        await house.hear(op, **fields)
    assert autolock.used == 5.0
    await house.hear("get", group="free", key="KEY")
    assert autolock.used > 5.0 and made.used


def connect(made: avault.Grant | None, sessions: dict[Any, None]) -> tuple[socket.socket, Any]:
    """A connection in the keyholder that waits for its next request."""
    ours, theirs = socket.socketpair()
    cut: list[bool] = []
    session = SimpleNamespace(grant=made, task=None, awaited=None, cut=lambda: cut.append(True), was_cut=cut)
    session = Idle(session.__dict__)
    sessions[session] = None
    theirs.close()
    return ours, session


class Idle(SimpleNamespace):
    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(**fields)

    __hash__ = object.__hash__


async def test_who_connects_is_looked_at_and_one_grant_cannot_take_all_connections(house: House) -> None:
    made = await grant(house, groups=["free"])
    grants = house.keyholder.grants
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert grants.find(made.identity, ours) is made
        for unknown in ("", "web", "00" * 16, made.identity[:-1]):
            assert grants.find(unknown, ours) is None
        made.uids = frozenset({UID + 1})
        assert grants.find(made.identity, ours) is None, "the keyholder looks again"
        made.uids = frozenset({UID})
        mine = connect(None, grants.sessions)
        idle = [connect(made, grants.sessions) for _ in range(100)]
        assert grants.find(made.identity, ours) is made
        assert [bool(each.was_cut) for _, each in idle] == [True, *[False] * 99] and not mine[1].was_cut
        for _, each in idle:
            each.task = True
        connect(made, grants.sessions)[1].task = True
        assert grants.find(made.identity, ours) is None, "all are at work"
        grants.end([made])
        assert all(each.was_cut for _, each in idle) and not mine[1].was_cut and grants.find(made.identity, ours) is None
        for sock, _ in [mine, *idle]:
            sock.close()
    house.reception.sessions.clear()


async def test_its_time_is_of_a_clock_that_nobody_sets(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    now = avault.uptime()
    made = await grant(house, groups=["free"], lasts=60)
    assert shows(await house.hear("get", group="free", key="KEY"), "free")
    monkeypatch.setattr(avault.time, "time", lambda: 1e12)
    assert shows(await house.hear("get", group="free", key="KEY"), "free")
    monkeypatch.setattr(avault, "uptime", lambda: now + 61)
    assert "has ended" in await house.hear("get", group="free", key="KEY")
    house.keyholder.grants.end_over()
    assert not house.keyholder.grants.known and made.is_ended


async def test_a_supervisor_that_makes_no_socket_leaves_no_grant(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    grants = house.keyholder.grants

    def refuse(message: dict[str, Any], fd: int | None = None) -> None:
        if message.get("grant") == "listen":
            failed = {"code": "error", "message": "no room", "hint": None}
            answer = {"do": "grant", "identity": message["identity"], "path": None, "failed": failed}
            asyncio.get_running_loop().call_soon(house.keyholder.receive, answer, None)

    monkeypatch.setattr(house.keyholder.control, "send", refuse)
    with pytest.raises(avault.AvaultError, match="no room"):
        await house.serve("grant", name="web", groups=["free"])
    assert not grants.known
    monkeypatch.setattr(avault.Grants, "ANSWER_TIME", 0.01)
    monkeypatch.setattr(house.keyholder.control, "send", lambda message, fd=None: None)
    with pytest.raises(avault.Unavailable):
        await house.serve("grant", name="web", groups=["free"])
    assert not grants.known and not grants.awaited
    asked = asyncio.ensure_future(house.serve("grant", name="web", groups=["free"]))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert not grants.known


# Asked before the first use


class Operator:
    """What the operator says: `answer` is raised, or is agreement."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, house: House) -> None:
        self.asked: list[str] = []
        self.answer: Exception | None = None
        monkeypatch.setattr(avault, "ask_operator", self.ask)
        monkeypatch.setattr(house.holding.contact, "find", lambda store: True)
        monkeypatch.setattr(house.keyholder.openers, "need_pairing", lambda store: None)

    async def ask(self, holding: Any, store: Any, message: Any, title: str, sentence: str, tell: Any) -> None:
        self.asked.append(sentence)
        tell("7K3F")
        await asyncio.sleep(0)
        if self.answer:
            raise self.answer


async def test_the_phone_is_asked_once_before_the_first_use(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch, house)
    made = await grant(house, groups=["free"], only=["soon/KEY"], ask=True)
    told: list[Any] = []
    house.session.send = told.append
    await house.hear("list")
    assert not operator.asked, "names are no use"
    found = await asyncio.gather(*(house.hear("get", group="free", key="KEY") for _ in range(5)))
    assert all(shows(each, "free") for each in found) and not made.asks
    (sentence,) = operator.asked
    assert "by the grant web, on " in sentence and "wants to begin using the grant web of" in sentence
    assert sentence.endswith("for all of free, soon/KEY") and told == [{"progress": "asking", "code": "7K3F"}]


async def test_what_a_person_refuses_stays_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch, house)
    operator.answer = avault.Denied("refused")
    made = await grant(house, groups=["free"], ask=True)
    found = await asyncio.gather(*(house.hear("get", group="free", key="KEY") for _ in range(5)))
    assert not any(shows(each, "free") for each in found) and len(operator.asked) == 1
    assert made.is_ended and not house.keyholder.grants.known
    assert house.lines("refused.log")[-1]["outcome"] == "denied"


async def test_a_question_that_nobody_answers_makes_a_pause(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch, house)
    operator.answer = TimeoutError()
    now = avault.uptime()
    monkeypatch.setattr(avault, "uptime", lambda: now)
    await grant(house, groups=["free"], ask=True)
    codes = [json.loads(await house.hear("get", group="free", key="KEY"))["error"]["code"] for _ in range(3)]
    assert codes == ["timed_out", "denied", "denied"] and len(operator.asked) == 1
    for seconds, count in ((31, 2), (60, 2), (121, 3)):
        now += seconds
        await house.hear("get", group="free", key="KEY")
        assert len(operator.asked) == count, seconds
    now += 601
    operator.answer = None
    assert shows(await house.hear("get", group="free", key="KEY"), "free")


async def test_a_new_grant_is_not_asked_for_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person refused stays refused, for a while, under another name too."""
    operator = Operator(monkeypatch, house)
    operator.answer = avault.Denied("refused")
    monkeypatch.setattr(house.keyholder, "identify", lambda session: CALLER)
    now = avault.uptime()
    monkeypatch.setattr(avault, "uptime", lambda: now)
    for name in ("web", "web", "other"):
        as_maker(house)
        await house.serve("grant", name=name, groups=["free"], ask=True)
        house.session = SimpleNamespace(caller=CALLER, send=lambda message: None, grant=house.keyholder.grants.known[name])
        await house.hear("get", group="free", key="KEY")
        assert len(operator.asked) == 1, name
        house.keyholder.grants.end([*house.keyholder.grants.known.values()])
    as_maker(house)
    await house.serve("grant", name="web", groups=["free"], ask=True)
    now, operator.answer = now + 31, None
    house.session = SimpleNamespace(caller=CALLER, send=lambda message: None, grant=house.keyholder.grants.known["web"])
    assert shows(await house.hear("get", group="free", key="KEY"), "free")


async def test_what_is_not_asked_for_is_not_described(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """To list one group costs no more than that one."""
    described: list[str] = []
    monkeypatch.setattr(avault, "describe_signing_key", described.append)
    assert [each["name"] for each in (await house.serve("list", groups=["free"]))["groups"]] == ["free"]
    assert described == [VALUES["free"]]


async def test_with_a_connection_one_grant_ends(house: House) -> None:
    """A second one would take the place of the first, which would be there for ever."""
    as_maker(house)
    house.session.ended, house.session.transport = None, SimpleNamespace(is_closing=lambda: False)
    await house.serve("grant", name="one", groups=["free"], stay=True)
    with pytest.raises(avault.Usage, match="a grant ends with this connection already"):
        await house.serve("grant", name="two", groups=["free"], stay=True)
    assert [*house.keyholder.grants.known] == ["one"]
    house.session.ended()
    assert not house.keyholder.grants.known


async def test_keys_that_are_not_granted_change_no_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there are any is not told: what is bound to no server is looked at by who has a key alone."""
    asked: list[dict[str, Any]] = []

    async def ask(**job: Any) -> dict[str, Any]:
        asked.append(job)
        raise avault.Usage("not understood")

    monkeypatch.setattr(house.keyholder.signing, "ask", ask)
    monkeypatch.setattr(house.keyholder.signing.keys, "look", lambda vault: {"free/KEY": object()})
    await grant(house, groups=["soon"], can=["sign"])
    bound = {"as": "ssh", "binds": [base64.b64encode(b"no server").decode()]}
    assert json.loads(await house.hear("keys", **bound)) == {"ok": True, "keys": []} and not asked
    house.keyholder.grants.end([house.session.grant])
    await grant(house, groups=["free"], can=["sign"])
    assert "not understood" in await house.hear("keys", **bound) and asked


async def test_a_vault_without_a_phone_has_nobody_to_ask(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.open()
    desk.example.path("pairing.json").unlink(missing_ok=True)
    desk.holding.contact.pairing = None
    desk.holding.contact.find = lambda store: None  # type: ignore[method-assign]
    with pytest.raises(avault.AvaultError):
        await desk.serve("grant", name="web", groups=["a"], ask=True)
    assert not desk.keyholder.grants.known
    desk.close()


# Signing


async def test_a_key_signs_for_who_may_and_nobody_has_it(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
    from signing_thread import signing_for
    from ssh_data import Server, login, new_session

    server, desk = Server(), Desk(tmp_path)
    with signing_for(desk.keyholder):
        await desk.open()
        uses = {"servers": [f"github.com={avault.fingerprint_of(server.blob)}"], "users": ["git"]}
        public = {}
        for group in ("ops", "other"):
            made = await desk.serve("key", action="generate", kind="ed25519", group=group, key="GITHUB", **uses)
            public[group] = base64.b64decode(made["public"].split()[1])

        async def sign(group: str, /, **named: Any) -> dict[str, Any]:
            session = new_session()
            payload, binds = login(session, public[group]), [server.bind(session)]
            given = {"payload": base64.b64encode(payload).decode(), "binds": [base64.b64encode(each).decode() for each in binds]}
            return await desk.serve("sign", **{"as": "ssh", **given, **named})

        async def refuse(payload: str, /, **named: Any) -> avault.AvaultError:
            with pytest.raises(avault.AvaultError) as refused:
                await sign(payload, **named)
            return refused.value

        by_public = {group: {"public": base64.b64encode(blob).decode()} for group, blob in public.items()}
        granted = await grant(desk, groups=["ops"], can=["sign"], times=2)
        for op in ("get", "export", "reveal"):
            with pytest.raises(avault.Denied, match="the grant web is only to sign"):
                await desk.serve(op, group="ops", key="GITHUB")
        bound = [base64.b64encode(server.bind(new_session())).decode()]
        keys = (await desk.serve("keys", **{"as": "ssh", "binds": bound}))["keys"]
        assert [each["name"] for each in keys] == ["ops/GITHUB"]
        assert (await sign("ops", **by_public["ops"]))["name"] == "ops/GITHUB" and granted.times == 1
        not_there = await refuse("other", public=base64.b64encode(b"no key").decode())
        other = await refuse("other", **by_public["other"])
        assert (other.code, other.message, other.hint) == (not_there.code, not_there.message, not_there.hint)
        named, absent = [await refuse("other", group=group, key="GITHUB") for group in ("other", "none")]
        assert (named.code, named.message.replace("other", "none")) == (absent.code, absent.message)
        assert (await sign("ops", group="ops", key="GITHUB"))["ok"] and granted.times == 0
        assert (await refuse("ops", **by_public["ops"])).code == "denied"
        desk.keyholder.grants.end([granted])
        await grant(desk, groups=["ops"], can=["get", "run"])
        assert (await refuse("ops", **by_public["ops"])).code == "denied"
    desk.close()


# Where sockets may be


def test_a_socket_of_another_user_is_trusted_where_nobody_else_can_put_one(place: Any) -> None:
    tmp_path = place.top  # whose path is short
    place = tmp_path / "web"
    place.mkdir(mode=0o711)
    path = place / "grant.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert avault.is_own_socket(str(path), UID)
        assert not avault.is_own_socket(str(path), UID + 1), "the one who listens has to own it"
        for mode in (0o722, 0o777):
            place.chmod(mode)
            assert not avault.is_own_socket(str(path), UID), oct(mode)
        place.chmod(0o1777)
        assert avault.is_own_socket(str(path), UID), "as in /tmp, nobody else can take it away"
        place.chmod(0o711)
        link, open_place = tmp_path / "link", tmp_path / "open"
        link.symlink_to(place, target_is_directory=True)
        assert avault.is_own_socket(str(link / "grant.sock"), UID)
        open_place.mkdir()
        open_place.chmod(0o777)
        (open_place / "link").symlink_to(place, target_is_directory=True)
        assert not avault.is_own_socket(str(open_place / "link" / "grant.sock"), UID), "where others can change the link"
        assert not avault.is_own_socket(str(tmp_path / "none" / "grant.sock"), UID)


def test_who_is_led_to_a_grant_is_led_to_nothing_else(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its end, a child of the same user does not come to the whole vault by the path that the daemon recorded."""
    example = Example(tmp_path)
    Path(example.places.own("socket")).write_text(str(tmp_path / "avault.sock"))
    monkeypatch.setenv("AVAULT_SOCKET", str(tmp_path / "web" / "grant.sock"))
    places = avault.Places(example.places.dir)
    places.state = example.places.state
    assert [*places.sockets()] == [places.socket] and places.is_grant()
    with pytest.raises(avault.EndedGrant, match="no grant answers at"):
        avault.Connection(places)
    with pytest.raises(avault.AvaultError, match="names a grant's socket"):
        avault.Listener(places, print, lambda sock: None).open()


async def test_no_mode_is_given_by_path(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who puts a link there meanwhile opens nothing by it."""
    tmp_path = place.top  # whose path is short
    monkeypatch.setattr(os, "chmod", None)
    mask = os.umask(0o077)
    try:
        made = avault.GrantSocket("1", frozenset({UID + 1}), str(tmp_path / "a"), lambda *_: None)
        own = avault.GrantSocket("2", frozenset({UID}), str(tmp_path / "b"), lambda *_: None)
        assert [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in "ab"] == [0o666, 0o700]
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    for each in (made, own):
        each.close()


async def test_its_sockets_directories(place: Any) -> None:
    """0700 where it is for us alone; where it is for another, it can be gone through, and not listed."""
    tmp_path = place.top / "grants"  # whose path is short
    tmp_path.mkdir()
    example = Example(tmp_path)
    places = example.places
    places.socket = str(tmp_path / "a.sock")
    told: list[dict[str, Any]] = []
    child: Any = SimpleNamespace(control=SimpleNamespace(send=told.append))
    sockets = avault.GrantSockets(places, child)
    top = tmp_path / "a-grants"

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    sockets.hear({"grant": "listen", "identity": "1", "name": "web", "uids": [UID]})
    assert told[-1]["path"] == str(top / "web" / "grant.sock") and (mode(top), mode(top / "web")) == (0o700, 0o700)
    sockets.hear({"grant": "listen", "identity": "2", "name": "other", "uids": [UID + 1]})
    other = top / "other" / "grant.sock"
    assert (mode(top), mode(top / "other"), mode(other), mode(top / "web")) == (0o711, 0o711, 0o666, 0o700)
    sockets.hear({"grant": "listen", "identity": "3", "name": "x" * 32 + "y" * 80, "uids": [UID]})
    assert "too long" in told[-1]["failed"]["message"]
    sockets.end()
    assert not other.exists() and not sockets.open and (top / "other").exists()
    assert not sockets.hear({"report": {}})
    sockets.leave()
    assert not top.exists()
