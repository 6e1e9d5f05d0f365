"""What goes out of an open vault, by which request: a guarded value by none but those that its guard names.

The keyholder alone, asked all that there is to be asked; a request that is new has to be entered here.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nostr_sdk
import pytest
from signing_thread import signing_for
from test_keyholder_alone import CALLER, Desk
from test_seal import Example

import avault

HOUR = 3600
GUARDS: dict[str, dict[str, Any]] = {
    "onlyrun": {"only": ["run"]},
    "proxied": {"only": ["proxy"], "hosts": ["api.example.com"]},
    "signed": {"only": ["sign", "ssh"]},
    "over": {"until": 1},
    "used": {"times": 0},
    "later": {"operator": "npub1"},
    "nobody": {"only": []},
}
VALUES = {name: f"value-of-{name}-{'x' * 20}" for name in (*GUARDS, "free", "soon", "twice")}
FORMS = ("text", "json", None)
EXPORTS = ("sh", "fish", "dotenv", "systemd", "docker", "github", "k8s", "json", "null", None)


def choices(name: str) -> list[dict[str, Any]]:
    """The ways to choose the secret of a group, all secrets among them."""
    place = f"{name}/KEY"
    return [{}, {"groups": [name]}, {"only": [place]}, {"groups": [name], "only": ["KEY"]}, {"groups": ["free", name]}]


def asks(op: str, name: str) -> list[dict[str, Any]]:
    """All that can be asked with a request of that name about the secret of a group; `value` is what the second frame has."""
    place, group = f"{name}/KEY", {"group": name}
    key = {**group, "key": "KEY"}
    found: dict[str, list[dict[str, Any]]] = {
        "get": [{**which, "format": form} for which in (group, key) for form in FORMS],
        "has": [group, key],
        "list": [{"format": form, "groups": which} for form in (*FORMS, "names") for which in ([], [name])],
        "export": [
            {**which, "format": form, "prefix": True, "for": why}
            for form in EXPORTS
            for which in [*choices(name), {"as": [f"X={place}"]}, {"groups": ["free"], "as": [f"X={place}"]}]
            for why in (None, "run", "mask", "provide")
        ],
        "reveal": [
            {**which, "for": why}
            for which in choices(name)
            for why in (None, "run", "mask", "scan", "audit", "inject", "openclaw", "proxy", "edit", "get")
        ],
        "provide": [{"value": json.dumps({"protocolVersion": 1, "ids": ids})} for ids in ([place], ["free/KEY", place])],
        "set": [{**key, "value": VALUES[name]}, {"group": "copy", "key": "KEY", "generate": 9}],
        "import": [
            {"secrets": [[name, "KEY", value]], "dry_run": dry, "replace": True}
            for value in (VALUES[name], "another")
            for dry in (True,)
        ],
        "move": [
            {**key, "to_group": name, "to_key": "OTHER"},
            {"group": name, "key": "OTHER", "to_group": name, "to_key": "KEY"},
        ],
        "inspect": [{"file": "copy.enc"}],
        "merge": [{"theirs": "copy.enc"}, {"theirs": "copy.enc", "ours": "copy.enc"}],
        "restore": [{**key, "file": "copy.enc"}, {**group, "file": "copy.enc"}],
        "verify": [{}],
        "verify_log": [{}],
        "machines": [{}],
        "exposed": [{}],
        "guard": [{**key, "only": ["run"]}, {**group, "times": 9}],
        "guards": [{}, group, key],
        "replica": [
            {"action": action, "relays": [], "slot": 0, "epoch": 0, "after": 0, "agent": "00" * 32} for action in avault.REPLICATE
        ],
        "grant": [{"name": name, "groups": [name]}, {"name": f"{name}2", "only": [place], "can": ["run"]}],
        "grants": [{}, {"format": "names"}],
        "revoke": [{"name": name}, {}],
        "delete": [key],
        "key": [{**key, "action": "generate", "kind": "ed25519"}, {**key, "action": "import"}],
        "keys": [{"as": "ssh"}, {"as": "wallet"}, {}],
        "word": [
            {"action": "read", "event": {}},
            {"action": "inbox", "relays": ["wss://relay.example"]},
            {"action": "auth", "relay": "wss://relay.example", "challenge": "x"},
        ],
        "sign": [
            *({**key, "as": what, "payload": "AAAA"} for what in ("ssh", "sshsig", "raw")),
            *({**key, "as": what, "payload": "AAAA", "peer": "00" * 32} for what in avault.NOSTR_USES),
            *({**key, "as": what, "payload": "AAAA"} for what in (*avault.EVM_USES, *avault.SOLANA_USES)),
        ],
        "bunker": [
            {"action": "invite", "name": name, **key, "kinds": ["1"], "seconds": 60},
            {"action": "event", "event": json.dumps({"tags": [["p", "00" * 32]], "content": place})},
            *({"action": action, "name": name} for action in ("list", "listen", "revoke", "list")),
            *({"action": action} for action in ("list", "listen")),
        ],
        "proxy": [
            {**which, **given}
            for which in [{"everything": True}, *choices(name), {"as": [f"X={place}"]}, {"also": [place]}]
            for given in ({}, {"hosts": [f"{place}=api.example.com"]}, {"egress": "open"})
        ],
        "proxy_start": [{"grant": name}, {"grant": name, "hosts": [f"{place}=api.example.com"], "port": 0, "egress": "open"}],
        "proxies": [{}, {"format": "names"}],
        "proxy_stop": [{}, {"grant": name}],
    }
    return found[op]


class House(Desk):
    """An open vault with a secret of each kind of guard, and of none."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.log: list[dict[str, Any]] = []

    async def fill(self) -> None:
        await self.open()
        self.keyholder.brokers.START_TIME = 0.0  # type: ignore[misc]  # nobody is there to start one
        store = self.holding.store
        assert store

        def change(vault: avault.Vault) -> None:
            for name, value in VALUES.items():
                vault.put(name, "KEY", value, 1, store.machine)

        await self.keyholder.change(change)
        Path(self.places.own("copy.enc")).write_bytes(self.own("avault.enc"))

        def guard(vault: avault.Vault) -> None:
            for name, fields in GUARDS.items():
                avault.add_guard(vault, f"{name}/KEY", fields, 1, store.machine)
            avault.add_guard(vault, "soon", {"until": int(time.time()) + HOUR}, 1, store.machine)
            avault.add_guard(vault, "twice/KEY", {"times": 2}, 1, store.machine)

        await self.keyholder.change(guard)

    async def hear(self, op: str, **fields: Any) -> str:
        """The answer to a request, whatever it is, as it goes over the socket."""
        value = fields.pop("value", None)
        if op == "import":
            given = {"secrets": fields.pop("secrets")}

            async def frame() -> dict[str, Any]:
                return given

            self.session.frame = frame
            found = self.reception.answer(self.session, {"v": 1, "vault": self.places.id, "op": op, **fields})
            return json.dumps(await found)  # type: ignore[misc]
        try:
            return json.dumps(await self.serve(op, value, **fields))
        except avault.AvaultError as error:
            return json.dumps(error.to_dict())

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = Path(self.places.own(name))
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    with signing_for(house.keyholder):
        await house.fill()
        yield house
    house.keyholder.control.close()
    house.theirs.close()
    log = house.holding.log
    assert log
    for ledger in (log.releases, log.refusals):
        os.close(ledger.file)


