"""`avault mcp`: a server of its own, and the SDK's client. No tool returns a value, whatever the command prints."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import nostr_sdk
import peers
import pytest
from canary import Canary, record
from harness import AVAULT, Machine, wait_until
from peers import Phone, Relay, misdeeds
from test_guard_commands import Office
from test_processes import Memory, is_alive, linux

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

TOOLS = {"avault_list", "avault_has", "avault_status", "avault_request_unlock", "avault_run"}


class Tools:
    """The tools of a server, as its client calls them; all that comes back is kept for the canary search."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.told: list[str] = []  # what came as progress

    async def _call(self, tool: str, arguments: dict[str, Any]) -> Any:
        async def tell(progress: float, total: float | None, message: str | None) -> None:
            self.told.append(message or "")

        result = await self.client.call_tool(f"avault_{tool}", arguments, progress_callback=tell)
        record(f"tool {tool}", result.model_dump_json() + "\n" + "\n".join(self.told))
        return result

    async def __call__(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """What a tool returns, as data; as text it is the same."""
        result = await self._call(tool, arguments)
        assert not result.is_error, result.content
        assert json.loads(result.content[0].text) == result.structured_content
        return dict(result.structured_content)

    async def fail(self, tool: str, /, **arguments: Any) -> str:
        """What a tool that fails says."""
        result = await self._call(tool, arguments)
        assert result.is_error and result.structured_content is None
        return str(result.content[0].text)

    async def run(self, *words: str, secrets: tuple[str, ...] = ("openai/API_KEY",), **more: Any) -> dict[str, Any]:
        return await self("run", command=list(words), secrets=list(secrets), **more)


# asyncio's own word, where its transport has asked after a child just before the thread that waits for it (3.11)
REAPED = r"(?m)^Unknown child process pid \d+, will report returncode 255\n"


@contextlib.asynccontextmanager
async def serve(machine: Machine, *words: str, mode: str = "auto") -> AsyncIterator[Tools]:
    """The tools of `avault mcp` on that machine. What the server says on stderr is searched too, and is nothing."""
    from mcp import Client, StdioServerParameters, stdio_client  # takes as long as all that other tests import

    said = machine.top / "mcp.stderr"
    parameters = StdioServerParameters(command=AVAULT, args=["mcp", *words], env=machine.env, cwd=machine.top)
    with said.open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), mode=mode) as client:
            yield Tools(client)
    assert not re.sub(REAPED, "", said.read_text())


def prepare(machine: Machine, canary: Canary) -> None:
    machine.init_unproven()
    for name in ("openai/API_KEY", "db/PASSWORD"):
        machine("set", name, input=canary.new(name.partition("/")[2].lower()))


@pytest.fixture
def vault(lend: Callable[..., Machine], canary: Canary) -> Machine:
    """An open vault; the values are `canary.new` of the key's name in lower case."""
    return lend(prepare, canary)


# Looking


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_tools(vault: Machine, mode: str) -> None:
    """Both generations of the protocol."""
    async with serve(vault, mode=mode) as tools:
        listed = {tool.name: tool for tool in (await tools.client.list_tools()).tools}
        assert set(listed) == TOOLS
        assert all(tool.description and tool.input_schema["type"] == "object" for tool in listed.values())
        assert (await tools("has", name="openai/API_KEY")) == {"has": True}
        assert "without seeing them" in (tools.client.instructions or "")


async def test_without_run(vault: Machine) -> None:
    async with serve(vault, "--no-run") as tools:
        assert {tool.name for tool in (await tools.client.list_tools()).tools} == TOOLS - {"avault_run"}
        assert "avault_run" not in (tools.client.instructions or "") and "avault_list" in (tools.client.instructions or "")
        assert "nknown tool" in await tools.fail("run", command=["true"], secrets=["openai/API_KEY"])


async def test_guards(vault: Machine) -> None:
    """What is only for `run` it may run with; what is for nothing that there is, it is told the reason of."""
    vault("guard", "openai", "--only", "run")
    vault("guard", "db/PASSWORD", "--only", "proxy")
    async with serve(vault) as tools:
        assert (await tools("list"))["guarded"] == {"db/PASSWORD": "only proxy, to none", "openai/API_KEY": "only run"}
        assert (await tools.run("sh", "-c", 'echo "$API_KEY"'))["stdout"] == "<avault:openai/API_KEY>\n"
        refused = await tools.fail("run", command=["true"], secrets=["db/PASSWORD"])
        assert "db/PASSWORD is guarded: only proxy may use it" in refused and "do not try again" in refused


