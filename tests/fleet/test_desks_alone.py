"""A machine that a desk opens with others, without the desk: a keyholder, and what it is given. No daemon, no ssh, no phone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from test_keyholder_alone import Desk

import avault

NAME = "desk-fleet"
FLEET = "ab" * 32


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
    return avault.derive_key(fleet, agent(desk))


def file_of(desk: Desk) -> Path:
    return desk.example.path(f"custody-{NAME}.json")


async def join(desk: Desk, keys: avault.Keys) -> dict[str, Any]:
    return await desk.serve("desk", {"key": keys.secret_key().to_hex()}, action="join", name=NAME, label="laptop")


async def turn(desk: Desk, statement: str) -> dict[str, Any]:
    return await desk.serve("desk", {"statement": statement}, action="turn", name=NAME)


async def open_by(desk: Desk, keys: avault.Keys) -> str | None:
    """Lock it, and open it with a desk's key; by which custodian it is open then."""
    desk.close()
    desk.set_up()
    private = {"desk": NAME, "key": keys.secret_key().to_hex()}
    await avault.TALKS["open"](desk.keyholder, desk.session, {"op": "open"}, private)
    return desk.holding.custodian


def test_a_machines_key_is_the_documents() -> None:
    """HMAC-SHA256(F, "avault fleet" NUL agent): no two machines have one, and F is not found from it."""
    one, other = (avault.public_hex(avault.make_keys()) for _ in range(2))
    import hashlib
    import hmac

    wanted = hmac.new(bytes.fromhex(FLEET), b"avault fleet\0" + bytes.fromhex(one), hashlib.sha256).hexdigest()
    assert avault.derive_key(FLEET, one).secret_key().to_hex() == wanted
    assert avault.public_hex(avault.derive_key(FLEET, other)) != avault.public_hex(avault.derive_key(FLEET, one))


async def test_the_phone_is_told_what_a_desk_is(desk: Desk) -> None:
    await join(desk, own_key(desk))
    title, sentence = desk.said  # type: ignore[attr-defined]
    assert title.startswith("the desk laptop for ") and "TOGETHER with other machines, by ONE approval there" in sentence
    assert avault.Custodians(desk.places).order() == ["phone", NAME]


async def test_who_refuses_lets_nobody_in(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*given: Any) -> None:
        raise avault.Denied("the signer refused: no")

    monkeypatch.setattr(avault, "ask_operator", refuse)
    with pytest.raises(avault.Denied, match="refused"):
        await join(desk, own_key(desk))
    assert not file_of(desk).exists() and avault.Custodians(desk.places).order() == ["phone"]


async def test_the_key_of_one_machine_opens_no_other(desk: Desk) -> None:
    await join(desk, own_key(desk))
    stranger = avault.derive_key(FLEET, avault.public_hex(avault.make_keys()))
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
    statement = avault.sign_next(old, agent(desk), NAME, avault.public_hex(new))
    assert (await turn(desk, statement))["key"] == avault.public_hex(new)
    assert json.loads(before)["sealed"] != json.loads(file_of(desk).read_text())["sealed"]
    with pytest.raises(avault.Denied, match="another key"):
        await open_by(desk, old)
    assert await open_by(desk, new) == NAME
    with pytest.raises(avault.Denied, match="not signed"):
        await turn(desk, statement)  # once more: that key counts no more
    # a copy of the disk from before opens with the key of before, as everywhere: it was not on the disk since
    file_of(desk).write_bytes(before)
    assert await open_by(desk, old) == NAME


async def test_only_the_present_key_names_the_next(desk: Desk) -> None:
    keys, new = own_key(desk), avault.public_hex(avault.make_keys())
    await join(desk, keys)
    before = file_of(desk).read_bytes()
    wrong = [
        avault.sign_next(avault.make_keys(), agent(desk), NAME, new),
        avault.sign_next(desk.example.agent, agent(desk), NAME, new),
        avault.sign_next(keys, avault.public_hex(keys), NAME, new),
        avault.sign_next(keys, agent(desk), "desk-other", new),
        avault.sign_next(keys, agent(desk), NAME, "x"),
        avault.sign_text(keys, "[]"),
        avault.sign_text(keys, "x"),
        avault.sign_next(keys, agent(desk), NAME, new).replace(new, avault.public_hex(keys)),
        "",
        "{}",
    ]
    for statement in wrong:
        with pytest.raises(avault.Denied, match="not signed"):
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
        await turn(desk, avault.sign_next(thief, agent(desk), NAME, avault.public_hex(thief)))


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
        await turn(desk, avault.sign_next(keys, agent(desk), NAME, avault.public_hex(new)))
    monkeypatch.setattr(avault, "write_file", write)
    assert await open_by(desk, keys) == NAME


async def test_requests_of_a_desk_that_make_no_sense(desk: Desk) -> None:
    with pytest.raises(avault.NotFound):
        await turn(desk, "x")
    with pytest.raises(avault.Usage):
        await desk.serve("desk", {}, action="leave", name=NAME)
    with pytest.raises(avault.Usage):
        await desk.serve("desk", {"key": "x"}, action="join", name=NAME, label="laptop")
    with pytest.raises(avault.Usage, match="phone's"):
        await desk.serve("desk", {"key": FLEET}, action="join", name="phone", label="laptop")


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
    secret = [avault.derive_key(fleet, each).secret_key().to_hex() for each in agents.values()]
    assert not [each for each in (fleet, *secret) if each in text] and Path(avault.DeskFile.path()).stat().st_mode & 0o77 == 0
    found = avault.DeskFile.load()
    assert found and found.groups == {"web": [kept]} and found.members("web") == {*agents}
    shown = nostr_sdk.nip44_decrypt(operator.secret_key(), nostr_sdk.PublicKey.parse(kept["peer"]), kept["envelope"])
    assert json.loads(shown)["tags"] == [["alt", f"unlock 3 machines of web from laptop, code {code}"]]
    assert avault.accept_fleet_key(kept, shown) == fleet
    for wrong in ("", "[]", json.dumps({"avault": "cd" * 32}), json.dumps({"avault": "x"}), json.dumps({"avault": None})):
        with pytest.raises(avault.Tampered):
            avault.accept_fleet_key(kept, wrong)


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


def test_without_a_desk_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert avault.DeskFile.load() is None
    with pytest.raises(avault.NotFound) as refused:
        avault.DeskFile.need()
    assert refused.value.hint == "avault fleet enroll"