def shows(answer: str, name: str) -> bool:
    """Whether an answer has the value of that group in it, in a form that an answer can have."""
    value = VALUES[name]
    return any(form in answer for form in (value, value.encode().hex(), avault_base64(value)))


def avault_base64(value: str) -> str:
    import base64

    return base64.b64encode(value.encode()).decode()


def may_show(op: str, fields: dict[str, Any], name: str) -> bool:
    """By which requests the guard of a group lets its value out."""
    return name == "onlyrun" and op in ("export", "reveal") and fields.get("for") == "run"


def test_each_request_is_tried() -> None:
    """A new one has to say how it treats what is guarded: in `asks`, and by passing the gate."""
    assert {op for op in avault.VALUES if asks(op, "free")} == avault.VALUES == {*avault.REQUESTS}


@pytest.mark.parametrize("op", sorted(avault.VALUES))
async def test_a_guarded_value_comes_out_by_the_way_that_its_guard_names_and_by_no_other(house: House, op: str) -> None:
    came = set()
    for name in GUARDS:
        for fields in asks(op, name):
            answer = await house.hear(op, **fields)
            for other in GUARDS:
                assert not shows(answer, other) or may_show(op, fields, other), (op, fields, other)
            came |= {other for other in VALUES if shows(answer, other)}
    if op in ("get", "export", "reveal", "provide"):
        for fields in asks(op, "free"):
            came |= {"free"} if shows(await house.hear(op, **fields), "free") else set()
        assert "free" in came, "the search would find one"
        assert ("onlyrun" in came) is (op in ("export", "reveal"))
    else:
        assert not came


def test_what_is_asked_of_others_than_the_keyholder_has_no_vault_to_answer_from() -> None:
    """The supervisor never holds a secret; conversations end with an open vault, and give nothing of it."""
    assert not {*avault.ANSWERS} & avault.VALUES and {*avault.ANSWERS} == avault.DOOR
    assert {*avault.TALKS} == avault.SESSIONS


@pytest.mark.parametrize("op", sorted(avault.SESSIONS - {"init"}))
async def test_a_conversation_gives_no_value(house: House, op: str) -> None:
    house.unlocking.talking = op != "open"
    answer = await house.hear(op, value=None)
    assert not any(shows(answer, name) for name in VALUES)


async def test_what_is_named_and_guarded_refuses_the_whole_and_says_what_to_do(house: House) -> None:
    for name, says, hint in (
        ("onlyrun", "onlyrun/KEY is guarded: only run may use it", "avault run --only onlyrun/KEY -- CMD"),
        ("proxied", "only proxy may use it", "avault run --proxy --only proxied/KEY -- CMD"),
        ("signed", "only ssh or sign may use it", "by phone: avault unguard signed/KEY"),
        ("over", "its time is over", "by phone: avault unguard over/KEY"),
        ("used", "as often as it may be", "by phone: avault unguard used/KEY"),
        ("later", "a rule of a later avault", "install that one"),
        ("nobody", "nobody may use it", "by phone: avault unguard nobody/KEY"),
    ):
        with pytest.raises(avault.Denied) as refused:
            await house.serve("export", groups=["free", name], prefix=True)
        assert says in refused.value.message and hint in str(refused.value.hint)
        assert refused.value.exit_code == 5


async def test_of_all_there_is_what_is_guarded_stays_in_and_is_named(house: House) -> None:
    told = await house.serve("export", prefix=True)
    assert {*told["guarded"]} == {f"{name}/KEY" for name in (*GUARDS, "twice")}
    assert {*told["names"].values()} >= {"free/KEY", "soon/KEY"}
    told = await house.serve("export", prefix=True, **{"for": "run"})
    assert "onlyrun/KEY" in told["names"].values() and "onlyrun/KEY" not in told["guarded"]
    said = (await house.serve("export", prefix=True, format="dotenv"))["warning"]
    assert "left out, as guarded: later/KEY, nobody/KEY, onlyrun/KEY" in said