async def test_a_guard_that_asks(machine: Machine, relay: Relay, canary: Canary) -> None:
    """The phone says yes, and no: the command runs, or the model is told not to try again."""
    keys = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=keys.secret_key().to_bech32()) as phone:
        Office(machine, phone, keys)
        machine("set", "stripe/KEY", input=canary.value)
        machine("guard", "stripe", "--ask")
        async with serve(machine) as tools:
            assert (await tools("list"))["guarded"] == {"stripe/KEY": "the phone is asked for each use"}
            done = await tools.run("sh", "-c", 'echo "$KEY"', secrets=("stripe/KEY",), timeout_seconds=300)
            assert done["stdout"] == "<avault:stripe/KEY>\n" and "avault: asking the phone, code " in done["stderr"]
            phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"], requests=1)
            refused = await tools.fail("run", command=["true"], secrets=["stripe/KEY"])
            assert "do not try again unless the user says so" in refused


async def test_names_and_state(vault: Machine) -> None:
    async with serve(vault) as tools:
        assert await tools("list") == {"secrets": ["db/PASSWORD", "openai/API_KEY"]}
        assert [(await tools("has", name=name))["has"] for name in ("openai", "db/PASSWORD", "db/OTHER")] == [True, True, False]
        status = await tools("status")
        assert (status["state"], status["secrets"], status["next"]) == ("unlocked", 2, None)
        assert "not a key name" in await tools.fail("has", name="a/b/c")
        vault("lock", "--force")
        assert "avault pair" in (await tools("status"))["next"]
        for failing in (tools.fail("list"), tools.fail("run", command=["true"], secrets=["openai/API_KEY"])):
            assert "the vault is locked" in await failing
        vault("daemon", "stop", "--force")
        assert (await tools("status"))["state"] == "stopped"
        assert "call avault_request_unlock" in await tools.fail("list")


async def test_no_vault(machine: Machine) -> None:
    async with serve(machine) as tools:
        for name in ("list", "status", "request_unlock"):
            assert "no vault in" in await tools.fail(name)


def test_without_the_sdk(vault: Machine) -> None:
    """Something else is called mcp."""
    (vault.top / "mcp.py").write_text("")
    done = vault("mcp", code=6, PYTHONPATH=str(vault.top))
    hint = done.stderr.partition("avault: hint: ")[2]
    assert hint.endswith(" -m pip install 'mcp>=2,<3'\n") and os.access(hint.split()[0], os.X_OK) and not done.stdout


# Running


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


PYTHON = (sys.executable, "-I", "-S", "-c")
GIVEN = "import hashlib, os; print(*(n + ' ' + hashlib.sha256(os.environ[n].encode()).hexdigest() for n in {names}), sep='\\n')"


async def test_a_command_gets_what_was_chosen(vault: Machine, canary: Canary) -> None:
    names = "('API_KEY', 'PASSWORD', 'OPENAI_API_KEY') if n in os.environ"
    async with serve(vault) as tools:
        program = GIVEN.format(names=f"[n for n in {names}]")
        one = await tools.run(*PYTHON, program)
        assert one == {"exit_code": 0, "stdout": f"API_KEY {digest(canary.new('api_key'))}\n", "stderr": ""}
        other = await tools.run(*PYTHON, program, secrets=("openai/API_KEY",), prefix=True)
        assert other["stdout"] == f"OPENAI_API_KEY {digest(canary.new('api_key'))}\n"
        both = await tools.run(*PYTHON, program, secrets=("openai/API_KEY", "PASSWORD"))
        assert both["stdout"].split()[::2] == ["API_KEY", "PASSWORD"]


