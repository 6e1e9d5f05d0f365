"""OpenClaw: the provider's contract, its restraint, and setting up; with the real program where it has a say.

The tests with a gateway are at the end; openclaw_gateway.py has the gateway and the model.
"""

import contextlib
import hashlib
import http.server
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
from canary import Canary
from harness import AVAULT, SOURCE, Machine, wait_until
from openclaw_gateway import VERSION, Claw, Model, installed
from peers import Phone, Relay, Rogue

import avault

pytestmark = pytest.mark.usefixtures("forks")

sys.path.append(str(SOURCE.parent / "scripts"))


@pytest.fixture
def proven(machine: Machine, rogue: Rogue, canary: Canary) -> Machine:
    """A machine with a secret, whose phone has shown that it opens the vault; no daemon runs."""
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=rogue.uri)
    machine("set", "lab/API_KEY", input=canary.value)
    machine("daemon", "stop")
    return machine


def ask(machine: Machine, ids: object, *words: str, code: int = 0, secret: bool = False, **fields: Any) -> Any:
    """What the provider answers to a request for these ids."""
    request = {"protocolVersion": 1, "provider": "avault", "ids": ids, **fields}
    done = machine("openclaw-provider", *words, input=json.dumps(request) + "\n", code=code, secret=secret)
    return done.json if code == 0 else done


def asked(rogue: Rogue) -> int:
    """How often the phone rang."""
    return len({each["event_id"] for each in rogue.requests("nip44_decrypt")})


# The contract, docs/gateway/secrets of OpenClaw


@pytest.fixture
def vault(machine: Machine, canary: Canary) -> Machine:
    machine.init_unproven()
    machine("set", "lab/API_KEY", input=canary.value)
    return machine


def test_values_and_errors_by_id(vault: Machine, canary: Canary) -> None:
    for name, value in {"a.b/X": "short", "Z-9/_": canary.odd, "long/V": canary.long}.items():
        vault("set", name, input=value)
    for command in ([AVAULT], [str(SOURCE)]):
        vault.command = command
        answer = ask(vault, ["a.b/X", "Z-9/_", "long/V", "lab/API_KEY", "lab/OTHER", "none/X", "lab", "a:b#c"], secret=True)
        assert answer == {
            "protocolVersion": 1,
            "values": {"a.b/X": "short", "Z-9/_": canary.odd, "long/V": canary.long, "lab/API_KEY": canary.value},
            "errors": {name: {"code": "NOT_FOUND"} for name in ("lab/OTHER", "none/X", "lab", "a:b#c")},
        }
    vault.command = [AVAULT]


def test_all_that_one_request_may_ask(vault: Machine, canary: Canary) -> None:
    """512 ids, in one batch (maxProviderRefs of OpenClaw's contract)."""
    content = {"many": {f"K{number}": canary.new(str(number)) for number in range(500)}}
    vault("import", "-", "--format", "json", input=json.dumps(content))
    ids = [f"many/K{number}" for number in range(512)]
    answer = ask(vault, ids, secret=True)
    assert answer["values"] == {f"many/{key}": value for key, value in content["many"].items()}
    assert sorted(answer["errors"]) == sorted(ids[500:])
    assert ask(vault, []) == {"protocolVersion": 1, "values": {}, "errors": {}}


BAD = {
    "nothing": "",
    "text": "hello\n",
    "half": '{"protocolVersion": 1, "ids": ["a/',
    "a list": "[]",
    "a number": "1",
    "no version": '{"ids": ["a/B"]}',
    "another version": '{"protocolVersion": 2, "ids": ["a/B"]}',
    "no ids": '{"protocolVersion": 1}',
    "ids is text": '{"protocolVersion": 1, "ids": "a/B"}',
    "ids is a number": '{"protocolVersion": 1, "ids": 1}',
    "ids is an object": '{"protocolVersion": 1, "ids": {"a/B": 1}}',
    "an id is a number": '{"protocolVersion": 1, "ids": [1]}',
    "an id is null": '{"protocolVersion": 1, "ids": [null]}',
    "deep": "[" * 100_000,
    "no UTF-8": b'{"protocolVersion": 1, "ids": ["\xff"]}',
}


@pytest.mark.parametrize("state", ["open", "stopped"])
def test_what_is_no_request_fails_as_a_whole(vault: Machine, state: str) -> None:
    """A provider's exit code other than 0 fails its batch, whatever is on stdout; here that is nothing."""
    if state == "stopped":
        vault("daemon", "stop", "--force")
    for name, text in BAD.items():
        done = vault("openclaw-provider", input=text, code=2)
        assert not done.stdout, name
        assert "not a request of OpenClaw's exec secret provider" in done.stderr


def test_without_a_prompt_a_locked_vault_is_told_by_the_exit_code_at_once(proven: Machine, rogue: Rogue) -> None:
    """Which OpenClaw names once; an error for each id it names for each of their owners."""
    for words in (["--no-prompt"], ["--wait", "0"], ["--no-prompt", "--wait", "60"]):
        assert ask(proven, ["lab/API_KEY", "b/C"], *words, code=6).stdout == ""
    assert proven.status()["state"] == "stopped", "it starts no daemon either"
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    proven("lock")
    before = asked(rogue)
    assert ask(proven, ["lab/API_KEY"], "--no-prompt", code=3).stdout == ""
    assert asked(rogue) == before


def test_where_there_is_no_vault(machine: Machine) -> None:
    assert ask(machine, ["a/B"], "--wait", "5", code=4).stdout == ""


UNPAIRED = "the vault is locked, and this machine is not paired with a signer"


def test_a_machine_that_is_not_paired(vault: Machine) -> None:
    vault("daemon", "stop", "--force")
    assert UNPAIRED in ask(vault, ["lab/API_KEY"], "--wait", "5", code=3).stderr


# Asking the phone


