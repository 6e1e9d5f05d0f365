"""A machine that a desk opens with others, without the desk: a keyholder, and what it is given. No daemon, no ssh, no phone."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import nostr_sdk
import pytest
from test_keyholder_alone import CALLER, Desk

import avault

NAME = "desk-fleet"
FLEET = "ab" * 32
SALT = "ef" * 32


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """An open vault, whose phone agrees."""
    desk = Desk(tmp_path)
    await desk.open()

    async def agree(*given: Any) -> None:
        desk.said = given[3:5]  # type: ignore[attr-defined]

    monkeypatch.setattr(avault, "ask_operator", agree)
    yield desk
    desk.close()


def agent(desk: Desk) -> str:
    return avault.public_hex(desk.example.agent)


def own_key(desk: Desk, fleet: str = FLEET) -> avault.Keys:
    return avault.derive_key(fleet, SALT, agent(desk))


def sign_next(keys: avault.Keys, who: str, name: str, following: str, salt: str = SALT) -> str:
    return avault.sign_next(keys, who, name, {"key": following, "salt": salt})


def file_of(desk: Desk) -> Path:
    return desk.example.path(f"custody-{NAME}.json")


class Warden(avault.Warden):
    """The supervisor's part beside a keyholder, whose word it has at once; `meanwhile` is what happens until then."""

    def __init__(self, desk: Desk) -> None:
        self.places, self.desk = desk.places, desk
        self.child = SimpleNamespace(control=SimpleNamespace(send=self.tell))  # type: ignore[assignment]
        self.custody = avault.Custody(self.places, self.child)
        self.condition = avault.Condition(self.places, self.custody, lambda text: None)
        self.condition.state, self.condition.report = "unlocked", {"consent": "phone", "proven": True}
        self.meanwhile = lambda: None
        desk.keyholder.control.send = self.hear  # type: ignore[method-assign]

    def tell(self, message: dict[str, Any], fd: int | None = None) -> None:
        self.desk.keyholder.receive(message, fd)

    def hear(self, message: dict[str, Any], fd: int | None = None) -> None:
        if "changed" in message:
            self.meanwhile()
        self.custody.hear(message)


async def change_desk(desk: Desk, action: str, statement: str, name: str = NAME, warden: Warden | None = None) -> dict[str, Any]:
    request = {"op": "desk", "action": action, "name": name, "statement": statement}
    return await avault.DESKS[action](warden or Warden(desk), request, CALLER)


async def join(desk: Desk, keys: avault.Keys, operator: str | None = None, **more: Any) -> dict[str, Any]:
    of = avault.parse_npub(operator) if operator else avault.public_hex(desk.example.operator)
    told: Any = SimpleNamespace(label="laptop", operator=of)
    return await change_desk(desk, "join", avault.sign_join(keys, agent(desk), NAME, told), **more)


async def turn(desk: Desk, statement: str, **more: Any) -> dict[str, Any]:
    return await change_desk(desk, "turn", statement, **more)


async def open_by(desk: Desk, keys: avault.Keys) -> str | None:
    """Lock it, and open it with a desk's key; by which custodian it is open then."""
    desk.close()
    desk.set_up()
    private = {"desk": NAME, "key": keys.secret_key().to_hex()}
    await avault.TALKS["open"](desk.keyholder, desk.session, {"op": "open"}, private)
    return desk.holding.consent.custodian


def test_a_machines_key_is_the_documents() -> None:
    """HMAC-SHA256(F, "avault fleet" NUL salt agent): no two machines have one, and F is not found from it."""
    one, other = (avault.public_hex(avault.make_keys()) for _ in range(2))
    import hashlib
    import hmac

    wanted = hmac.new(bytes.fromhex(FLEET), b"avault fleet\0" + bytes.fromhex(SALT + one), hashlib.sha256).hexdigest()
    assert avault.derive_key(FLEET, SALT, one).secret_key().to_hex() == wanted
    assert avault.public_hex(avault.derive_key(FLEET, SALT, other)) != avault.public_hex(avault.derive_key(FLEET, SALT, one))