async def test_how_it_ends(vault: Machine) -> None:
    async with serve(vault) as tools:
        assert (await tools.run("sh", "-c", "cat; echo out; echo err >&2; exit 3")) == {
            "exit_code": 3,
            "stdout": "out\n",
            "stderr": "err\n",
        }
        assert (await tools.run("sh", "-c", "kill -9 $$"))["exit_code"] == 137
        assert (await tools.run("pwd", directory="/"))["stdout"] == "/\n"
        assert (await tools.run("pwd"))["stdout"] == f"{vault.top}\n"
        assert set(tools.told) == {"running"}
        vault("set", "other/API_KEY", input="another value")
        for arguments, says in (
            ({"command": ["/nothing/here"]}, "cannot run /nothing/here"),
            ({"command": ["true"], "directory": "/nothing"}, "No such file"),
            ({"command": ["true", "x" * 200_000]}, "too long"),
            ({"command": ["true", "\0"]}, "NUL"),
            ({"command": []}, "at least 1 item"),
            ({"command": ["true"], "secrets": []}, "at least 1 item"),
            ({"command": ["true"], "secrets": ["NOTHING"]}, "no key NOTHING; avault_list has the names"),
            ({"command": ["true"], "secrets": ["openai/API_KEY", "other/API_KEY"]}, "are both API_KEY"),
            ({"command": ["true"], "timeout_seconds": 1e9}, "less than or equal"),
        ):
            assert says in await tools.fail("run", **{"secrets": ["openai/API_KEY"], **arguments})


async def test_values_that_were_not_chosen(vault: Machine, canary: Canary, allow) -> None:
    """The command asks the daemon by itself: no value of the vault comes back, chosen or not."""
    allow(vault.top / "out")  # of the command's own
    vault("set", "door/PIN", input="7391746")
    ways = (
        (AVAULT, "get", "db/PASSWORD"),
        (AVAULT, "get", "openai/API_KEY"),
        (AVAULT, "export"),
        ("sh", "-c", f"{AVAULT} get db/PASSWORD | base64 | cat"),
        ("sh", "-c", f"(setsid {AVAULT} get db/PASSWORD > out &); while ! [ -s out ]; do sleep 0.1; done; cat out"),
        (AVAULT, "get", "door/PIN"),
    )
    async with serve(vault) as tools:
        for words in ways:
            shown = (await tools.run(*words))["stdout"]
            assert "<avault:" in shown and canary.mark not in shown and "7391746" not in shown, (words, shown)
        assert (await tools.run("echo", "7391746", "739174612", "x7391746"))["stdout"] == "<avault:door/PIN> 739174612 x7391746\n"
        listed = {tool.name: tool for tool in (await tools.client.list_tools()).tools}
        assert "can ask the vault for other" in " ".join(listed["avault_run"].description.split())


ENCODINGS = """
import base64, json, os, sys, urllib.parse
value = os.environ["API_KEY"].encode()
for data in (value, base64.b64encode(value), base64.b64encode(b"x" + value), base64.urlsafe_b64encode(b"user:" + value),
             value.hex().encode(), value.hex().upper().encode(), json.dumps([value.decode()]).encode(),
             urllib.parse.quote_from_bytes(value).encode()):
    for out in (sys.stdout, sys.stderr):
        out.buffer.write(b"<" + data + b">\\n")
"""


@pytest.mark.parametrize("kind", ["value", "odd", "long"])
async def test_output_is_masked(vault: Machine, canary: Canary, kind: str) -> None:
    """All that comes back is searched for the value when the tests are over."""
    vault("set", "openai/API_KEY", input=getattr(canary, kind))
    async with serve(vault) as tools:
        done = await tools.run(*PYTHON, ENCODINGS)
        for name in ("stdout", "stderr"):
            assert done[name].count("<avault:openai/API_KEY>") == 8, done[name]
            assert canary.mark not in done[name]


async def test_what_cannot_be_masked_is_refused(vault: Machine) -> None:
    vault("set", "db/PIN", input="123456")
    async with serve(vault) as tools:
        command = ["touch", str(vault.top / "started")]
        said = await tools.fail("run", command=command, secrets=["openai/API_KEY", "db/PIN"])
        assert "too short to be masked (under 8 bytes): db/PIN" in said
        assert not (vault.top / "started").exists()


async def test_a_value_that_comes_in_pieces(vault: Machine) -> None:
    """Its beginning is held back however long the rest takes: there is no prompt to be shown. What is left is not lost."""
    head, rest = '"${API_KEY%"${API_KEY#?????}"}"', '"${API_KEY#?????}"'
    async with serve(vault) as tools:
        done = await tools.run("sh", "-c", f"printf %s {head}; sleep 0.2; printf %s {rest}")
        assert done["stdout"] == "<avault:openai/API_KEY>"
        done = await tools.run("sh", "-c", f"printf %s {head} | wc -c; sleep 60 & printf %s {head}")
        assert len(done["stdout"]) == len("5\n") + 5


