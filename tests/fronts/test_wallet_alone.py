"""The front end of a wallet alone: callers that hang up, ask again, and are not paid for twice. Its vault is one of ours."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import avault

OWN, BOB = "0x" + "00" * 19 + "01", "0x" + "b0" * 20
PAY = {"to": BOB, "value": "0x1", "gas": "0x5208", "gasPrice": "0x1"}


class Bank:
    """A vault that agrees once its `phone` does, to who waits still; and a chain that has `sent` what it is given."""

    def __init__(self) -> None:
        self.phone = asyncio.Event()
        self.asked: list[dict[str, Any]] = []
        self.signed: list[Any] = []
        self.sent: list[str] = []
        self.pending = 0

    async def converse(self, op: str, second: Any, fields: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(fields)
        await self.phone.wait()
        told = await second()
        if not told["go"]:
            raise avault.Denied("nobody waits for it any more")
        self.signed.append(told.get("nonce"))
        return {"signature": "0x" + bytes([len(self.signed)]).hex()}

    async def ask(self, method: str, *params: Any) -> Any:
        if method == "eth_sendRawTransaction":
            self.sent.append(params[0])
            return "0xa hash of the node's"
        return {"eth_getTransactionCount": hex(self.pending), "eth_blockNumber": "0x7"}[method]


@pytest.fixture
async def bank() -> AsyncIterator[SimpleNamespace]:
    """The bank, and the door before it."""
    bank = Bank()
    links: Any = bank
    rpc = avault.WalletRpc(links, links, ("shop", "PAY"), avault.show_address(avault.parse_address(OWN)), 31337)
    door = avault.WalletDoor(rpc.handle, "token")
    await door.open(0)
    yield SimpleNamespace(bank=bank, rpc=rpc, door=door)
    assert door.server
    door.server.close()


async def post(door: Any, body: object, **headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    data = json.dumps(body).encode()
    lines = {"Host": f"127.0.0.1:{door.port}", "Content-Length": str(len(data)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"POST /token HTTP/1.1\r\n{head}\r\n".encode() + data)
    return reader, writer


async def hear(reader: asyncio.StreamReader) -> Any:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return json.loads(await reader.readexactly(size))


def wish(method: str = "eth_sendTransaction", *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params) or [PAY]}


async def until(what: Any) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.005)


async def ended(bank: SimpleNamespace) -> None:
    await until(lambda: all(each.task.done() for each in bank.rpc.deals.deals))


async def test_an_approval_for_who_hung_up_signs_nothing(bank: SimpleNamespace) -> None:
    _, writer = await post(bank.door, wish())
    await until(lambda: bank.bank.asked)
    writer.close()
    await until(lambda: not bank.rpc.deals.deals[0].callers)
    bank.bank.phone.set()
    await ended(bank)
    assert not bank.bank.signed and not bank.bank.sent


async def test_who_asks_again_joins_the_question_and_pays_once(bank: SimpleNamespace) -> None:
    """As viem does, which gives up after ten seconds."""
    _, writer = await post(bank.door, wish())
    await until(lambda: bank.bank.asked)
    writer.close()
    await until(lambda: not bank.rpc.deals.deals[0].callers)
    reader, writer = await post(bank.door, wish())
    await until(lambda: bank.rpc.deals.deals[0].callers)
    bank.bank.phone.set()
    assert (await hear(reader))["result"] == avault.hash_raw("0x01")
    assert len(bank.bank.asked) == len(bank.bank.sent) == 1
    writer.close()


async def test_an_answer_that_reached_nobody_is_had_by_who_asks_again(
    bank: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = asyncio.Event()
    ask = bank.bank.ask

    async def slow(method: str, *params: Any) -> Any:
        found = await ask(method, *params)
        if method == "eth_sendRawTransaction":
            await gone.wait()
        return found

    bank.bank.ask = slow
    bank.bank.phone.set()
    _, writer = await post(bank.door, wish())
    await until(lambda: bank.bank.sent)
    writer.close()
    await until(lambda: not bank.rpc.deals.deals[0].callers)
    gone.set()
    await ended(bank)
    reader, writer = await post(bank.door, wish())
    assert (await hear(reader))["result"] == avault.hash_raw("0x01") and len(bank.bank.sent) == 1
    writer.close()
    reader, writer = await post(bank.door, wish())
    assert (await hear(reader))["result"] == avault.hash_raw("0x02"), "one that was delivered is never given again"
    writer.close()


async def test_who_has_its_answer_may_hang_up_at_once(bank: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a client of its own process, which may be done before the door goes on: what it has is never given again."""
    bank.bank.phone.set()
    write = bank.door.write

    def read_at_once(*sent: Any) -> None:
        write(*sent)
        assert avault.hash_raw("0x01").encode() in client.recv(65536)
        client.close()

    with socket.create_connection(("127.0.0.1", bank.door.port)) as client, monkeypatch.context() as patched:
        patched.setattr(bank.door, "write", read_at_once)
        data = json.dumps(wish()).encode()
        head = f"POST /token HTTP/1.1\r\nHost: 127.0.0.1:{bank.door.port}\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        await until(lambda: bank.rpc.deals.deals and not bank.rpc.deals.deals[0].callers)
    reader, writer = await post(bank.door, wish())
    assert (await hear(reader))["result"] == avault.hash_raw("0x02")
    writer.close()