@pytest.mark.slow
def test_it_asks_the_phone_and_answers(proven: Machine, rogue: Rogue, canary: Canary) -> None:
    assert ask(proven, ["lab/API_KEY"], secret=True)["values"] == {"lab/API_KEY": canary.value}
    assert proven.status()["state"] == "unlocked"
    assert asked(rogue) == 2, "at init, and now"
    proven("lock")
    bare = os.path.realpath(sys.executable)  # without click: it goes on under the interpreter that has it, request and all
    proven.command = [bare, "-S", str(SOURCE)]
    assert ask(proven, ["lab/API_KEY"], secret=True)["values"] == {"lab/API_KEY": canary.value}
    proven.command = [AVAULT]


def provide(machine: Machine, *words: str) -> Any:
    """A provider that runs."""
    return machine.start("openclaw-provider", *words, input='{"protocolVersion":1,"provider":"a","ids":["lab/API_KEY"]}')


def test_many_at_once_ask_once(proven: Machine, rogue: Rogue, canary: Canary) -> None:
    """With `avault unlock` among them; those who come while the phone rings wait for its answer."""
    before = asked(rogue)
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    running = [provide(proven) for _ in range(4)]
    wait_until(lambda: asked(rogue) == before + 1, 60, "the request")
    running += [proven.start("unlock"), provide(proven)]
    running[4].line("avault: asking the phone")
    rogue.go()
    for each in running:
        assert each.process.wait(60) == 0
        each.threads[0].join()
    answers = [json.loads(each.stdout[0]) for each in (*running[:4], running[5])]
    assert all(answer["values"] == {"lab/API_KEY": canary.value} for answer in answers)
    assert asked(rogue) == before + 1


def test_after_a_refusal_it_pauses(proven: Machine, rogue: Rogue) -> None:
    before = asked(rogue)
    rogue.behave("nip44_decrypt", [{"say": {"result": "", "error": "user rejected"}}])
    ask(proven, ["lab/API_KEY"], code=5)
    assert asked(rogue) == before + 1
    for start in ("the same daemon", "another"):
        said = ask(proven, ["lab/API_KEY"], code=5).stderr
        assert "the operator refused at" in said and "left alone" in said, start
        proven("daemon", "stop")
    assert asked(rogue) == before + 1
    rogue.behave("nip44_decrypt", [{"honest": True}])
    proven("unlock")  # of the operator's own: at once
    proven("lock")
    assert ask(proven, ["lab/API_KEY"], secret=True)["values"], "an unlock, whoever asked for it, ends the pause"
    assert not (proven.own / "pauses.json").exists()


def test_a_provider_that_is_killed_has_asked(proven: Machine, rogue: Rogue, canary: Canary) -> None:
    """As by a gateway that is restarted over and over: the question stays with the daemon, and is the next one's."""
    before = asked(rogue)
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    killed = provide(proven)
    wait_until(lambda: asked(rogue) == before + 1, 60, "the request")  # not the one of `init`, which is among those seen
    killed.kill()
    next_one = provide(proven)
    assert proven.status()["state"] == "waiting"
    rogue.go()
    assert next_one.process.wait(60) == 0
    next_one.threads[0].join()
    assert json.loads(next_one.stdout[0])["values"] == {"lab/API_KEY": canary.value}
    assert asked(rogue) == before + 1


@pytest.mark.slow
def test_an_answer_after_the_provider_has_gone(proven: Machine, rogue: Rogue, canary: Canary) -> None:
    """OpenClaw gives it two minutes, and the operator needs three."""
    rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    ask(proven, ["lab/API_KEY"], "--wait", "2", code=7)
    assert proven.status()["state"] == "waiting"
    rogue.go()
    proven.wait_state("unlocked")
    assert ask(proven, ["lab/API_KEY"], secret=True)["values"] == {"lab/API_KEY": canary.value}


def test_nobody_answers(proven: Machine, rogue: Rogue) -> None:
    rogue.behave("nip44_decrypt", [])
    ask(proven, ["lab/API_KEY"], "--wait", "2", code=7)


def test_the_hook_waits_for_the_end_of_a_pause(proven: Machine, rogue: Rogue) -> None:
    """Where nobody had answered; where somebody had refused, it asks nobody."""
    before = asked(rogue)
    path = proven.own / "pauses.json"
    pause = {"in_vain": 2, "refused": False, "last": int(time.time())}
    path.write_bytes(avault.encode_file("pauses", pause))
    done = proven("openclaw", "unlock", "--timeout", "1", code=7)
    assert "nobody had answered by" in done.stderr
    waiting = proven.start("openclaw", "unlock", "--timeout", "60")
    waiting.line("avault: nobody had answered by")
    path.write_bytes(avault.encode_file("pauses", {**pause, "refused": True}))
    done = proven("openclaw", "unlock", "--timeout", "60", code=5)
    assert "the operator refused at" in done.stderr and "programs may ask again at" in done.stderr
    assert asked(rogue) == before
    proven("unlock")
    assert waiting.wait().returncode == 0, "somebody else had it opened meanwhile"


# The command that OpenClaw executes


def test_what_openclaw_refuses_to_execute(place: Any) -> None:
    path = place.top / "program"
    path.write_text("#!/bin/sh\n")
    assert avault.refusal(str(path)) == "it is not executable"
    path.chmod(0o755)
    assert avault.refusal(str(path)) is None
    for mode in (0o775, 0o757):
        path.chmod(mode)
        assert avault.refusal(str(path)) == "others can write to it"
    path.chmod(0o755)
    (place.top / "link").symlink_to(path)
    assert avault.refusal(str(place.top / "link")) == "it is a symlink"
    assert avault.refusal(str(place.top)) == "it is not a regular file"
    assert avault.refusal(str(place.top / "none")) == "No such file or directory"
    assert avault.refusal("program") == "the path is not absolute"