async def test_long_output(vault: Machine) -> None:
    """The beginning and the end; a value at the cut is masked before it is cut."""
    script = "yes $API_KEY | head -n 100000; echo the end"
    async with serve(vault) as tools:
        done = await tools.run("sh", "-c", script)
        assert done["stdout"].startswith("<avault:openai/API_KEY>\n<avault:") and done["stdout"].endswith("\nthe end\n")
        mask = len("<avault:openai/API_KEY>\n")
        left_out = 100_000 * mask + len("the end\n") - 32 * 1024
        assert f"\n<avault: {left_out} bytes are left out>\n" in done["stdout"]
        exact = await tools.run("sh", "-c", "head -c 32768 /dev/zero | tr '\\0' x")
        assert exact["stdout"] == "x" * 32768


def find_server(pid: int) -> int:
    """The server, among a process's ancestors."""
    while not subprocess.check_output(["ps", "-o", "args=", "-p", str(pid)], text=True).strip().endswith("/avault mcp"):
        pid = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)], text=True))
    return pid


@linux
async def test_the_server_never_has_a_value(vault: Machine, canary: Canary) -> None:
    """Its memory is searched after a run; the same search finds the value in the runner's."""
    memory = Memory()
    memory.want("value", canary.new("api_key"))
    fifo = vault.top / "fifo"
    os.mkfifo(fifo)
    async with serve(vault) as tools:
        script = f"echo $PPID >{fifo}; cat {fifo}; echo $API_KEY"
        running = asyncio.create_task(tools.run("sh", "-c", script))
        runner = int(await asyncio.to_thread(fifo.read_text))
        assert "value" in memory.found(runner)
        server = find_server(runner)
        await asyncio.to_thread(fifo.write_text, "")
        assert (await running)["stdout"] == "<avault:openai/API_KEY>\n"
        assert memory.found(server) == set()


# Ending what runs

STAY = "trap '' TERM HUP; sleep 600 & echo $$ $! >pids; wait; wait"


def started(machine: Machine) -> list[int]:
    """The processes of STAY, once they run: a shell that ignores SIGTERM, and what it started."""
    text = wait_until(lambda: (path := machine.top / "pids").exists() and path.read_text(), what="the command")
    return [int(word) for word in text.split()]