@pytest.mark.parametrize("why", ["mask", "scan", "audit"])
async def test_what_is_only_looked_for_is_no_use(house: House, why: str) -> None:
    for _ in range(3):
        told = await house.serve("reveal", groups=[], only=[], **{"for": why})
        assert {row["group"] for row in told["secrets"]} & VALUES.keys() == {"free"}
        assert {*told["guarded"]} == {f"{name}/KEY" for name in (*GUARDS, "soon", "twice")}
    assert (await house.serve("get", group="twice", key="KEY"))["value"] == VALUES["twice"]


async def test_a_provider_is_told_of_each_by_itself(house: House) -> None:
    ids = ["free/KEY", "proxied/KEY", "nothing/KEY"]
    answer = await house.serve("provide", json.dumps({"protocolVersion": 1, "ids": ids}))
    told = json.loads(answer["output"])
    assert told["values"] == {"free/KEY": VALUES["free"]} and told["errors"]["nothing/KEY"] == {"code": "NOT_FOUND"}
    assert told["errors"]["proxied/KEY"]["code"] == "DENIED" and "only proxy" in told["errors"]["proxied/KEY"]["message"]


async def test_decisions_stand_in_the_log(house: House) -> None:
    with pytest.raises(avault.Denied):
        await house.serve("get", group="proxied", key="KEY")
    await house.serve("export", prefix=True)
    refused = [(line["op"], line["keys"] or line["group"], line["outcome"]) for line in house.lines("refused.log")]
    assert ("get", ["KEY"], "denied") in refused
    assert any(op == "reveal" and "later/KEY" in names and outcome == "denied" for op, names, outcome in refused)
    assert house.lines("access.log")[-1]["op"] == "export" and house.lines("access.log")[-1]["outcome"] == "ok"


async def test_until_counts_the_second(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await house.serve("get", group="soon", key="KEY"))["value"] == VALUES["soon"]
    now = time.time()
    monkeypatch.setattr(avault.time, "time", lambda: now + HOUR + 1)
    with pytest.raises(avault.Denied, match="its time is over"):
        await house.serve("get", group="soon", key="KEY")


async def test_times_are_counted_on_the_disk_before_anything_goes_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise avault.AvaultError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(avault, "write_file", fail)
        with pytest.raises(avault.AvaultError, match="the disk is full"):
            await house.serve("get", group="twice", key="KEY")
    assert house.lines("refused.log")[-1]["outcome"] == "error"
    for _ in range(2):
        await house.serve("get", group="twice", key="KEY")
    with pytest.raises(avault.Denied, match="as often as it may be"):
        await house.serve("get", group="twice", key="KEY")
    vault = avault.open_vault(house.own("avault.enc"), house.example.agent)
    guards = avault.Guards(vault.facts)
    assert guards.rules_of(guards.of("twice/KEY")).times == 0, "whoever opens it next knows"


async def test_of_many_at_once_no_more_get_it_than_may(house: House) -> None:
    asked = [house.serve("export", only=["twice/KEY"], **{"for": "run"}) for _ in range(20)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(each, dict) for each in found) == 2
    assert all(isinstance(each, dict | avault.Denied) for each in found)


async def test_a_guard_is_not_shed_by_what_is_done_with_the_secret(house: House) -> None:
    await house.serve("set", "new", group="onlyrun", key="KEY")
    assert await is_refused(house, "onlyrun", "KEY")
    await house.serve("delete", group="onlyrun")
    await house.serve("set", "newer", group="onlyrun", key="KEY")
    assert await is_refused(house, "onlyrun", "KEY")
    await house.serve("restore", file="copy.enc", group="onlyrun", key="KEY")
    assert await is_refused(house, "onlyrun", "KEY"), "as it was before it was guarded"
    await house.serve("move", group="onlyrun", key="KEY", to_group="free", to_key="OTHER")
    assert await is_refused(house, "free", "OTHER")
    await house.serve("restore", file="copy.enc", group="onlyrun", key="KEY")
    assert await is_refused(house, "onlyrun", "KEY")
    await house.serve("move", group="free", key=None, to_group="elsewhere", to_key=None)
    assert await is_refused(house, "elsewhere", "OTHER") and not await is_refused(house, "elsewhere", "KEY")
    await house.serve("guard", group="elsewhere", only=["run"])
    await house.serve("move", group="elsewhere", key=None, to_group="beyond", to_key=None)
    await house.serve("set", "later", group="beyond", key="LATER")
    assert await is_refused(house, "beyond", "LATER"), "a group that is moved takes its guard along"
    assert await house.hear("import", secrets=[["onlyrun", "KEY", "imported"]], replace=True)
    assert await is_refused(house, "onlyrun", "KEY")
    await house.serve("merge", theirs="copy.enc")
    assert await is_refused(house, "onlyrun", "KEY")


async def test_the_guards_of_another_vault_of_the_same_name_are_not_these(tmp_path: Path) -> None:
    """What is known of guards is of the very vault that is served."""
    gate, example = avault.Gate(), Example(tmp_path)
    one = avault.Vault("00" * 16, avault.public_hex(example.agent), "o", "test")
    other = one.copy()
    avault.add_guard(other, "g", {"only": []}, 1, "m")
    assert not gate.look(one).guards and gate.look(other).guards and not gate.look(one).guards