@pytest.mark.root
def test_a_command_of_root_is_not_ours(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.top / "program"
    path.touch(0o755)
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    assert avault.refusal(str(path)) == "it belongs to another user"


@pytest.mark.slow
def test_the_launcher_needs_no_path(proven: Machine, canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory with blanks and quotes, under the environment that OpenClaw gives."""
    base = proven.top / 'it\'s a "home"'
    monkeypatch.setenv("XDG_DATA_HOME", str(base))
    monkeypatch.setattr("sys.argv", ["pytest"])
    path = avault.find_command(writing=True)
    assert path == str(base / "avault" / "avault")
    before = os.stat(path)
    assert avault.find_command(writing=True) == path
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    env = {name: proven.env[name] for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")}
    request = b'{"protocolVersion":1,"provider":"avault","ids":["lab/API_KEY"]}\n'
    for _ in ("locked", "open"):
        done = subprocess.run([path, "openclaw-provider"], env=env, cwd="/", input=request, capture_output=True)
        assert json.loads(done.stdout)["values"] == {"lab/API_KEY": canary.value}


# Reading what OpenClaw writes


def test_json5() -> None:
    """The example of json5.org, and what else its specification has."""
    text = """\ufeff// comments
    {
      unquoted: 'and you can quote me on that', singleQuotes: 'I can use "double quotes" here',
      lineBreaks: "Look, Mom! \\\nNo \\\\n's!", /* more
      than a line */ hexadecimal: 0xdecaf, leadingDecimalPoint: .8675309, andTrailing: 8675309., positiveSign: +1,
      trailingComma: 'in objects', andIn: ['arrays',], "backwardsCompatible": "with JSON",
      $key_1: '\\x41\\u00e9\\v\\'\\0', "https://a": "//no /*comment*/", nan: NaN, yes: true, no: null, number: -1.5e3,
      pair: "\\ud83e\\udd84", true: [[], {}, [{},],],
    }"""
    assert avault.read_json5(text.removeprefix("\ufeff")) == {
        "unquoted": "and you can quote me on that",
        "singleQuotes": 'I can use "double quotes" here',
        "lineBreaks": "Look, Mom! No \\n's!",
        "hexadecimal": None,
        "leadingDecimalPoint": None,
        "andTrailing": None,
        "positiveSign": None,
        "trailingComma": "in objects",
        "andIn": ["arrays"],
        "backwardsCompatible": "with JSON",
        "$key_1": "Aé\v'\0",
        "https://a": "//no /*comment*/",
        "nan": None,
        "yes": True,
        "no": None,
        "number": -1500.0,
        "pair": "🦄",
        "true": [[], {}, [{}]],
    }
    for bad in ("", "[]", "{", '{"a" 1}', "{a: 'x}", "{a: 1,, b: 2}", "{]", "}", "{a: {}", "[" * 100_000):
        with pytest.raises(avault.AvaultError, match=r"openclaw\.json cannot be read"):
            avault.read_json5(bad)


@pytest.mark.parametrize(
    ("path", "form", "name"),
    [
        ("models.providers.openai.apiKey", "models.providers.*.apiKey", "openai/API_KEY"),
        ('models.providers["my.lab"].headers["x-api-key"]', "models.providers.*.headers.*", "my.lab/HEADERS_X_API_KEY"),
        ("models.providers.a.request.proxy.tls.key", "models.providers.*.request.proxy.tls.key", "a/REQUEST_PROXY_TLS_KEY"),
        ("skills.entries.weather.apiKey", "skills.entries.*.apiKey", "weather/API_KEY"),
        ("channels.telegram.botToken", "channels.telegram.botToken", "telegram/BOT_TOKEN"),
        ("channels.irc.accounts.me.nickserv.password", "channels.irc.accounts.*.nickserv.password", "irc/ME_NICKSERV_PASSWORD"),
        (
            "plugins.entries.brave.config.webSearch.apiKey",
            "plugins.entries.brave.config.webSearch.apiKey",
            "brave/WEB_SEARCH_API_KEY",
        ),
        ("agents.entries.ops.tts.providers.x.apiKey", "agents.entries.*.tts.providers.*.apiKey", "ops/TTS_X_API_KEY"),
        ("cron.webhookToken", "cron.webhookToken", "cron/WEBHOOK_TOKEN"),
        ("gateway.remote.token", "gateway.remote.token", "gateway/REMOTE_TOKEN"),
    ],
)
def test_paths_and_names(path: str, form: str, name: str) -> None:
    segments = avault.parse_path(path)
    assert avault.target_type(segments) == form
    (group, key), (spare, other) = avault.names_for(segments)
    assert f"{group}/{key}" == name
    assert avault.check_group(spare) == "openclaw"
    assert avault.check_key(other)


# With the real program


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as model:
        yield model


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_plaintext_to_a_gateway_that_asks_the_phone(
    machine: Machine, relay: Relay, phone: Phone, model: Model, canary: Canary
) -> None:
    """The operator's whole way, on one gateway, as each start of OpenClaw takes seconds."""
    machine.init(relay.url, phone=phone)
    claw = Claw(machine, model, itself=True)
    key, skill = canary.new("model-key"), canary.new("skill-key")
    claw.write(
        lab={"apiKey": key}, skills={"entries": {"weather": {"apiKey": skill}}}, gateway={"auth": {"token": "token-in-clear"}}
    )

    # a dry run changes nothing
    before = claw.config.read_bytes()
    done = machine("openclaw", "plan", "--dry-run")
    assert done.stdout == "models.providers.lab.apiKey -> lab/API_KEY\nskills.entries.weather.apiKey -> weather/API_KEY\n"
    assert "avault: left gateway.auth.token: the gateway's own" in done.stderr
    assert claw.config.read_bytes() == before
    assert machine("list", "--names").stdout == ""
    claw.quicken()

    # values into the vault, references into openclaw.json
    done = machine("openclaw", "plan", "--apply", "--json")
    assert done.json["applied"]
    assert done.json["new"] == ["lab/API_KEY", "weather/API_KEY"]
    assert machine("get", "lab/API_KEY", secret=True).stdout == key + "\n"
    settings = claw.read()
    ref = {"source": "exec", "provider": "avault", "id": "lab/API_KEY"}
    assert settings["models"]["providers"]["lab"]["apiKey"] == ref
    assert settings["gateway"]["auth"]["token"] == "token-in-clear"
    copies = [str(path) for path in claw.state.glob("openclaw.json.*") if key in path.read_text()]
    for path in copies:
        assert path in done.stderr
        Path(path).unlink()
    assert "PLAINTEXT_FOUND gateway.auth.token" in done.stderr

    # the gateway's token as the hint says; then OpenClaw finds nothing more
    claw("secrets", "store", "set", "OPENCLAW_GATEWAY_TOKEN", input="token-in-clear")
    settings["gateway"]["auth"]["token"] = {"source": "store", "provider": "default", "id": "OPENCLAW_GATEWAY_TOKEN"}
    claw.config.write_text(json.dumps(settings))
    assert claw("secrets", "audit", "--check", "--allow-exec", "--json").json["status"] == "clean"

    # twice changes nothing
    before = claw.config.read_bytes()
    again = machine("openclaw", "plan", "--apply", "--json")
    assert (again.json["applied"], again.json["new"], again.json["targets"], again.json["left"]) == (False, [], [], [])
    assert machine("openclaw", "install", "--json").json["changed"]
    assert not machine("openclaw", "install", "--json").json["changed"]
    assert machine("openclaw", "status", "--json").json["hook"] == "installed"
    assert not [path for path in (claw.state / "hooks").rglob("*") if path.is_symlink()]

    # it starts locked; the operator refuses: it is up, without the key
    machine("daemon", "stop")
    phone.policy("ask")
    with claw.gateway() as gateway:
        phone.answer(phone.wait_for("ask", timeout=120)["id"], False)
        gateway.wait_for("[SECRETS_PROVIDER_DEGRADED] exec:avault: ")
        gateway.wait_for("[avault-unlock] the vault stays locked, as the operator refused")
        assert "[SECRETS_DEGRADED]" not in gateway.log, "once, with all whom it concerns"
        claw.say("hello", code=1)
        assert not model.calls
        assert gateway.is_up()

        # the operator opens the vault, and the hook has the secrets reloaded
        unlocking = machine.start("unlock")
        phone.answer(phone.wait_for("ask", timeout=60)["id"], True)
        assert unlocking.wait().returncode == 0
        gateway.wait_for("[avault-unlock] the vault is open; secrets reloaded")
        claw.chat("hello")
        wait_until(lambda: "PATH=" in model.shown(), 120, "what `env` has printed")
        assert {authorization for authorization, _ in model.calls} == {f"Bearer {key}"}
        assert "avault: the vault is open; secrets reloaded" in json.dumps(model.calls[0][1]), "the agent was told"
        assert canary.mark not in model.shown()
        assert canary.mark not in gateway.log
        assert gateway.is_up()
    assert claw("secrets", "audit", "--check", "--allow-exec", "--json").json["status"] == "clean"

    # and away again
    machine("openclaw", "uninstall")
    assert "hooks" not in claw.read()
    assert "nothing to do" in machine("openclaw", "uninstall").stderr
    assert not (claw.state / "hooks" / "avault-unlock").exists()


def install_quietly(machine: Machine, claw: Claw) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Install the hook: avault's command, a provider that never asks, and settings that refer to lab/API_KEY.

    What OpenClaw itself does for it is seen above, and takes ten seconds; here the settings are such as it has written them.
    """
    claw.answer("hooks list --json", json.dumps({"managedHooksDir": str(claw.state / "hooks")}))
    claw.write(hooks={"internal": {"enabled": True, "entries": {"avault-unlock": {"enabled": True}}}})
    command = machine("openclaw", "install", "--json").json["command"]
    provider = avault.describe_provider(avault.Places(str(machine.vault)), command)
    provider = {**provider, "args": ["openclaw-provider", "--no-prompt"], "env": {"XDG_STATE_HOME": str(machine.state)}}
    settings = avault.read_json5(claw.config.read_text())
    settings["models"]["providers"]["lab"]["apiKey"] = {"source": "exec", "provider": "avault", "id": "lab/API_KEY"}
    return command, provider, settings


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_how_the_hook_ends_when_the_vault_stays_locked(
    machine: Machine, relay: Relay, phone: Phone, model: Model, canary: Canary
) -> None:
    """Refused, and unanswered; the provider does not ask here (--no-prompt), so that the hook is the first who does."""
    machine.init(relay.url, phone=phone)
    machine("set", "lab/API_KEY", input=canary.value)
    claw = Claw(machine, model)
    command, provider, settings = install_quietly(machine, claw)
    claw.config.write_text(json.dumps({**settings, "secrets": {"providers": {"avault": provider}}}))
    machine("daemon", "stop")
    phone.policy("ask")
    closing = "; what needs a secret stays cold; open it with: avault unlock"

    with claw.gateway() as gateway:
        gateway.wait_for("[SECRETS_PROVIDER_DEGRADED] exec:avault: ")
        question = phone.wait_for("ask", timeout=180)["id"]
        gateway.wait_for("[avault-unlock] waits for the operator's approval on the phone")
        phone.answer(question, False)
        gateway.wait_for(f"[avault-unlock] the vault stays locked, as the operator refused{closing}")
        assert gateway.is_up()
    assert "not told to the agent" not in gateway.log and canary.mark not in gateway.log

    (machine.own / "pauses.json").unlink()  # else it asks nobody before the end of the pause
    told = claw.state / "hooks" / "avault-unlock" / "avault.json"
    impatient = machine.top / "bin" / "impatient"
    words = f'#!/bin/sh\n[ "$1" = wait ] || set -- openclaw unlock --timeout 10\nexec {shlex.quote(command)} "$@"\n'
    impatient.write_text(words)
    impatient.chmod(0o755)
    told.write_text(json.dumps({**json.loads(told.read_text()), "command": [str(impatient)]}))
    with claw.gateway() as gateway:
        phone.wait_for("ask", timeout=180)
        gateway.wait_for(f"[avault-unlock] the vault stays locked, as nobody approved in time{closing}")
        assert gateway.is_up()
    assert machine.status()["state"] == "waiting", "the question stays, and an answer may come yet"
    assert not model.calls


@pytest.fixture
def claw(machine: Machine, model: Model) -> Claw:
    """OpenClaw beside an open vault."""
    machine.init_proven()
    return Claw(machine, model)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_auth_profiles(claw: Claw, machine: Machine, canary: Canary) -> None:
    """The key of a provider moves out of the store that all agents share; several keys of one provider stay there."""
    claw.write()
    key, others = canary.new("lab"), [canary.new("one"), canary.new("two")]
    claw("models", "auth", "paste-api-key", "--provider", "lab", input=key + "\n")
    for number, other in enumerate(others):
        claw("models", "auth", "paste-api-key", "--provider", "rest", "--profile-id", f"rest:{number}", input=other + "\n")
    before, profiles = claw.read(), shared_profiles(claw)
    done = machine("openclaw", "plan", "--apply", "--json")
    assert [each["id"] for each in done.json["targets"]] == ["lab/API_KEY"]
    assert [each["path"] for each in done.json["left"]] == ["profiles.rest:0.key", "profiles.rest:1.key"]
    assert machine("list", "--names").stdout == "lab/API_KEY\n"
    left = [each["jsonPath"] for each in claw("secrets", "audit", "--json").json["findings"] if each["code"] == "PLAINTEXT_FOUND"]
    assert left == ["profiles.rest:0.key", "profiles.rest:1.key"]
    assert set(shared_profiles(claw)) == {"rest:0", "rest:1"} == set(claw.read()["auth"]["profiles"])
    assert "missing_credential" not in claw("doctor", "--non-interactive").stdout

    # the way back: the profile is where it was, and so are its settings
    machine("openclaw", "plan", "--undo", "--yes")
    assert shared_profiles(claw) == profiles
    assert without_meta(claw.read()) == without_meta(before)
    for path in claw.state.glob("openclaw.json.*"):
        path.unlink()
    shutil.rmtree(claw.state)  # it has the others


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_plan_that_fails_changes_nothing(claw: Claw, machine: Machine, canary: Canary) -> None:
    """OpenClaw is made to refuse it, by being given another plan. What the vault has is never replaced."""
    claw.write(lab={"apiKey": canary.value}, skills={"entries": {"weather": {"apiKey": canary.new("weather")}}})
    machine("set", "lab/API_KEY", input=canary.new("another"))
    before = claw.config.read_bytes()
    swap = '[ "$2" != apply ] || set -- secrets apply --from /dev/null\nexec '
    claw.command.write_text(claw.command.read_text().replace("exec ", swap, 1))
    done = machine("openclaw", "plan", "--apply", code=1)
    assert "openclaw secrets apply failed" in done.stderr
    assert "openclaw.json is as it was, and the vault has the values" in done.stderr
    assert claw.config.read_bytes() == before
    names = machine("list", "--names").stdout
    assert names == "lab/API_KEY\nopenclaw/MODELS_PROVIDERS_LAB_API_KEY\nweather/API_KEY\n"
    machine("delete", "openclaw/MODELS_PROVIDERS_LAB_API_KEY")
    machine("set", "openclaw/MODELS_PROVIDERS_LAB_API_KEY", input=canary.new("third"))
    assert "in the vault with another value: openclaw/MODELS" in machine("openclaw", "plan", code=5).stderr
    claw.config.unlink()  # it has the values


def shared_profiles(claw: Claw) -> dict[str, Any]:
    """The auth profiles of the store that all agents share."""
    with avault.open_sqlite(str(claw.state / "state" / "openclaw.sqlite")) as db:
        return dict(avault.read_store(db)[0]["profiles"])


def stored_profiles(claw: Claw, agent: str) -> dict[str, Any]:
    """The auth profiles of an agent's own store."""
    path = claw.state / "agents" / agent / "agent" / "openclaw-agent.sqlite"
    assert path.stat().st_mode & 0o777 == 0o600
    with avault.open_sqlite(str(path)) as db:
        return dict(avault.read_store(db)[0]["profiles"])


def without_meta(settings: dict[str, Any]) -> dict[str, Any]:
    """openclaw.json without OpenClaw's own notes on who wrote it."""
    return {name: part for name, part in settings.items() if name != "meta"}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_undo(claw: Claw, machine: Machine, canary: Canary) -> None:
    """There and back: openclaw.json and an agent's own profiles mean what they meant before, and OpenClaw takes them."""
    claw.write(
        lab={"apiKey": canary.value, "headers": {"x-api-key": canary.new("header")}},
        skills={"entries": {"weather": {"apiKey": canary.new("weather")}}},
        agents={"defaults": {"model": {"primary": "lab/m"}}, "entries": {"ops": {}}},
        secrets={"providers": {"other": {"source": "env"}}},
    )
    paste = ["models", "auth", "--agent", "ops", "paste-api-key", "--provider", "rest", "--profile-id", "rest:ops"]
    claw(*paste, input=canary.new("profile") + "\n")
    before, profiles = claw.read(), stored_profiles(claw, "ops")
    done = machine("openclaw", "plan", "--apply", "--json")
    moved = {each["id"]: each["path"] for each in done.json["targets"]}
    assert set(moved) == {"lab/API_KEY", "lab/HEADERS_X_API_KEY", "weather/API_KEY", "rest/API_KEY"}
    assert stored_profiles(claw, "ops")["rest:ops"]["keyRef"]["id"] == "rest/API_KEY"
    applied = claw.read()
    assert set(applied["secrets"]["providers"]) == {"other", "avault"}

    # nothing without a yes, and nothing from a vault that is not open
    looked = machine("openclaw", "plan", "--undo", "--dry-run")
    assert len(looked.stdout.splitlines()) == 4 and "weather/API_KEY -> skills.entries.weather.apiKey" in looked.stdout
    refused = machine("openclaw", "plan", "--undo", code=5)
    assert "4 values will stand IN CLEAR on the disk again" in refused.stderr and "--undo --yes" in refused.stderr
    machine("openclaw", "plan", "--undo", "--apply", code=2)
    machine("set", "weather/ANOTHER", input="x")
    ref = {"source": "exec", "provider": "avault", "id": "weather/NONE"}
    claw.config.write_text(json.dumps({**applied, "talk": {"providers": {"x": {"apiKey": ref}}}}))
    assert "no key weather/NONE" in machine("openclaw", "plan", "--undo", "--yes", code=4).stderr
    claw.config.write_text(json.dumps(applied))

    # OpenClaw is made to fail: references and provider are as they were
    command = claw.command.read_text()
    claw.command.write_text(command.replace("exec ", '[ "$2" != patch ] || set -- config patch --file /dev/null\nexec ', 1))
    failed = machine("openclaw", "plan", "--undo", "--yes", code=1)
    assert "openclaw config patch failed" in failed.stderr and "openclaw.json is as it was" in failed.stderr
    assert claw.read() == applied
    claw.command.write_text(command)

    done = machine("openclaw", "plan", "--undo", "--yes", "--json")
    assert done.json["applied"] and done.json["provider"] and not done.json["left"]
    assert {each["id"] for each in done.json["restored"]} == set(moved) - {"rest/API_KEY"}, "that one is back already"
    assert without_meta(claw.read()) == without_meta(before)
    assert claw.config.stat().st_mode & 0o777 == 0o600
    assert stored_profiles(claw, "ops") == profiles
    claw("config", "validate")
    found = {each["jsonPath"] for each in claw("secrets", "audit", "--json").json["findings"]}
    assert found == set(moved.values())

    # twice changes nothing; what was released stands in the log, and is still in the vault
    as_it_is = claw.config.read_bytes()
    again = machine("openclaw", "plan", "--undo", "--json")
    assert (again.json["applied"], again.json["restored"]) == (False, []) and "nothing to do" in again.stderr
    assert claw.config.read_bytes() == as_it_is
    assert set(moved) <= set(machine("list", "--names").stdout.splitlines())
    released = [each for each in map(json.loads, machine("log", "--json").stdout.splitlines()) if each.get("for") == "openclaw"]
    assert len(released) >= 3, "read back by the plan, and twice by undo"
    machine("lock")
    machine("openclaw", "plan", "--undo", "--yes", code=3)
    shutil.rmtree(claw.state)  # it has the values


def test_what_of_the_variables_is_a_secret() -> None:
    """By name or by form; a reference to another variable, a switch and an address are none."""
    token = "ghp_" + "a1B2" * 9
    servers = {
        "my server!": {"command": "x", "env": {"GITHUB_TOKEN": token, "LOG_LEVEL": "info", "OTHER": "${GITHUB_TOKEN}"}},
        "none": {"command": "x"},
        "odd": "text",
    }
    config = {"env": {"API_KEY": "sk-123456", "vars": {"DB_PASSWORD": "of the db", "MODE": "x"}}, "mcp": {"servers": servers}}
    found = {each.path: (each.name, each.server) for each in avault.find_variables(config)}
    assert found == {
        "env.API_KEY": (("openclaw", "API_KEY"), ""),
        "env.vars.DB_PASSWORD": (("openclaw", "DB_PASSWORD"), ""),
        "mcp.servers.my server!.env.GITHUB_TOKEN": (("my-server-", "GITHUB_TOKEN"), "my server!"),
    }
    assert not avault.find_variables({}) and not avault.find_variables({"env": [], "mcp": {"servers": None}})
    assert token not in repr(avault.find_variables(config))


def test_chats_that_work_without_the_vault(vault: Machine) -> None:
    token = {"source": "exec", "provider": "avault", "id": "discord/TOKEN"}
    channels = {
        "discord": {"accounts": {"x": {"token": {**token, "provider": "other"}}}},
        "slack": {"accounts": {"x": {"token": token}}},
        "telegram": {"botToken": "of its own"},
        "irc": {"password": {"source": "exec", "id": "irc/PASSWORD"}},
    }
    owners = ["slack:U1", "telegram:4242", "irc:me", "discord:user:7", "signal:+49", "nonsense", 7]
    config = {"commands": {"ownerAllowFrom": owners}, "channels": channels, "secrets": {"defaults": {"exec": "avault"}}}
    file = vault.top / "openclaw.json"
    file.write_text("// mine\n" + json.dumps(config))
    assert vault("openclaw", "chats", "--config", str(file)).stdout == "telegram 4242\ndiscord user:7\n"
    chats = vault("openclaw", "chats", "--config", str(file), "--json").json["chats"]
    assert chats == [{"channel": "telegram", "target": "4242"}, {"channel": "discord", "target": "user:7"}]
    for content in ({}, {"commands": []}, {"commands": {"ownerAllowFrom": "telegram:1"}, "channels": []}):
        file.write_text(json.dumps(content))
        assert vault("openclaw", "chats", "--config", str(file)).stdout == ""


def test_free_pages_are_written_anew(place: Any, canary: Canary, capsys: pytest.CaptureFixture[str]) -> None:
    """What SQLite has deleted stays in its file until it is written anew; what is still stored is named."""
    file = place.top / "state.sqlite"
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [(canary.value,)] * 500)
        db.execute("INSERT INTO t VALUES ('stays')")
        db.commit()
        db.execute("DELETE FROM t WHERE x != 'stays'")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    assert avault.holds(str(file), [canary.value]), "the control"
    avault.clean_stores([str(file)], [canary.value])
    assert canary.mark.encode() not in file.read_bytes()
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT x FROM t").fetchall() == [("stays",)]
        db.execute("INSERT INTO t VALUES (?)", (canary.value,))
        db.commit()
        avault.clean_stores([str(file)], [canary.value])
        db.execute("DELETE FROM t")
        db.commit()
    db.close()
    assert "still stand in clear" in capsys.readouterr().err
    avault.clean_store(str(file))


def test_a_plan_of_an_unproven_vault(vault: Machine) -> None:
    """It takes nothing out of a file that may have the only copy; a dry run may look, and says so."""
    openclaw = vault.top / "bin" / "openclaw"
    openclaw.parent.mkdir(exist_ok=True)
    audit = '{"findings": [], "filesScanned": []}'
    openclaw.write_text(f'#!/bin/sh\n[ "$1" = config ] && echo "$HOME/none.json" || echo \'{audit}\'\n')
    openclaw.chmod(0o755)
    vault.env["PATH"] = f"{openclaw.parent}:{vault.env['PATH']}"
    for words in ([], ["--apply"]):
        assert "nobody has shown yet" in vault("openclaw", "plan", *words, code=5).stderr
    assert "nobody has shown yet" in vault("openclaw", "plan", "--dry-run").stderr
    assert "--apply --variables" in vault("openclaw", "plan", "--variables", code=2).stderr


@pytest.fixture
def telegram() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A Bot API on the loopback, and the messages that were sent through it. Nobody writes to the bot."""
    sent: list[dict[str, Any]] = []
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
            method = self.path.rpartition("/")[2]
            result: Any = True
            if method == "getMe":
                result = {"id": 1, "is_bot": True, "first_name": "bot", "username": "lab_bot"}
            elif method == "getUpdates":
                over.wait(25)  # a long poll, as Telegram has it
                result = []
            elif method == "sendMessage":
                sent.append(json.loads(data))
                result = {"message_id": 1, "date": 1, "chat": {"id": 4242, "type": "private"}, "text": "x"}
            answer = json.dumps({"ok": True, "result": result}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # whoever polled has gone
                self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        over.set()
        server.shutdown()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_operator_is_told_in_a_chat_that_works_without_the_vault(
    machine: Machine, relay: Relay, phone: Phone, model: Model, canary: Canary, telegram: tuple[str, list[dict[str, Any]]]
) -> None:
    """Two owners: the token of the first one's channel is in the vault, so the second hears of it, with the code."""
    machine.init(relay.url, phone=phone)
    machine("set", "lab/API_KEY", input=canary.value)
    machine("set", "discord/TOKEN", input=canary.new("discord"))
    claw = Claw(machine, model)
    del machine.env["OPENCLAW_SKIP_CHANNELS"]  # with it a gateway knows no channels, nor how to send through them
    _, provider, settings = install_quietly(machine, claw)
    url, sent = telegram
    settings |= {
        "secrets": {"providers": {"avault": provider}},
        "plugins": {"enabled": True, "allow": ["telegram"], "deny": ["discord"]},  # which would be fetched from npm
        "commands": {"ownerAllowFrom": ["discord:7", "telegram:4242"]},
        "channels": {
            "discord": {"token": {"source": "exec", "provider": "avault", "id": "discord/TOKEN"}},
            "telegram": {"botToken": "123456789:" + "A" * 35, "apiRoot": url, "enabled": True},
        },
    }
    claw.config.write_text(json.dumps(settings))
    machine("daemon", "stop")
    phone.policy("ask")
    with claw.gateway() as gateway:
        question = phone.wait_for("ask", timeout=240)["id"]
        gateway.wait_for("[avault-unlock] the operator was told in telegram")
        phone.answer(question, True)
        gateway.wait_for("[avault-unlock] the vault is open; secrets reloaded")
    [message] = sent
    assert str(message["chat_id"]) == "4242"
    assert re.search(r"asking the phone, code [0-9A-Z]{4}; open the signer app and approve there", message["text"])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_variables_run_under_avault(claw: Claw, machine: Machine, npx: Path, canary: Canary) -> None:
    """Where OpenClaw takes no references: listed, moved when asked, used by the server, and put back."""
    server = {"command": str(machine.top / "bin" / "npx"), "args": ["--offline", "-y", str(npx)], "env": {"LOG_LEVEL": "info"}}
    server["env"] |= {"GITHUB_TOKEN": canary.value, "XDG_STATE_HOME": str(machine.state)}
    claw.write(mcp={"servers": {"lab": server}}, env={"vars": {"OPENAI_API_KEY": canary.new("variable"), "MODE": "x"}})
    before = avault.read_json5(claw.config.read_text())
    paths = ["env.vars.OPENAI_API_KEY", "mcp.servers.lab.env.GITHUB_TOKEN"]
    looked = machine("openclaw", "plan", "--dry-run", "--json").json
    assert [each["path"] for each in looked["left"]] == paths and all("--variables" in each["reason"] for each in looked["left"])
    done = machine("openclaw", "plan", "--apply", "--variables", "--json")
    assert [each["id"] for each in done.json["targets"]] == ["openclaw/OPENAI_API_KEY", "lab/GITHUB_TOKEN"]
    after = claw.read()
    assert after["env"]["vars"] == {"MODE": "x"} and "GITHUB_TOKEN" not in after["mcp"]["servers"]["lab"]["env"]
    assert canary.mark not in claw.config.read_text()
    output = claw("mcp", "probe", "lab", "--json").stdout
    assert f"token_{hashlib.sha256(canary.value.encode()).hexdigest()[:16]}" in output
    machine("openclaw", "plan", "--undo", "--yes")
    assert without_meta(claw.read()) == without_meta(before)
    assert not (machine.own / "openclaw-moved.json").exists()
    shutil.rmtree(claw.state)  # it has the values


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_gateway_under_a_wrapper_fails_closed(claw: Claw, machine: Machine, canary: Canary) -> None:
    """As in references/openclaw.md. Started with a locked vault it waits; without one, OpenClaw is not started at all."""
    text = (SOURCE.parent / "references" / "openclaw.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("vars=$(avault export --shell --wait)"))
    wrapper = machine.top / "bin" / "openclaw-avault"
    wrapper.write_text(f"#!/bin/sh\n{line}\n")
    wrapper.chmod(0o755)
    machine("set", "lab/LAB_KEY", input=canary.value)
    claw.write(lab={"apiKey": {"source": "env", "provider": "default", "id": "LAB_KEY"}})
    words = [str(wrapper), "secrets", "audit", "--json"]
    done = subprocess.run(words, env=machine.env, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "clean")
    wrapper.write_text(wrapper.read_text().replace("--wait", "--wait --dir /nowhere", 1).replace(" --wait", "", 1))
    done = subprocess.run(words, env=machine.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_avault_py_itself_is_the_command(claw: Claw, machine: Machine, canary: Canary) -> None:
    """In the old place, scripts/, under a python3 without packages: an open vault takes the standard library alone."""
    old = machine.home / "clawd" / "skills" / "avault" / "scripts"
    old.mkdir(parents=True)
    program = Path(shutil.copy(SOURCE, old / "avault.py"))
    program.chmod(0o755)
    bare = machine.top / "bin" / "python3"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(os.path.realpath(sys.executable))} -S "$@"\n')
    bare.chmod(0o755)
    machine("set", "lab/API_KEY", input=canary.value)
    provider = avault.describe_provider(avault.Places(str(machine.vault)), str(program))
    ref = {"source": "exec", "provider": "avault", "id": "lab/API_KEY"}
    claw.write(
        lab={"apiKey": ref}, secrets={"providers": {"avault": {**provider, "env": {"XDG_STATE_HOME": str(machine.state)}}}}
    )
    assert claw("secrets", "audit", "--check", "--allow-exec", "--json").json["status"] == "clean"
    machine.command = [str(program)]
    assert machine("export", "--shell", secret=True).stdout.startswith("export API_KEY=")
    done = machine("run", "--only", "API_KEY", "--", "sh", "-c", 'echo "$API_KEY"')
    assert done.stdout == "<avault:lab/API_KEY>\n"
    machine.command = [AVAULT]


SERVER = """\
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { createHash } from "node:crypto";

const server = new McpServer({ name: "lab", version: "1" });
const digest = createHash("sha256").update(process.env.GITHUB_TOKEN ?? "").digest("hex").slice(0, 16);
server.tool(`token_${digest}`, async () => ({ content: [] }));
server.tool(`other_${process.env.OTHER === undefined ? "no" : "yes"}`, async () => ({ content: [] }));
server.tool(`pid_${process.pid}`, async () => ({ content: [] }));
await server.connect(new StdioServerTransport());
"""


@pytest.fixture
def package() -> Iterator[Path]:
    """A package with a program, beside OpenClaw's, as node looks for packages there."""
    package = installed().parent.parent / f"server-{os.getpid()}"
    package.mkdir()
    (package / "server.mjs").write_text("#!/usr/bin/env node\n" + SERVER)
    (package / "package.json").write_text('{"name": "lab-server", "version": "1.0.0", "bin": "server.mjs"}')
    yield package
    shutil.rmtree(package)


@pytest.fixture
def npx(claw: Claw, machine: Machine, package: Path) -> Path:
    """The package, and npx and node on the machine's PATH."""
    for name, words in (("node", peers.node()), ("npx", peers.npm("npx"))):
        program = machine.top / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
    return package


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_mcp_server_gets_its_token_from_avault_run(claw: Claw, machine: Machine, npx: Path, canary: Canary) -> None:
    """OpenClaw takes no references in mcp.servers.*.env; avault run gives the server what is named, and nothing else.

    As users write it, through npx; the package is a local one, and so is all that npx may fetch.
    """
    machine("set", "github/GITHUB_TOKEN", input=canary.value)
    machine("set", "more/OTHER", input=canary.new("other"))
    program = str(machine.top / "bin" / "npx")  # by its path, as node's own directory comes first, and PyPI's has a broken npx
    words = ["run", "--only", "GITHUB_TOKEN", "--", program, "--offline", "-y", str(npx)]
    env = {"XDG_STATE_HOME": str(machine.state)}  # little is inherited; at home the usual place is enough
    claw.write(mcp={"servers": {"lab": {"command": AVAULT, "args": words, "env": env}}})
    output = claw("mcp", "probe", "lab", "--json").stdout
    assert f"token_{hashlib.sha256(canary.value.encode()).hexdigest()[:16]}" in output
    assert "other_no" in output


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_mcp_server_starts_at_the_next_turn_after_an_unlock(
    machine: Machine, relay: Relay, phone: Phone, model: Model, canary: Canary, package: Path
) -> None:
    """In the session that has met it without its secret; a server that runs there stays the same process."""
    machine.init(relay.url, phone=phone)
    machine("set", "github/GITHUB_TOKEN", input=canary.value)
    claw = Claw(machine, model)
    _, _, settings = install_quietly(machine, claw)
    del settings["models"]["providers"]["lab"]["apiKey"]
    command, server = peers.node()[0], [*peers.node()[1:], str(package / "server.mjs")]
    words = ["run", "--only", "GITHUB_TOKEN", "--", command, *server]
    mine = {"command": AVAULT, "args": words, "env": {"XDG_STATE_HOME": str(machine.state)}}
    settings["mcp"] = {"servers": {"mine": mine, "open": {"command": command, "args": server}}}
    settings["tools"] = {"toolSearch": False}
    claw.config.write_text(json.dumps(settings))
    machine("daemon", "stop")
    phone.policy("ask")

    def tools(text: str) -> set[str]:
        """The tools of these servers that the model is offered in a turn."""
        claw.say(text)
        names = [each["function"]["name"] for each in model.calls[-1][1]["tools"]]
        return {name for name in names if name.startswith(("mine", "open"))}

    with claw.gateway() as gateway:
        question = phone.wait_for("ask", timeout=240)["id"]
        before = tools("first")
        assert before and not any(name.startswith("mine") for name in before)
        assert 'failed to start server "mine"' in gateway.log
        phone.answer(question, True)
        gateway.wait_for("[avault-unlock] the vault is open; secrets reloaded")
        after = tools("second")
        digest = hashlib.sha256(canary.value.encode()).hexdigest()[:16]
        assert f"mine__token_{digest}" in after
        assert before < after, "the other server was left alone"


@pytest.mark.slow
def test_a_tool_through_npx_is_masked(claw: Claw, machine: Machine, npx: Path, canary: Canary) -> None:
    """In the agent's own commands it is the same."""
    machine("set", "github/GITHUB_TOKEN", input=canary.value)
    (npx / "server.mjs").write_text(
        "#!/usr/bin/env node\nconsole.log(process.env.GITHUB_TOKEN, Object.keys(process.env).length)\n"
    )
    done = machine("run", "--only", "GITHUB_TOKEN", "--", "npx", "--offline", "-y", str(npx))
    assert done.stdout.startswith("<avault:github/GITHUB_TOKEN> ")


def test_types_of_targets() -> None:
    """Every path that OpenClaw lists as one that takes references has the type that OpenClaw gives it."""
    if not (peers.CACHE / f"openclaw-{VERSION}" / "installed").exists():
        pytest.skip("OpenClaw is not installed yet")
    matrix = json.loads((installed() / "docs/reference/secretref-user-supplied-credentials-matrix.json").read_text())
    paths = [entry["path"] for entry in matrix["entries"] if entry["configFile"] == "openclaw.json"]
    assert len(paths) > 90
    for path in paths:
        assert avault.target_type(avault.parse_path(path.replace("*", "name"))) == path