def are_gone(pids: list[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


async def test_timeout(vault: Machine) -> None:
    async with serve(vault) as tools:
        done = await tools.run("sh", "-c", f"echo begun; {STAY}", timeout_seconds=3)
        assert done == {"timed_out": True, "stdout": "begun\n", "stderr": ""}
        assert are_gone(started(vault))


async def test_what_stays_behind_is_ended(vault: Machine) -> None:
    async with serve(vault) as tools:
        assert (await tools.run("sh", "-c", "sleep 600 & echo $! >pids; exit 4"))["exit_code"] == 4
        wait_until(lambda: are_gone(started(vault)))


@pytest.mark.parametrize("how", ["cancel", "close", "term"])
async def test_nobody_wants_it_any_more(vault: Machine, how: str) -> None:
    """The call is cancelled, the client ends, or the server is told to end."""
    async with serve(vault) as tools:
        running = asyncio.create_task(tools.run("sh", "-c", STAY, timeout_seconds=600))
        pids = await asyncio.to_thread(started, vault)
        assert not are_gone(pids)
        if how == "term":
            os.kill(find_server(pids[0]), signal.SIGTERM)
        if how == "cancel":
            running.cancel()
        if how != "close":
            await asyncio.to_thread(wait_until, lambda: are_gone(pids))
        if how == "cancel":
            assert await tools("has", name="openai") == {"has": True}
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.to_thread(wait_until, lambda: are_gone(pids))


# The phone


@pytest.fixture
def locked(machine: Machine, relay: Relay, phone: Phone) -> Machine:
    """A machine whose phone asks a person; no daemon runs."""
    machine.init(relay.url, phone=phone)
    machine("daemon", "stop")
    return machine


async def ask(phone: Phone) -> str:
    """The next question on the phone."""
    return str((await asyncio.to_thread(phone.wait_for, "ask", 60))["id"])


async def test_unlock(locked: Machine, phone: Phone) -> None:
    """The server answers others meanwhile."""
    async with serve(locked) as tools:
        asking = asyncio.create_task(tools("request_unlock"))
        question = await ask(phone)
        status = await tools("status")
        assert status["state"] == "waiting" and "approve on their phone" in status["next"]
        phone.answer(question, True)
        assert await asking == {"state": "unlocked", "next": None}
        assert "asked 1 of 1 relays, waiting for the user's approval" in tools.told
        assert await tools("request_unlock") == {"state": "unlocked", "next": None}
        assert await tools("list") == {"secrets": []}
    assert locked.status()["state"] == "unlocked", "the daemon stays when the server ends"


async def test_unlock_that_takes_longer(locked: Machine, phone: Phone) -> None:
    """The phone stays asked, and is asked once."""
    async with serve(locked) as tools:
        for _ in range(2):
            state = await tools("request_unlock", wait_seconds=1)
            assert state["state"] == "waiting" and "again to go on waiting" in state["next"]
        phone.answer(await ask(phone), True)
        assert (await tools("request_unlock"))["state"] == "unlocked"
    assert len({request["id"] for request in phone.requests("nip44_decrypt")}) == 3, "two of them in the pairing"


async def test_unlock_that_is_cancelled(locked: Machine, phone: Phone) -> None:
    async with serve(locked) as tools:
        asking = asyncio.create_task(tools("request_unlock", wait_seconds=3600))
        question = await ask(phone)
        asking.cancel()
        assert (await tools("status"))["state"] == "waiting"
        phone.answer(question, True)
        assert (await tools("request_unlock"))["state"] == "unlocked"


async def test_refusal(locked: Machine, phone: Phone) -> None:
    """The phone is left alone then, though not by the operator's own command."""
    async with serve(locked) as tools:
        asking = asyncio.create_task(tools.fail("request_unlock"))
        phone.answer(await ask(phone), False)
        said = await asking
        assert "refused" in said and "do not try again unless the user says so" in said
        seen = len(phone.requests("nip44_decrypt"))
        said = await tools.fail("request_unlock")
        assert "the operator refused at" in said and "programs may ask again at" in said and "avault unlock" in said
    async with serve(locked) as tools:
        assert "the operator refused at" in await tools.fail("request_unlock"), "another server is told too"
        request = '{"protocolVersion":1,"provider":"avault","ids":["a/B"]}'
        provider = await asyncio.to_thread(locked, "openclaw-provider", input=request, code=5)
        assert "the operator refused at" in provider.stderr, "and OpenClaw's provider"
        assert len(phone.requests("nip44_decrypt")) == seen
        unlocking = locked.start("unlock")
        phone.answer(await ask(phone), True)
        assert unlocking.wait().returncode == 0
        assert await tools("list") == {"secrets": []}
        assert await tools("request_unlock") == {"state": "unlocked", "next": None}
    assert not (locked.own / "pauses.json").exists()


async def test_unlock_after_the_provider_was_refused(locked: Machine, phone: Phone) -> None:
    """The pauses of one are those of the other: the daemon keeps them."""
    request = '{"protocolVersion":1,"provider":"avault","ids":["a/B"]}'
    provider = locked.start("openclaw-provider", input=request)
    phone.answer(await ask(phone), False)
    assert await asyncio.to_thread(provider.wait)
    async with serve(locked) as tools:
        assert "the operator refused at" in await tools.fail("request_unlock")
        pauses = locked.own / "pauses.json"
        content = avault.decode_file("pauses", pauses.read_bytes(), "")
        assert content["in_vain"] == 1 and content["refused"]
        pauses.write_bytes(avault.encode_file("pauses", {**content, "last": int(time.time()) - 901}))
        for _ in range(3):
            assert (await tools("request_unlock", wait_seconds=1))["state"] == "waiting"
        asking = asyncio.create_task(tools.fail("request_unlock"))
        phone.answer(await ask(phone), False)
        assert "refused" in await asking
        assert "the operator refused at" in await tools.fail("request_unlock")
        assert avault.decode_file("pauses", pauses.read_bytes(), "")["in_vain"] == 2