async def test_setting_a_guard_is_free_and_less_is_not(house: House) -> None:
    done = await house.serve("guard", group="free", key="KEY", only=["run"])
    assert (done["weakens"], done["there"], done["guard"]["words"]) == (False, True, "only run")
    less = await house.serve("guard", group="free", key="KEY", only=["run", "ssh"])
    assert less["weakens"] and less["guard"]["words"] == "only run"
    assert (await house.serve("guards", group="free"))["guards"][0]["words"] == "only run"
    assert (await house.serve("guard", group="absent", only=["run"]))["there"] is False
    for wrong in ({"group": "free"}, {"group": "free", "only": ["x"]}, {"group": "a b", "only": ["run"]}):
        with pytest.raises(avault.Usage):
            await house.serve("guard", **wrong)
    assert any(line["op"] == "guard" and line["group"] == "free" for line in house.lines("access.log"))


async def test_a_guard_that_came_meanwhile_is_not_weakened_unasked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, seen = avault.GuardChange.__init__, []

    def late(self: Any, vault: avault.Vault, place: str, given: Any) -> None:
        if seen:
            avault.add_guard(vault, place, {"only": []}, 1, "n")
        seen.append(place)
        plan(self, vault, place, given)

    monkeypatch.setattr(avault.GuardChange, "__init__", late)
    with pytest.raises(avault.Denied, match="another one meanwhile"):
        await house.serve("guard", group="free", key="KEY", only=["run"])


# Less, by phone


async def loosen(house: House, monkeypatch: pytest.MonkeyPatch, meanwhile: Any = None, **fields: Any) -> tuple[list[str], Any]:
    """What the operator was asked, and what came of it."""
    asked: list[str] = []

    async def ask(holding: Any, store: Any, message: Any, title: str, sentence: str) -> None:
        asked.append(sentence)
        if meanwhile:
            await meanwhile()

    monkeypatch.setattr(avault, "ask_operator", ask)
    house.told.clear()
    house.keyholder.receive(wish(**fields), None)
    assert house.keyholder.orders.unguarding.task
    await house.keyholder.orders.unguarding.task
    return asked, next(each for each in house.told if "changed" in each)


def wish(**fields: Any) -> dict[str, Any]:
    """What the supervisor sends."""
    return {"do": "loosen", "group": "onlyrun", "key": "KEY", "rules": None, "ticket": "t", "caller": CALLER, **fields}


async def is_refused(house: House, group: str, key: str = "KEY") -> bool:
    try:
        await house.serve("get", group=group, key=key)
    except avault.Denied:
        return True
    return False


async def test_what_the_phone_is_asked_is_what_is_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, came = await loosen(house, monkeypatch)
    assert asked == [
        "avault: in test@machine, from now on onlyrun/KEY may be used by: anything, by any program here (until now: only run)"
    ]
    assert came["sealed"]["by"] == [] and (await house.serve("get", group="onlyrun", key="KEY"))["value"] == VALUES["onlyrun"]
    lines = [(line["op"], line["group"], line["keys"], line["outcome"]) for line in house.lines("access.log")]
    assert ("unguard", "onlyrun", ["KEY"], "ok") in lines