@pytest.mark.parametrize("end", ["before it is sent", "unread"])
async def test_who_hangs_up_without_its_answer_has_it_again(
    bank: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Also where the door has not looked for a moment."""
    bank.bank.phone.set()
    write, ask = bank.door.write, bank.bank.ask

    def leave_unread(*sent: Any) -> None:
        write(*sent)
        client.close()

    async def leave(method: str, *params: Any) -> Any:
        found = await ask(method, *params)
        if method == "eth_sendRawTransaction":
            client.close()
        return found

    with socket.create_connection(("127.0.0.1", bank.door.port)) as client, monkeypatch.context() as patched:
        if end == "unread":
            patched.setattr(bank.door, "write", leave_unread)
        else:
            bank.bank.ask = leave
        data = json.dumps(wish()).encode()
        head = f"POST /token HTTP/1.1\r\nHost: 127.0.0.1:{bank.door.port}\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        await until(lambda: bank.rpc.deals.deals and not bank.rpc.deals.deals[0].callers)
    bank.bank.ask = ask
    reader, writer = await post(bank.door, wish())
    assert (await hear(reader))["result"] == avault.hash_raw("0x01") and len(bank.bank.sent) == 1
    writer.close()


async def test_a_node_whose_answer_is_lost_is_sent_the_same_again(bank: SimpleNamespace) -> None:
    """It may have taken it: another one, with the next nonce, would pay twice."""
    bank.bank.phone.set()
    ask, lost = bank.bank.ask, [avault.Unavailable("the node does not answer"), avault.NodeFault(-32000, "already known")]

    async def lose(method: str, *params: Any) -> Any:
        if method == "eth_getTransactionByHash":
            return {"hash": params[0]}
        found = await ask(method, *params)
        if method == "eth_sendRawTransaction" and lost:
            bank.bank.pending = 1
            raise lost.pop(0)
        return found

    bank.bank.ask = lose
    answer, _ = await bank.rpc.handle(wish())
    assert answer["error"]["code"] == 4900 and avault.hash_raw("0x01") in answer["error"]["message"]
    answer, tell = await bank.rpc.handle(wish())
    assert answer["result"] == avault.hash_raw("0x01")
    assert bank.bank.sent == ["0x01", "0x01"] and bank.bank.signed == ["0x0"]
    tell(True)
    bank.bank.pending = 0  # of another node
    await bank.rpc.handle(wish())
    assert bank.bank.signed == ["0x0", "0x1"], "and two are two"


async def test_what_a_node_refuses_is_sent_again_until_another_has_its_place(
    bank: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of several nodes behind an address says no, while another has it: a second one would pay twice."""
    bank.bank.phone.set()
    ask = bank.bank.ask

    async def refuse(method: str, *params: Any) -> Any:
        if method == "eth_getTransactionByHash":
            return None
        found = await ask(method, *params)
        if method == "eth_sendRawTransaction":
            raise avault.NodeFault(-32000, "request timed out")
        return found

    bank.bank.ask = refuse
    for _ in range(2):
        assert "request timed out" in (await bank.rpc.handle(wish()))[0]["error"]["message"]
    assert bank.bank.sent == ["0x01", "0x01"] and bank.bank.signed == ["0x0"]
    bank.bank.pending = 1  # another one has been mined with that nonce
    for later in (0, 59, 61):
        monkeypatch.setattr(avault, "uptime", lambda later=later: 1_000.0 + later)
        assert "request timed out" in (await bank.rpc.handle(wish()))[0]["error"]["message"]
        assert bank.bank.signed == ["0x0"]
    bank.bank.ask = ask
    assert (await bank.rpc.handle(wish()))[0]["result"] == avault.hash_raw("0x02")
    assert bank.bank.signed == ["0x0", "0x1"]


async def test_a_node_that_lags_behind_itself_has_no_second_one_signed(bank: SimpleNamespace) -> None:
    """It counts ours as mined, and does not find it yet: what was mined in its place is itself."""
    bank.bank.phone.set()
    ask, lost, known = bank.bank.ask, [avault.Unavailable("the node does not answer")], set[str]()

    async def lag(method: str, *params: Any) -> Any:
        if method == "eth_getTransactionByHash":
            return {"hash": params[0]} if params[0] in known else None
        found = await ask(method, *params)
        if method == "eth_sendRawTransaction" and lost:
            raise lost.pop()
        if method == "eth_sendRawTransaction":
            raise avault.NodeFault(-32000, "nonce too low")
        return found

    bank.bank.ask = lag
    assert (await bank.rpc.handle(wish()))[0]["error"]["code"] == 4900
    bank.bank.pending = 1  # it was taken, and mined
    assert "nonce too low" in (await bank.rpc.handle(wish()))[0]["error"]["message"]
    known.add(avault.hash_raw("0x01"))
    assert (await bank.rpc.handle(wish()))[0]["result"] == avault.hash_raw("0x01")
    assert bank.bank.signed == ["0x0"], "it is paid once"


async def test_what_a_node_cannot_execute_is_not_brought_to_the_phone(bank: SimpleNamespace) -> None:
    ask = bank.bank.ask

    async def revert(method: str, *params: Any) -> Any:
        if method == "eth_estimateGas":
            raise avault.NodeFault(3, "execution reverted")
        return await ask(method, *params)

    bank.bank.ask = revert
    answer, _ = await bank.rpc.handle(wish("eth_sendTransaction", {"to": BOB, "value": "0x1", "gasPrice": "0x1"}))
    assert answer["error"]["message"] == "execution reverted" and not bank.bank.asked


async def test_many_that_hung_up_push_none_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a deal that is forgotten nobody knows that it was asked for: who asks again pays twice."""
    deals, made, phone = avault.Deals(), list[str](), asyncio.Event()

    async def make(deal: avault.Deal) -> str:
        made.append(deal.what)
        await phone.wait()
        return deal.what

    for number in range(100):
        task = asyncio.ensure_future(deals.take_part(str(number), make))
        await until(lambda number=number: len(made) > number)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    again = asyncio.ensure_future(deals.take_part("0", make))
    await asyncio.sleep(0)
    phone.set()
    assert (await again)[0] == "0" and made.count("0") == 1
    monkeypatch.setattr(avault, "MOST_DEALS", 100)
    with pytest.raises(avault.Unavailable, match="too much"):
        await deals.take_part("one more", make)
    assert (await deals.take_part("1", make))[0] == "1" and made.count("1") == 1


async def test_idle_connections_of_others_keep_nobody_out(bank: SimpleNamespace) -> None:
    bank.bank.phone.set()
    own_reader, own = await post(bank.door, wish("eth_chainId"))
    assert (await hear(own_reader))["result"] == "0x7a69"
    idle = [await asyncio.open_connection("127.0.0.1", bank.door.port) for _ in range(avault.MOST_DOORS + 10)]
    async with asyncio.timeout(60):
        reader, writer = await post(bank.door, wish("eth_chainId"))
        assert (await hear(reader))["result"] == "0x7a69"
        body = json.dumps(wish("eth_blockNumber")).encode()  # and who has shown the token is not put out for them
        head = f"POST /token HTTP/1.1\r\nHost: 127.0.0.1:{bank.door.port}\r\nContent-Length: {len(body)}\r\n\r\n"
        own.write(head.encode() + body)
        assert (await hear(own_reader))["result"] == "0x7"
    for each in (writer, own, *(end for _, end in idle)):
        each.close()


async def test_a_byte_that_comes_ahead_hides_nobody_who_hangs_up(bank: SimpleNamespace) -> None:
    _, writer = await post(bank.door, wish())
    await until(lambda: bank.bank.asked)
    writer.write(b"P")
    await writer.drain()
    writer.close()
    await until(lambda: not bank.rpc.deals.deals[0].callers)
    bank.bank.phone.set()
    await ended(bank)
    assert not bank.bank.signed


async def test_two_equal_payments_are_two(bank: SimpleNamespace) -> None:
    bank.bank.phone.set()
    both = [wish(), {**wish(), "id": 2}]
    reader, writer = await post(bank.door, both)
    found = await hear(reader)
    assert {each["result"] for each in found} == {avault.hash_raw("0x01"), avault.hash_raw("0x02")}
    assert bank.bank.signed == ["0x0", "0x1"], "the second has the next nonce, of which the node does not know yet"
    writer.close()
    for _ in range(3):
        reader, writer = await post(bank.door, wish())
        await hear(reader)
        writer.close()
    assert len(bank.bank.sent) == 5


async def test_a_node_that_knows_more_has_the_nonce_and_a_callers_own_none(bank: SimpleNamespace) -> None:
    bank.bank.phone.set()
    bank.bank.pending = 7
    for wanted in (PAY, {**PAY, "nonce": "0x63"}, {**PAY, "nonce": "0x0", "value": "0x2"}):
        reader, writer = await post(bank.door, wish("eth_sendTransaction", wanted))
        await hear(reader)
        writer.close()
    assert bank.bank.signed == ["0x7", "0x8", "0x9"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": ""}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Transfer-Encoding": "chunked"}, 400),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "9999999"}, 400),
        ({"Content-Length": "0"}, 400),
        ({"origin ": "x"}, 400),
    ],
)
async def test_who_is_not_meant_is_not_let_in(bank: SimpleNamespace, headers: dict[str, str], status: int) -> None:
    bank.bank.phone.set()
    reader, writer = await post(bank.door, wish(), **headers)
    assert (await reader.readline()).startswith(f"HTTP/1.1 {status} ".encode())
    assert not bank.bank.asked
    writer.close()


async def test_localhost_may_be_anothers_and_is_not_taken_for_us(bank: SimpleNamespace) -> None:
    """Of two users one may listen on 127.0.0.1, the other on ::1: who says localhost gives the other the token."""
    reader, writer = await post(bank.door, wish("eth_chainId"), Host=f"localhost:{bank.door.port}")
    assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
    writer.close()


@pytest.mark.parametrize("path", ["/", "/tokem", "/token/", "/token?x", "//token", "*"])
async def test_another_token_is_none(bank: SimpleNamespace, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bank.door.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{bank.door.port}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
    writer.close()


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_sign", [OWN, "0x" + "00" * 32], 4200),
        ("eth_sendRawTransaction", ["0x00"], 4200),
        ("anvil_impersonateAccount", [BOB], 4200),
        ("debug_traceCall", [], 4200),
        ("personal_sign", ["0x61", BOB], 4100),
        ("eth_signTypedData_v4", [BOB, {}], 4100),
        ("eth_sendTransaction", [{**PAY, "from": BOB}], 4100),
        ("eth_sendTransaction", [{**PAY, "chainId": "0x1"}], -32602),
        ("eth_sendTransaction", [{**PAY, "authorizationList": []}], -32602),
        ("eth_sendTransaction", [{**PAY, "accessList": [{}]}], -32602),
        ("eth_sendTransaction", [], -32602),
        ("eth_sendTransaction", ["x"], -32602),
    ],
)
async def test_what_there_is_not(bank: SimpleNamespace, method: str, params: list[Any], code: int) -> None:
    bank.bank.phone.set()
    answer, _ = await bank.rpc.handle({"id": 9, "method": method, "params": params})
    assert answer["error"]["code"] == code and answer["id"] == 9 and not bank.bank.asked


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (avault.Denied("over the day's limit"), 4001, "User denied: over the day's limit"),
        (avault.TimedOut("nobody approved"), 4001, "User denied: nobody approved"),
        (avault.Locked("the vault is locked"), 4900, "the vault is locked"),
        (avault.Unavailable("no daemon listens"), 4900, "no daemon listens"),
        (avault.NotFound("no key"), 4100, "no key"),
        (avault.Usage("not understood"), -32602, "not understood"),
        (avault.NodeFault(-32000, "nonce too low"), -32000, "nonce too low"),
        (RuntimeError("a secret"), -32603, "something went wrong"),
    ],
)
def test_errors_are_those_that_clients_know(error: Exception, code: int, text: str) -> None:
    assert avault.explain_fault(error) == {"code": code, "message": text}


@given(st.binary(max_size=300), st.booleans())
async def test_whatever_comes_the_next_is_answered(data: bytes, is_framed: bool) -> None:
    links: Any = Bank()
    rpc = avault.WalletRpc(links, links, ("shop", "PAY"), avault.show_address(avault.parse_address(OWN)), 31337)
    door = avault.WalletDoor(rpc.handle, "token")
    await door.open(0)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = f"POST /token HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    writer.write((head if is_framed else b"") + data)
    writer.write_eof()
    reader, other = await post(door, wish("eth_blockNumber", 1))
    assert (await hear(reader))["result"] == "0x7"
    writer.close()
    other.close()
    assert door.server
    door.server.close()