async def test_the_phone_is_told_what_a_desk_is(desk: Desk) -> None:
    await join(desk, own_key(desk))
    title, sentence = desk.said  # type: ignore[attr-defined]
    who = avault.to_npub(avault.public_hex(desk.example.operator))
    assert (
        title.startswith("the desk laptop for ") and f"TOGETHER with other machines, by ONE approval there, of {who}" in sentence
    )
    assert avault.Custodians(desk.places).order() == ["phone", NAME]


async def test_who_refuses_lets_nobody_in(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*given: Any) -> None:
        raise avault.Denied("the signer refused: no")

    monkeypatch.setattr(avault, "ask_operator", refuse)
    with pytest.raises(avault.Denied, match="refused"):
        await join(desk, own_key(desk))
    assert not file_of(desk).exists() and avault.Custodians(desk.places).order() == ["phone"]


async def test_what_is_asked_for_a_desk_ends_with_its_client(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def wait(*given: Any) -> None:
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr(avault, "ask_operator", wait)
    first = asyncio.ensure_future(join(desk, own_key(desk)))
    await asyncio.wait_for(asked.wait(), 5)
    first.cancel()  # the client is gone
    await asyncio.wait_for(ended.wait(), 5)
    assert not file_of(desk).exists()


async def test_a_desk_waits_its_turn_and_pauses_after_a_refusal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The phone has one question at a time, whatever it is about; a program that is refused leaves it alone, ever longer."""
    asked, may = [], asyncio.Event()

    async def refuse(*given: Any) -> None:
        asked.append(given)
        given[0].reporter.control.send({"asking": "7K3F", "ticket": given[2]["ticket"]})
        await may.wait()
        raise avault.Denied("the signer refused: no")

    monkeypatch.setattr(avault, "ask_operator", refuse)
    warden = Warden(desk)
    turns = avault.Precedence(avault.Pauses(desk.places))
    supervisor: Any = SimpleNamespace(precedence=turns, warden=warden, tasks=set())
    keys, told = own_key(desk), SimpleNamespace(label="laptop", operator=avault.public_hex(desk.example.operator))
    statement = avault.sign_join(keys, agent(desk), NAME, told)  # type: ignore[arg-type]

    async def ask() -> dict[str, Any]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            wish = {"op": "desk", "action": "join", "name": NAME, "statement": statement}
            return await avault.ANSWERS["desk"](supervisor, ours, wish)

    first, second = (asyncio.ensure_future(ask()) for _ in range(2))
    while not asked:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(asked) == 1, "the other waits"
    may.set()
    for each in (first, second):
        with pytest.raises(avault.Denied, match="refused"):
            await each
    with pytest.raises(avault.Denied, match="the phone is left alone"):
        await ask()
    assert len(asked) == 1 and not file_of(desk).exists()


async def test_a_vault_that_no_phone_has_proven_lets_no_desk_in(desk: Desk) -> None:
    warden = Warden(desk)
    warden.condition.report["proven"] = False
    with pytest.raises(avault.Denied, match="nobody has shown yet"):
        await join(desk, own_key(desk), warden=warden)
    assert not file_of(desk).exists()


async def test_a_desk_that_is_taken_away_while_it_turns_stays_away(desk: Desk) -> None:
    """It has signed the next key, and comes in again with that: hidden, as it is in no order."""
    old, new = own_key(desk), own_key(desk, "cd" * 32)
    await join(desk, old)
    warden, before = Warden(desk), file_of(desk).read_bytes()
    warden.meanwhile = lambda: warden.custody.custodians.forget(NAME)
    with pytest.raises(avault.NotFound):
        await turn(desk, sign_next(old, agent(desk), NAME, avault.public_hex(new)), warden=warden)
    assert not file_of(desk).exists()
    file_of(desk).write_bytes(before)  # also if somebody puts its file there
    with pytest.raises(avault.NotFound, match="no desk desk-fleet opens this vault"):
        await open_by(desk, old)


async def test_a_desk_that_was_turned_meanwhile_is_not_turned_by_the_key_before(desk: Desk) -> None:
    old, new, stolen = own_key(desk), own_key(desk, "cd" * 32), avault.make_keys()
    await join(desk, old)
    warden, other = Warden(desk), json.loads(file_of(desk).read_text())
    other = {name: other[name] for name in other if name not in ("type", "version", "checksum")}
    other["settings"] = {**other["settings"], "key": avault.public_hex(new)}
    warden.meanwhile = lambda: warden.custody.custodians.save(other)
    with pytest.raises(avault.Denied, match="another meanwhile"):
        await turn(desk, sign_next(old, agent(desk), NAME, avault.public_hex(stolen)), warden=warden)
    assert json.loads(file_of(desk).read_text())["settings"]["key"] == avault.public_hex(new)


async def test_whose_a_desk_is_the_disk_does_not_say(desk: Desk) -> None:
    """Who approves no more writes another operator's name into the file, over the ssh that a desk has."""
    keys, bob = own_key(desk), avault.public_hex(avault.make_keys())
    await join(desk, keys)
    store = desk.holding.store
    assert store
    store.write([lambda vault: vault.state(avault.SUCCEEDED, bob, 1, store.machine)])
    content = json.loads(file_of(desk).read_text())
    kept = {name: content[name] for name in content if name not in ("type", "version", "checksum")}
    kept["settings"]["operator"] = avault.to_npub(bob)
    file_of(desk).write_bytes(avault.encode_file("custody", kept))
    with pytest.raises(avault.Tampered, match="not as it was agreed to"):
        await open_by(desk, keys)
    assert desk.holding.store is None


async def test_what_was_signed_to_be_let_in_is_no_others(desk: Desk) -> None:
    keys, mine = own_key(desk), avault.public_hex(desk.example.operator)
    told: Any = SimpleNamespace(label="laptop", operator=mine)
    wrong = [
        avault.sign_join(keys, avault.public_hex(keys), NAME, told),
        avault.sign_join(keys, agent(desk), "desk-other", told),
        avault.sign_join(keys, agent(desk), NAME, told).replace("laptop", "another"),
        sign_next(keys, agent(desk), NAME, avault.public_hex(keys))[:-1],
        "{}",
        "",
    ]
    for statement in wrong:
        with pytest.raises(avault.Denied, match="has not signed that"):
            await change_desk(desk, "join", statement)
    with pytest.raises(avault.Usage):
        await change_desk(desk, "join", sign_next(keys, agent(desk), NAME, avault.public_hex(keys)))
    assert not file_of(desk).exists()


async def test_the_key_of_one_machine_opens_no_other(desk: Desk) -> None:
    await join(desk, own_key(desk))
    stranger = avault.derive_key(FLEET, SALT, avault.public_hex(avault.make_keys()))
    for keys in (stranger, own_key(desk, "cd" * 32), avault.read_keys(FLEET)):
        with pytest.raises(avault.Denied, match="another key"):
            await open_by(desk, keys)
        assert desk.holding.store is None
    assert await open_by(desk, own_key(desk)) == NAME
    assert any("together with others" in text for text in desk.keyholder.reporter.warnings.values())


async def test_after_the_turn_the_old_key_opens_nothing(desk: Desk) -> None:
    old, new = own_key(desk), own_key(desk, "cd" * 32)
    await join(desk, old)
    before = file_of(desk).read_bytes()
    assert await open_by(desk, old) == NAME
    statement = sign_next(old, agent(desk), NAME, avault.public_hex(new))
    assert (await turn(desk, statement))["key"] == avault.public_hex(new)
    assert json.loads(before)["sealed"] != json.loads(file_of(desk).read_text())["sealed"]
    with pytest.raises(avault.Denied, match="another key"):
        await open_by(desk, old)
    assert await open_by(desk, new) == NAME
    with pytest.raises(avault.Denied, match="has not signed"):
        await turn(desk, statement)  # once more: that key counts no more
    # a copy of the disk from before opens with the key of before, as everywhere: it was not on the disk since
    file_of(desk).write_bytes(before)
    assert await open_by(desk, old) == NAME


async def test_only_the_present_key_names_the_next(desk: Desk) -> None:
    keys, new = own_key(desk), avault.public_hex(avault.make_keys())
    await join(desk, keys)
    before = file_of(desk).read_bytes()
    wrong = [
        sign_next(avault.make_keys(), agent(desk), NAME, new),
        sign_next(desk.example.agent, agent(desk), NAME, new),
        sign_next(keys, avault.public_hex(keys), NAME, new),
        sign_next(keys, agent(desk), "desk-other", new),
        sign_next(keys, agent(desk), NAME, "x"),
        sign_next(keys, agent(desk), NAME, new, "ab"),
        avault.sign_text(keys, json.dumps({"agent": agent(desk), "desk": NAME, "next": new})),
        avault.sign_text(keys, "[]"),
        avault.sign_text(keys, "x"),
        sign_next(keys, agent(desk), NAME, new).replace(new, avault.public_hex(keys)),
        "",
        "{}",
    ]
    for statement in wrong:
        with pytest.raises(avault.Denied, match="has not signed"):
            await turn(desk, statement)
    assert file_of(desk).read_bytes() == before


async def test_a_key_that_the_disk_names_is_not_believed(desk: Desk) -> None:
    """Whoever writes to the disk has no vault sealed for themselves: what was agreed to is marked with the agent's key."""
    thief, keys = avault.make_keys(), own_key(desk)
    await join(desk, keys)
    content = json.loads(file_of(desk).read_text())
    kept = {name: content[name] for name in content if name not in ("type", "version", "checksum")}
    kept["settings"]["key"] = avault.public_hex(thief)
    file_of(desk).write_bytes(avault.encode_file("custody", kept))
    with pytest.raises(avault.Tampered, match="not as it was agreed to"):
        await turn(desk, sign_next(thief, agent(desk), NAME, avault.public_hex(thief)))


async def test_who_is_no_operator_any_more_opens_no_machine_from_their_desk(desk: Desk) -> None:
    """That one approves NO MORE, on any machine: so no desk of theirs has its key turned, nor opens."""
    keys, new = own_key(desk), avault.public_hex(avault.make_keys())
    npub = avault.to_npub(avault.public_hex(desk.example.operator))
    await join(desk, keys)
    assert json.loads(file_of(desk).read_text())["settings"]["operator"] == npub
    before, store = file_of(desk).read_bytes(), desk.holding.store
    assert store
    store.write([lambda vault: vault.state(avault.SUCCEEDED, avault.public_hex(avault.make_keys()), 1, store.machine)])
    with pytest.raises(avault.Denied, match="no operator of this vault"):
        await turn(desk, sign_next(keys, agent(desk), NAME, new))
    assert file_of(desk).read_bytes() == before
    with pytest.raises(avault.Denied, match="no operator of this vault"):
        await open_by(desk, keys)
    assert desk.holding.store is None
    store.write([lambda vault: vault.state("operator/alice", avault.public_hex(desk.example.operator), 2, store.machine)])
    assert await open_by(desk, keys) == NAME, "any operator's, who is one now"


async def test_a_desk_of_no_operator_is_not_let_in(desk: Desk) -> None:
    with pytest.raises(avault.Denied, match="no operator of this vault"):
        await join(desk, own_key(desk), avault.to_npub(avault.public_hex(avault.make_keys())))
    with pytest.raises(avault.Usage):
        await join(desk, own_key(desk), "x")
    assert not file_of(desk).exists()


async def test_phones_and_desks_of_who_is_no_operator_are_dropped(tmp_path: Path) -> None:
    custodians = avault.Custodians(Desk(tmp_path).places)
    one, other, gone = (avault.to_npub(avault.public_hex(avault.make_keys())) for _ in range(3))
    kinds = {"alice": ("phone", other), "bob": ("phone", gone), "desk-a": ("desk", one), "desk-b": ("desk", other)}
    kinds |= {"desk-c": ("desk", gone), "box": ("program", gone)}
    sealed = dict.fromkeys(("vault", "name", "agent", "operator", "account", "sealed", "agreed", "kept"), "x")
    for name, (kind, whose) in kinds.items():
        about = {"custodian": name, "kind": kind, "asks": True, "settings": {"operator": whose}}
        custodians.save({**sealed, **about})
    custodians.write([*kinds])
    custody: Any = SimpleNamespace(custodians=custodians, order=custodians.order)
    report = {"first_operator": one, "operators": {"alice": other}}
    assert avault.Custody.strangers(custody, report) == ["bob", "desk-c"]


async def test_cut_off_before_it_is_written_the_key_before_opens(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(BaseException):
        pass

    keys, new = own_key(desk), own_key(desk, "cd" * 32)
    await join(desk, keys)
    write = avault.write_file

    def cut(path: str, data: bytes, **given: Any) -> None:
        if NAME in path:
            raise Cut
        write(path, data, **given)

    monkeypatch.setattr(avault, "write_file", cut)
    with pytest.raises(Cut):
        await turn(desk, sign_next(keys, agent(desk), NAME, avault.public_hex(new)))
    monkeypatch.setattr(avault, "write_file", write)
    assert await open_by(desk, keys) == NAME


async def test_requests_of_a_desk_that_make_no_sense(desk: Desk) -> None:
    with pytest.raises(avault.NotFound):
        await turn(desk, "x")
    with pytest.raises(avault.Usage, match="phone's"):
        await change_desk(desk, "join", "x", "phone")
    for action in ("join", "turn"):
        request = {"op": "desk", "action": action, "name": NAME, "statement": "x", "key": FLEET}
        with pytest.raises(avault.Usage, match="no such field"):
            await avault.DESKS[action](Warden(desk), request, CALLER)


# The desk


def desk_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int = 3
) -> tuple[avault.DeskFile, avault.Keys, dict[str, str]]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    operator = avault.make_keys()
    signer = avault.public_hex(avault.make_keys())
    desk = avault.DeskFile(avault.make_keys(), signer, avault.public_hex(operator), ["wss://r.example"], "laptop")
    return desk, operator, {f"web{number}": avault.public_hex(avault.make_keys()) for number in range(count)}


def test_what_a_desk_remembers_holds_no_key_of_the_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, operator, agents = desk_with(tmp_path, monkeypatch)
    fleet, kept, code = avault.make_fleet_key(desk, "web", agents)
    desk.groups["web"] = [kept, {"peer": kept["peer"], "envelope": "x", "hosts": {}}]
    desk.save()
    text = Path(avault.DeskFile.path()).read_text()
    secret = [avault.derive_key(fleet, each["salt"], each["agent"]).secret_key().to_hex() for each in kept["hosts"].values()]
    assert not [each for each in (fleet, *secret) if each in text] and Path(avault.DeskFile.path()).stat().st_mode & 0o77 == 0
    found = avault.DeskFile.load()
    assert found and found.groups == {"web": [kept]} and found.members("web") == {*agents}
    shown = nostr_sdk.nip44_decrypt(operator.secret_key(), nostr_sdk.PublicKey.parse(kept["peer"]), kept["envelope"])
    assert json.loads(shown)["tags"] == [["alt", f"unlock 3 machines of web from laptop, code {code}"]]
    assert avault.accept_fleet_key(kept, shown) == fleet
    for wrong in ("", "[]", json.dumps({"avault": "cd" * 32}), json.dumps({"avault": "x"}), json.dumps({"avault": None})):
        with pytest.raises(avault.Tampered):
            avault.accept_fleet_key(kept, wrong)


class Hosts:
    """What a desk reaches: every host says it is open, and what its agent is; `sent` are the keys that they are given."""

    def __init__(self, desk: avault.DeskFile, agents: dict[str, str]) -> None:
        self.hosts, self.operator, self.agents = [avault.Host(name) for name in agents], desk.operator, agents
        self.sent: dict[str, str] = {}
        self.joined: dict[str, Any] = {"ok": True}

    def crew(self) -> Hosts:
        return self

    async def reach(self, host: avault.Host, line: str, data: bytes | None = None, *_: Any, **__: Any) -> avault.Ended:
        if data:
            self.sent[host.name] = data.decode().strip()
            key, _ = avault.read_signed(self.sent[host.name])  # to be let in, a host is given no key
            return avault.Ended(0, json.dumps({"key": key, **self.joined}) + "\n", "", True)
        npubs = {"agent_npub": avault.to_npub(self.agents[host.name]), "signer_npub": avault.to_npub(self.operator)}
        return avault.Ended(0, json.dumps({"state": "unlocked", **npubs}) + "\n", "", True)

    async def enroll(self, desk: avault.DeskFile) -> dict[str, avault.Outcome]:
        board = avault.Board(self.hosts, is_shown=False)
        await avault.enroll_all(desk, self, board, "web", "desk-web")  # type: ignore[arg-type]
        return board.outcomes


async def test_no_host_is_given_the_key_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says it has another's agent is refused, now and later; and what it was given would open nothing there."""
    desk, _, agents = desk_with(tmp_path, monkeypatch)
    hosts = Hosts(desk, {**agents, "evil": agents["web1"]})
    found = await hosts.enroll(desk)
    assert {name for name in found if found[name].code} == {"evil", "web1"}, "nobody can tell which of them it is"
    assert "is that of web1 too" in found["evil"].note and hosts.sent.keys() == {"web0", "web2"}
    hosts = Hosts(desk, {"evil": agents["web2"]})
    assert "is that of web2 too" in (await hosts.enroll(desk))["evil"].note and not hosts.sent
    hosts = Hosts(desk, {"web2": agents["web2"]})
    assert not (await hosts.enroll(desk))["web2"].code, "the same host, once more"
    _, kept, _ = avault.make_fleet_key(desk, "web", dict.fromkeys(agents, agents["web1"]))
    assert len({each["key"] for each in kept["hosts"].values()}) == 3


def test_every_host_of_a_key_is_held_against_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, _, agents = desk_with(tmp_path, monkeypatch)
    fleet, kept, _ = avault.make_fleet_key(desk, "web", dict.fromkeys(agents, agents["web1"]))
    shown = json.dumps({"avault": fleet})
    assert avault.accept_fleet_key(kept, shown) == fleet
    for each in kept["hosts"].values():
        with mock.patch.dict(each, salt="00" * 32), pytest.raises(avault.Tampered):
            avault.accept_fleet_key(kept, shown)


class Flaky(Hosts):
    """A host that turns its key, and whose daemon goes away before it answers."""

    def __init__(self, desk: avault.DeskFile, agents: dict[str, str], key: str) -> None:
        super().__init__(desk, agents)
        self.key, self.state = key, "locked"

    async def reach(self, host: avault.Host, line: str, data: bytes | None = None, *_: Any, **__: Any) -> avault.Ended:
        if " turn " in line and data:
            self.key = json.loads(json.loads(data)["content"])["next"]
            return avault.Ended(1, json.dumps(WENT_AWAY), "", True)
        if " open " in line and data and avault.public_hex(avault.read_keys(data.decode().strip())) == self.key:
            self.state = "unlocked"
        shown = {"ok": True, "desk": "desk-web", "key": self.key}
        return avault.Ended(0, json.dumps(shown) + "\n" + json.dumps({"state": self.state}) + "\n", "", True)

    async def unlock(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """What comes of it, with a phone that approves what it is asked."""

        async def approve(signer: avault.DeskSigner, peer: str, envelope: str, accept: Any) -> Any:
            return accept(json.dumps({"avault": FLEETS[peer]}))

        async def nothing(signer: avault.DeskSigner, *_: Any) -> avault.DeskSigner:
            return signer

        for name, done in (("ask", approve), ("__aenter__", nothing), ("__aexit__", nothing)):
            monkeypatch.setattr(avault.DeskSigner, name, done)
        self.state, board = "locked", avault.Board(self.hosts, is_shown=False)
        desk = avault.DeskFile.need()
        await avault.Together(desk, self, board, "web", 5.0).run()  # type: ignore[arg-type]
        return board.outcomes["web0"].word


FLEETS: dict[str, str] = {}  # by their peers, as the phone finds them in the envelopes
WENT_AWAY = {"ok": False, "error": {"code": "error", "message": "the daemon went away", "hint": "look"}}


async def test_a_turn_of_which_nothing_was_heard_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = avault.make_fleet_key

    def note(*given: Any) -> Any:
        fleet, kept, code = make(*given)
        FLEETS[kept["peer"]] = fleet
        return fleet, kept, code

    monkeypatch.setattr(avault, "make_fleet_key", note)
    desk, _, agents = desk_with(tmp_path, monkeypatch, 1)
    _, kept, _ = avault.make_fleet_key(desk, "web", agents)
    desk.groups["web"] = [kept]
    desk.save()
    host = Flaky(desk, agents, kept["hosts"]["web0"]["key"])
    for _ in range(3):
        assert await host.unlock(monkeypatch) == "unlocked"
        assert len(avault.DeskFile.need().groups["web"]) == 2, "the one that opened it, and the next"


@pytest.mark.parametrize(("code", "is_kept"), [("error", True), ("timed_out", True), ("denied", False)])
async def test_who_may_have_let_the_desk_in_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, is_kept: bool
) -> None:
    desk, _, agents = desk_with(tmp_path, monkeypatch, 1)
    hosts = Hosts(desk, agents)
    hosts.joined = {"ok": False, "error": {**WENT_AWAY["error"], "code": code}}  # type: ignore[dict-item]
    assert (await hosts.enroll(desk))["web0"].code
    assert ("web0" in desk.members("web")) == is_kept


SHOWN = {"ok": True, "desk": "desk-web", "key": None}
STILL = {**SHOWN, "key": "ab" * 32}


def failed(code: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": "why", "hint": ""}}


@pytest.mark.parametrize(
    ("said", "is_left"),
    [
        ([{"ok": True}, SHOWN], True),
        ([failed("not_found"), SHOWN], True),
        ([failed("not_found")], False),
        ([failed("denied"), STILL], False),
        ([{"ok": True}, STILL], False),
        ([{"ok": True}], False),
    ],
)
async def test_who_has_left_says_that_no_key_opens_it(said: list[dict[str, Any]], is_left: bool) -> None:
    """Where there is no vault (another --vault, a home that is not mounted) nothing has left: the desk keeps its key."""

    async def reach(host: avault.Host, line: str, *_: Any, **__: Any) -> avault.Ended:
        assert "remove desk-web" in line and "desk show desk-web" in line
        return avault.Ended(4 * (not said[-1]["ok"]), "".join(json.dumps(each) + "\n" for each in said), "", True)

    crew: Any = SimpleNamespace(reach=reach)
    assert ((await avault.leave_host(crew, avault.Host("web0"), "desk-web")).word == "left") == is_left


def test_laggards_are_those_that_an_older_key_may_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, _, agents = desk_with(tmp_path, monkeypatch)
    _, old, _ = avault.make_fleet_key(desk, "web", agents)
    _, new, _ = avault.make_fleet_key(desk, "web", agents)
    desk.groups["web"] = [new, old]
    assert desk.laggards() == dict.fromkeys(agents, "web") and desk.group_of("web1") == "web" and desk.group_of("x") is None
    desk.forget("web0", new)
    desk.forget("web1", new)
    assert desk.laggards() == {"web2": "web"}
    desk.forget("web2")
    desk.save()
    assert len(desk.groups["web"]) == 1 and desk.members("web") == {"web0", "web1"}


@pytest.mark.parametrize("damage", ["{}", "x", '"groups"'])
def test_a_damaged_file_of_a_desk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    desk, _, agents = desk_with(tmp_path, monkeypatch)
    desk.groups["web"] = [avault.make_fleet_key(desk, "web", agents)[1]]
    desk.save()
    path = Path(avault.DeskFile.path())
    if damage == '"groups"':
        desk.groups["web"][0]["hosts"]["web0"]["key"] = "x"
        desk.save()
    else:
        path.write_text(damage)
    with pytest.raises(avault.Tampered, match="damaged"):
        avault.DeskFile.load()


@pytest.mark.parametrize("command", [avault.cmd_fleet_enroll, avault.unlock_together, avault.cmd_fleet_leave])
def test_one_command_at_a_time_writes_what_a_desk_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    """Two that had read it at once would each write all groups: the later one, over the keys that the other has made."""
    desk_with(tmp_path, monkeypatch)
    nothing: Any = None
    given = inspect.signature(command).parameters
    with avault.DeskLock(), pytest.raises(avault.Unavailable, match="another fleet command is under way"):
        command(**{name: nothing for name in given if name != "which"})
    with avault.DeskLock():
        pass  # it is let go at the end


def test_without_a_desk_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert avault.DeskFile.load() is None
    with pytest.raises(avault.NotFound) as refused:
        avault.DeskFile.need()
    assert refused.value.hint == "avault fleet enroll"