CHANGES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "another guard": [("guard", {"group": "onlyrun", "key": "KEY", "times": 1})],
    "the same guard, said again": [("guard", {"group": "onlyrun", "key": "KEY", "only": ["run"]})],
    "a move on a way that is known": [
        ("delete", {"group": "tmp", "key": "DUMMY"}),
        ("move", {"group": "onlyrun", "key": "KEY", "to_group": "tmp", "to_key": "DUMMY"}),
        ("move", {"group": "tmp", "key": "DUMMY", "to_group": "onlyrun", "to_key": "KEY"}),
        ("set", {"group": "tmp", "key": "DUMMY", "value": "dummy"}),
    ],
    "a move to another name": [("move", {"group": "onlyrun", "key": "KEY", "to_group": "tmp", "to_key": "OTHER"})],
}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_changes_while_the_phone_is_asked_is_not_agreed_to(
    house: House, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    await house.serve("move", group="onlyrun", key="KEY", to_group="tmp", to_key="DUMMY")
    await house.serve("move", group="tmp", key="DUMMY", to_group="onlyrun", to_key="KEY")
    await house.serve("set", "dummy", group="tmp", key="DUMMY")
    place = {"group": "tmp", "key": "DUMMY"} if "a move" in what else {}

    async def meanwhile() -> None:
        for op, fields in CHANGES[what]:
            await house.serve(op, **fields)

    asked, came = await loosen(house, monkeypatch, meanwhile, **place)
    assert len(asked) == 1 and came["failed"]["code"] == "denied" and "changed meanwhile" in came["failed"]["message"]
    assert house.lines("refused.log")[-1]["op"] == "unguard" and house.lines("refused.log")[-1]["outcome"] == "denied"
    assert await is_refused(house, place.get("group", "onlyrun"), place.get("key", "KEY"))


async def guard_many(house: House) -> None:
    """A group with a guard of its own, and two on keys in it; and one beside it whose name begins so."""
    for key in ("ONE", "TWO", "FREE"):
        await house.serve("set", "a value of it", group="many", key=key)
    await house.serve("set", "a value of it", group="many-more", key="KEY")
    for key in ("ONE", "TWO"):
        await house.serve("guard", group="many", key=key, only=["run"])
    await house.serve("guard", group="many", only=["run", "proxy"])
    await house.serve("guard", group="many-more", key="KEY", only=["run"])


async def test_all_in_a_group_is_one_question(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await guard_many(house)
    asked, came = await loosen(house, monkeypatch, group="many", key=None, all=True)
    assert len(asked) == 1 and "all in many (1 now, and later ones) may be used by: anything" in asked[0]
    assert "many/ONE and many/TWO may be used by: anything, by any program here (until now: only run)" in asked[0]
    assert came["sealed"]["by"] == []
    for key in ("ONE", "TWO", "FREE"):
        assert not await is_refused(house, "many", key)
    assert await is_refused(house, "many-more"), "what is not in it stays"
    asked, came = await loosen(house, monkeypatch, group="many", key=None, all=True)
    assert not asked and came["failed"]["code"] == "not_found"


async def test_what_is_guarded_in_it_meanwhile_was_not_agreed_to(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await guard_many(house)

    async def meanwhile() -> None:
        await house.serve("guard", group="many", key="FREE", only=["proxy"])

    asked, came = await loosen(house, monkeypatch, meanwhile, group="many", key=None, all=True)
    assert asked and came["failed"]["code"] == "denied"
    assert all([await is_refused(house, "many", key) for key in ("ONE", "TWO", "FREE")])


@pytest.mark.parametrize("fields", [{"key": "KEY"}, {"key": None, "rules": {"only": ["run"]}}])
async def test_all_is_what_is_in_a_group(house: House, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]) -> None:
    asked, came = await loosen(house, monkeypatch, group="onlyrun", all=True, **fields)
    assert not asked and came["failed"]["code"] == "usage"


async def test_uses_while_the_phone_is_asked_are_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> None:
        for _ in range(2):
            await house.serve("get", group="twice", key="KEY")

    _, came = await loosen(house, monkeypatch, use, group="twice", key="KEY", rules={"times": 5})
    assert came["failed"]["code"] == "denied" and await is_refused(house, "twice")


async def test_one_loosening_at_a_time_and_none_for_who_has_gone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that were agreed to together would come to what neither said; and a late yes is for nobody."""
    asked, may = asyncio.Event(), asyncio.Event()

    async def ask(*_: Any) -> None:
        asked.set()
        await may.wait()

    monkeypatch.setattr(avault, "ask_operator", ask)
    house.keyholder.receive(wish(ticket="one"), None)
    await asked.wait()
    house.told.clear()
    house.keyholder.receive(wish(ticket="two", group="proxied"), None)
    [told] = [each for each in house.told if "changed" in each]
    assert told["changed"] == "two" and told["failed"]["code"] == "denied" and "another change waits" in told["failed"]["message"]
    task = house.keyholder.orders.unguarding.task
    assert task
    house.keyholder.receive({"do": "drop", "ticket": "two"}, None)
    house.keyholder.receive({"do": "drop", "ticket": "one"}, None)
    house.told.clear()  # whose wish comes in the same moment takes its place: so a person's does, for which a program gives way
    house.keyholder.receive(wish(ticket="three", group="proxied"), None)
    assert not [each for each in house.told if "changed" in each]
    house.keyholder.receive({"do": "drop", "ticket": "three"}, None)
    may.set()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() and await is_refused(house, "onlyrun")
    assert house.lines("refused.log")[-1]["outcome"] == "denied" and any(
        (line["op"], line["outcome"]) == ("unguard", "timed_out") for line in house.lines("refused.log")
    )


async def test_what_a_name_was_is_named_and_a_parting_is_not_undone_by_a_copy(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.serve("move", group="onlyrun", key="KEY", to_group="tmp", to_key="DUMMY")
    Path(house.places.own("kept.enc")).write_bytes(house.own("avault.enc"))
    await house.serve("move", group="tmp", key="DUMMY", to_group="onlyrun", to_key="KEY")
    await house.serve("set", "dummy", group="tmp", key="DUMMY")
    asked, came = await loosen(house, monkeypatch, group="tmp", key="DUMMY")
    assert "tmp/DUMMY, which is or was onlyrun/KEY, may be used by: anything" in asked[0] and came["sealed"]["by"] == []
    assert (await house.serve("get", group="tmp", key="DUMMY"))["value"] == "dummy" and await is_refused(house, "onlyrun")
    await house.serve("restore", group="tmp", key="DUMMY", file="kept.enc")
    assert await is_refused(house, "tmp", "DUMMY"), "it is the guarded value again"


async def test_no_decoys_hide_what_a_name_was(house: House) -> None:
    """Names that are guarded for longer, and long ones, before the secret is moved through all of them."""
    secret = ("onlyrun", "KEY")
    decoys = [(f"decoy{number}", "Y" * 100) for number in range(9)]
    for group, key in decoys:
        await house.serve("guard", group=group, key=key, only=["run"])
    for group, key in decoys[:5]:
        await house.serve("move", group=secret[0], key=secret[1], to_group=group, to_key=key)
        secret = group, key
    with pytest.raises(avault.Usage, match="as one with more names than a phone shows"):
        await house.serve("move", group=secret[0], key=secret[1], to_group=decoys[5][0], to_key=decoys[5][1])
    store = house.holding.store
    assert store
    said = avault.Plan(store.vault, store.machine, "/".join(secret), None).said
    assert "onlyrun/KEY" in said and all("/".join(each) in said for each in decoys[:5])


async def test_equal_values_that_are_guarded_alike_stay_names_by_themselves(house: House) -> None:
    """A copy of many that are equal would make them one, for ever, and a vault of a link for each two."""
    store = house.holding.store
    assert store

    def fill(vault: avault.Vault) -> None:
        for number in range(40):
            vault.put("app", f"K{number}", "an-equal-value", 1, store.machine)
        vault.put("prod", "DEBUG", "true", 1, store.machine)
        vault.put("web", "DEBUG", "true", 1, store.machine)
        vault.put("web", "OTHER", "an-equal-value", 1, store.machine)

    await house.keyholder.change(fill)
    Path(house.places.own("equal.enc")).write_bytes(house.own("avault.enc"))
    for place in ({"group": "app"}, {"group": "prod", "key": "DEBUG"}):
        await house.serve("guard", **place, only=["run"])
    await house.serve("restore", file="equal.enc", group="app")
    await house.serve("delete", group="app")
    await house.serve("restore", file="equal.enc", group="app")
    assert not avault.Guards(store.vault.facts).moves
    await house.serve("delete", group="web", key="OTHER")
    await house.serve("set", "other", group="web", key="DEBUG")
    await house.serve("restore", file="equal.enc", group="web")
    assert len(avault.Guards(store.vault.facts).moves) == 1
    assert await is_refused(house, "web", "OTHER") and not await is_refused(house, "web", "DEBUG")


async def test_what_comes_from_a_copy_is_no_more_than_may_be_either(house: House) -> None:
    store = house.holding.store
    assert store
    names = [f"{'g' * 50}{number}/{'K' * 100}" for number in range(5)]

    def fill(vault: avault.Vault) -> None:
        for name in names:
            vault.put(*name.split("/"), "an-equal-value", 1, store.machine)

    await house.keyholder.change(fill)
    Path(house.places.own("equal.enc")).write_bytes(house.own("avault.enc"))
    for name in names[:4]:
        group, key = name.split("/")
        await house.serve("guard", group=group, key=key, only=["run"])
    group, key = names[4].split("/")
    await house.serve("delete", group=group, key=key)
    with pytest.raises(avault.Usage, match="more names than a phone shows"):
        await house.serve("restore", file="equal.enc", group=group)
    assert group not in store.vault.groups


@pytest.mark.parametrize("is_older", [False, True], ids=["the agent's", "the agent's before"])
async def test_what_is_taken_from_a_copy_has_the_guards_that_it_has_there(house: House, is_older: bool) -> None:
    """Of another machine's, which was not merged yet; and nothing else of it is believed."""
    store = house.holding.store
    assert store
    key = store.keys
    if is_older:
        key = nostr_sdk.Keys.generate()
        await house.keyholder.change(lambda vault: avault.keep_old_key(vault, key, 1, store.machine))
    copy = store.vault.copy()
    copy.agent = avault.public_hex(key)
    copy.put("fresh", "KEY", "another machine's", 5, "bbbb")
    avault.add_guard(copy, "fresh/KEY", {"only": ["run"]}, 5, "bbbb")
    avault.take_off(copy, "onlyrun/KEY", 5, "bbbb")
    copy.generation["bbbb"] = 1
    left = store.vault.copy()
    Path(house.places.own("theirs.enc")).write_bytes(avault.seal_vault(copy, key))
    await house.serve("restore", group="fresh", key="KEY", file="theirs.enc")
    assert await is_refused(house, "fresh") and await is_refused(house, "onlyrun")
    again = avault.recall(left, copy, 0, 1, "m")
    guards = avault.Guards(left.facts)
    assert again == ["fresh/KEY"] and str(guards.rules_of(guards.of("fresh/KEY"))) == "only run"


@pytest.mark.parametrize("left", ["copy-of-old.enc", "unsaved-before-7.enc"], ids=["restored from", "left here"])
async def test_who_has_a_key_before_takes_no_guard_off_by_saying_it_otherwise(house: House, left: str) -> None:
    """Each guard under its id, and a higher count, of another place: the ids are in each copy that such a key opens."""
    store, old = house.holding.store, nostr_sdk.Keys.generate()
    assert store
    await house.keyholder.change(lambda vault: avault.keep_old_key(vault, old, 1, store.machine))
    twin = avault.Vault(store.vault.identity, avault.public_hex(old), store.vault.made_for, "x")
    for name in avault.own_facts(store.vault.facts):
        twin.facts[name] = [avault.Secret('{"on": "nobody/CARES", "only": ["run"]}', 1, 1, "m", 10**9)]
    twin.put("junk", "KEY", "x", 1, "zz")
    twin.generation = {"zz": 1}
    Path(house.places.own(left)).write_bytes(avault.seal_vault(twin, old))
    asked = {"unsaved": True} if left.startswith("unsaved") else {"file": left, "group": "junk", "key": "KEY"}
    assert (await house.serve("restore", **asked))["restored"] == ["junk/KEY"]
    for name in GUARDS:
        assert await is_refused(house, name)
    assert len(avault.Guards(store.vault.facts).guards["nobody/CARES"]) >= len(GUARDS), "what it adds counts, too"


async def test_a_stricter_guard_that_was_confirmed_holds_for_a_use_that_is_to_be_counted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = house.keyholder.change

    async def late(function: Any) -> Any:
        monkeypatch.setattr(house.keyholder, "change", change)
        await house.serve("guard", group="twice", key="KEY", only=["ssh"])
        return await change(function)

    monkeypatch.setattr(house.keyholder, "change", late)
    with pytest.raises(avault.Denied, match="only ssh may use it"):
        await house.serve("get", group="twice", key="KEY")
    guards = avault.Guards(house.holding.store.vault.facts)  # type: ignore[union-attr]
    assert guards.rules_of(guards.of("twice/KEY")).times == 2, "and nothing was counted"


async def test_a_provider_whose_use_cannot_be_counted_is_noted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_: Any) -> Any:
        raise avault.AvaultError("the disk is full")

    monkeypatch.setattr(house.keyholder, "change", full)
    with pytest.raises(avault.AvaultError, match="the disk is full"):
        await house.serve("provide", json.dumps({"protocolVersion": 1, "ids": ["twice/KEY"]}))
    line = house.lines("refused.log")[-1]
    assert (line["op"], line["keys"], line["outcome"]) == ("provide", ["twice/KEY"], "error")


async def test_what_is_stricter_is_no_more_than_may_be_by_the_way_of_less_either(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks nobody, as it is no less; then nobody could be asked for less any more."""
    wide = [f"host{number}.example.com" for number in range(20)]
    asked, came = await loosen(house, monkeypatch, group="free", rules={"hosts": wide})
    assert not asked and came["failed"]["code"] == "usage" and "more than a phone shows" in came["failed"]["message"]
    assert not await is_refused(house, "free")


async def test_there_is_an_end_to_what_counts_together(house: House) -> None:
    """Else a program piles up what no phone shows, or keeps the keyholder busy for others."""
    wide = [f"host{number}.example.com" for number in range(20)]
    with pytest.raises(avault.Usage, match="more than a phone shows"):
        await house.serve("guard", group="free", key="KEY", hosts=wide)
    await house.serve("guard", group="free", key="KEY", hosts=wide[:12])
    await house.serve("guard", group="tmp", key="OTHER", hosts=wide[12:])
    with pytest.raises(avault.Usage, match="more than a phone shows"):
        await house.serve("move", group="free", key="KEY", to_group="tmp", to_key="OTHER")
    assert (await house.serve("has", group="free", key="KEY"))["has"], "nothing was moved"


async def test_what_a_client_says_that_it_is_for_is_not_noted_of_a_guard(house: House) -> None:
    await house.serve("guard", group="free", key="KEY", only=["run"], **{"for": "unguard onlyrun/KEY"})
    assert house.lines("access.log")[-1]["for"] is None


async def test_what_is_known_of_guards_is_sealed_with_the_key(house: House) -> None:
    """At once: who puts older copies of everything else back, does not put that back."""
    store = house.holding.store
    assert store

    def sealed() -> dict[str, int]:
        content = avault.read_sealed("unlock", house.places.own("unlock.json"))
        return avault.read_known(store.keys, content)

    async def knows() -> bool:
        return sealed() == avault.list_known(avault.Guards(store.vault.facts))

    assert len(sealed()) >= len(GUARDS) and await knows()
    before = sealed()
    await house.serve("get", group="twice", key="KEY")
    assert sealed() != before and await knows()
    await house.serve("guard", group="free", key="KEY", only=["run"])
    assert await knows()
    await house.serve("move", group="free", key="KEY", to_group="free", to_key="OTHER")
    assert await knows()
    unlock = house.own("unlock.json")
    await house.serve("set", "x", group="free", key="MORE")
    assert house.own("unlock.json") == unlock, "what has nothing to do with guards writes it no more"


async def test_a_guard_that_git_brings_is_sealed_before_anything_is_answered(house: House) -> None:
    """Killed right after, the keyholder is given older files of everything else: they do not open."""
    store = house.holding.store
    assert store
    kept = {name: house.own(name) for name in ("avault.enc", "pin.json")}
    pulled = store.vault.copy()
    pulled.generation["other"] = 1
    avault.add_guard(pulled, "free", {"only": ["proxy"]}, 1, "other")
    house.example.write("avault.enc", avault.seal_vault(pulled, store.keys))
    assert await is_refused(house, "free")
    for name, data in kept.items():
        house.example.write(name, data)
    Path(house.places.own("guards.enc")).unlink()
    content = avault.read_sealed("unlock", house.places.own("unlock.json"))
    content["guards"] = avault.read_known(store.keys, content)
    with pytest.raises(avault.Tampered, match="guards or payments known to this machine"):
        avault.Store.load(house.places, store.keys, content)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"group": "free"}, "not_found"),
        ({"group": "a b"}, "usage"),
        ({"rules": {"only": ["x"]}}, "usage"),
        ({"rules": 7}, "usage"),
        ({"rules": {}}, "usage"),
        ({"group": "soon", "key": "KEY"}, "error"),
    ],
    ids=repr,
)
async def test_what_cannot_be_less(house: House, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], code: str) -> None:
    asked, came = await loosen(house, monkeypatch, **fields)
    assert not asked and came["failed"]["code"] == code and came["sealed"] is None
    house.told.clear()
    house.keyholder.receive({**wish(**fields), "do": "weigh"}, None)
    assert [each["failed"]["code"] for each in house.told] == [code]


async def test_what_is_no_less_after_all_asks_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, came = await loosen(house, monkeypatch, rules={"until": 1 << 36})
    assert not asked and came["sealed"]["words"].startswith("only run, until")
    house.holding.store = None
    asked, came = await loosen(house, monkeypatch)
    assert not asked and came["failed"]["code"] == "denied"


async def test_guards_that_are_known_are_not_done_without_by_any_way_in(house: House) -> None:
    """And an unlock that fails for that forgets nothing of what is known."""
    house.keyholder.control.close()
    later, unlock = house.own("avault.enc"), house.own("unlock.json")
    house.example.write("avault.enc", house.own("copy.enc"))
    for name in ("guards.enc", "pin.json"):
        Path(house.places.own(name)).unlink()
    ours, theirs = socket.socketpair()
    again = avault.Keyholder(house.places, ours, (None, None))
    again.control.send = lambda message, fd=None: None  # type: ignore[method-assign]
    content = avault.read_sealed("unlock", house.places.own("unlock.json"))
    await again.unlocking.opening.use_up(house.example.agent, content, True)
    assert house.own("unlock.json") != unlock, "by an answer that nobody waited for"
    for _ in range(2):
        with pytest.raises(avault.Tampered, match="guards or payments known to this machine"):
            await again.unlocking.open(avault.GivenKey(house.nsec))
        assert again.holding.store is None
    house.example.write("avault.enc", later)
    await again.unlocking.open(avault.GivenKey(house.nsec))
    assert again.holding.store and "no pin.json" in again.holding.store.warning
    again.control.close()
    theirs.close()
    assert again.holding.log
    again.holding.log.close()


# Where there is no phone


async def test_who_has_gone_waits_for_nothing(house: House) -> None:
    """A client that left while the phone had the question: the keyholder is told so."""
    sent: list[dict[str, Any]] = []
    child: Any = SimpleNamespace(control=SimpleNamespace(send=lambda message, fd=None: sent.append(message)))
    custody = avault.Custody(house.places, child)
    task = asyncio.ensure_future(custody.change("t", {"do": "loosen"}))
    while not sent:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sent == [{"do": "loosen", "ticket": "t"}, {"do": "drop", "ticket": "t"}]
    done = asyncio.ensure_future(custody.change("u", {"do": "loosen"}))
    while len(sent) < 3:
        await asyncio.sleep(0)
    custody.hear({"changed": "u", "failed": None, "sealed": {}})
    assert await done == {} and len(sent) == 3


@pytest.mark.parametrize("asks", [True, False])
async def test_nobody_but_a_person_agrees_to_less(asks: bool) -> None:
    """A custodian that asks nobody agrees to whatever any program asks: it is not asked."""
    agreed: list[str] = []

    async def agree(name: str, reach: Any, ticket: str, change: str) -> None:
        agreed.append(name)

    custodians = SimpleNamespace(order=lambda: ["box"])
    custody = SimpleNamespace(custodians=custodians, asks_phones=lambda name: False, asks=lambda name: asks, agree=agree)
    warden: Any = SimpleNamespace(condition=SimpleNamespace(report={"consent": "custodian"}), custody=custody)
    if not asks:
        with pytest.raises(avault.Denied, match="nobody can agree to that"):
            await avault.agree_otherwise(warden, avault.Reach({}), "less", person=True)
        assert not agreed
    await avault.agree_otherwise(warden, avault.Reach({}), "less", person=asks)
    assert agreed == ["box"]


@pytest.mark.parametrize(
    ("asks", "purpose", "outcome"),
    [(False, "so that less", "unavailable"), (True, "so that less", "ok"), (False, "", "ok")],
    ids=["touched alone", "asked", "to unlock"],
)
def test_who_is_shown_no_words_agrees_to_nothing_but_an_unlock(
    monkeypatch: pytest.MonkeyPatch, asks: bool, purpose: str, outcome: str
) -> None:
    """A key that blinks is touched for what any program has asked: its terminal is not the person's."""

    class Key:
        needs_person = True

        def __init__(self, errand: avault.Errand) -> None:
            self.prompt = errand.prompt

        def get(self) -> str:
            return self.prompt.ask("PIN") if asks else "touched"

        probe = delete = get

    monkeypatch.setitem(avault.KINDS, "key", Key)
    prompt = avault.Prompt(None, __file__, purpose)
    monkeypatch.setattr(avault.Prompt, "LONGEST", 1 << 20)
    request = {"name": "key", "settings": {}, "bound": "b", "account": "a", "label": "l", "limit": 9, "agrees": True}
    answer = avault.read_answer(avault.answer_errand("get", "key", avault.Errand(request, prompt), ""))
    assert answer["outcome"] == outcome, answer


async def test_a_custodian_that_was_made_to_ask_agrees_to_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file says whether it asks a person, and is anybody's to write; what was agreed to is under the agent's key."""
    holding, store = house.holding, house.holding.store
    assert store
    holding.consent.phoneless = True
    monkeypatch.setattr(holding.contact, "is_paired", lambda: False)

    async def obtain(places: avault.Places, custodian: Any) -> Any:
        return store.keys, {}, True

    monkeypatch.setattr(avault, "obtain_key", obtain)
    kept: dict[str, Any] = {"custodian": "box", "kind": "program", "asks": False, "settings": {}, "agent": "npub1x"}
    kept["agreed"] = avault.mark_agreed(store.keys, {**kept, "shared": False})
    await avault.agree(holding, avault.KeptKey("box", kept, b"", False), "t")
    assert holding.consent.take("t")
    with pytest.raises(avault.Tampered, match="not as it was agreed to"):
        await avault.agree(holding, avault.KeptKey("box", {**kept, "asks": True}, b"", False), "t")
    assert not holding.consent.take("t")


async def test_what_a_custodians_person_was_told_is_what_is_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.keyholder.receive({**wish(), "do": "weigh"}, None)
    said = house.told[-1]["sealed"]["said"]
    assert said == "in test@machine, from now on onlyrun/KEY may be used by: anything, by any program here (until now: only run)"
    await house.serve("guard", group="onlyrun", key="KEY", times=3)
    asked, came = await loosen(house, monkeypatch, said=said)
    assert not asked and "changed meanwhile" in came["failed"]["message"] and await is_refused(house, "onlyrun")
    house.keyholder.receive({**wish(), "do": "weigh"}, None)
    _, came = await loosen(house, monkeypatch, said=house.told[-1]["sealed"]["said"])
    assert came["failed"] is None and not await is_refused(house, "onlyrun")
