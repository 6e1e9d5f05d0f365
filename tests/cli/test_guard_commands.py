"""`avault guard` and `unguard`, as people type them: what is refused, what the phone is asked, and what a day with it is like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nostr_sdk
import peers
import pytest
from canary import Canary
from git_helpers import git
from harness import AVAULT, Machine, Screen
from peers import Relay, Rogue, misdeeds
from test_custody import init_with_passphrase, type_passphrase

import avault

pytestmark = pytest.mark.usefixtures("forks")

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
REFUSED = misdeeds.REFUSALS["amber, clave"]


def prepare(machine: Machine, canary: Canary) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC)
    machine("set", "openai/API_KEY", input=canary.value)
    machine("set", "db/PASSWORD", input=canary.new("db"))


@pytest.fixture
def vault(lend: Callable[..., Machine], canary: Canary) -> Machine:
    """An open vault with two secrets; nobody can agree to anything."""
    return lend(prepare, canary)


def test_only_run(vault: Machine, canary: Canary) -> None:
    done = vault("guard", "openai/API_KEY", "--only", "run")
    assert "openai/API_KEY is guarded: only run" in done.stderr
    (vault.top / "t.json").write_text('{"key": "avault://openai/API_KEY"}')
    request = json.dumps({"protocolVersion": 1, "provider": "avault", "ids": ["openai/API_KEY"]})
    for words in (("get", "openai/API_KEY"), ("get", "openai"), ("export", "--only", "openai/API_KEY"),
                  ("export", "--group", "openai", "--shell"), ("inject", "-i", str(vault.top / "t.json")),
                  ("export", "--as", "X=openai/API_KEY")):  # fmt: skip
        refused = vault(*words, code=5)
        assert not refused.stdout and "openai/API_KEY is guarded: only run may use it" in refused.stderr
        assert "avault run --only openai/API_KEY -- CMD" in refused.stderr
    told = json.loads(vault("openclaw-provider", "--no-prompt", input=request).stdout)
    assert told["values"] == {} and told["errors"]["openai/API_KEY"]["code"] == "DENIED"
    exported = vault("export", "--format", "dotenv", secret=True)
    assert "API_KEY" not in exported.stdout and "PASSWORD=" in exported.stdout
    assert "warning: left out, as guarded: openai/API_KEY" in exported.stderr
    script = 'test -n "$API_KEY" && echo "it is $API_KEY"'
    for words in (("--only", "openai/API_KEY"), ()):
        ran = vault("run", *words, "--", "sh", "-c", script)
        assert ran.stdout == "it is <avault:openai/API_KEY>\n"
    (vault.top / "some.env").write_text("X=avault://openai/API_KEY\n")
    ran = vault("run", "--env-file", "some.env", "--", "sh", "-c", 'echo "$X"')
    assert ran.stdout == "<avault:openai/API_KEY>\n"


def test_what_run_cannot_use(vault: Machine) -> None:
    done = vault("guard", "db", "--host", "DB.example.com", "--method", "get", "--path", "/v1/*")
    assert "db is guarded: only proxy, to db.example.com, by GET, at /v1/*" in done.stderr
    for options in (["--no-mask"], []):
        refused = vault("run", "--group", "db", *options, "--", "true", code=5)
        assert "only proxy may use it" in refused.stderr and "--proxy --only db/PASSWORD -- CMD" in refused.stderr
        assert "left out, as guarded: db/PASSWORD" in vault("run", *options, "--", "true").stderr
    listed = vault("list", "--json").json["groups"][0]["keys"][0]
    assert listed["guard"] == {
        "words": "only proxy, to db.example.com, by GET, at /v1/*",
        "only": ["proxy"], "hosts": [["db.example.com"]], "methods": [["GET"]], "paths": [["/v1/*"]],
    }  # fmt: skip
    assert vault("list", "--json").json["groups"][1]["keys"][0]["guard"] is None
    assert "guarded: only proxy, to db.example.com" in vault("list").stdout
    vault("set", "db/LATER", input="value that comes later")
    assert "only proxy may use it" in vault("get", "db/LATER", code=5).stderr


def test_guards_are_shown(vault: Machine) -> None:
    assert "nothing is guarded" in vault("guard").stderr
    assert "openai/API_KEY is not guarded" in vault("guard", "openai/API_KEY").stderr
    vault("guard", "openai", "--only", "run", "--until", "2100-01-01T00:00:00Z")
    vault("guard", "db/PASSWORD", "--times", "2")
    shown = vault("guard").stdout
    assert "db/PASSWORD  2 more times" in shown and "openai       only run, until 2100-01-01T00:00:00Z" in shown
    assert (
        vault("guard", "openai/API_KEY").stdout.split()
        == "openai/API_KEY only run, until 2100-01-01T00:00:00Z (as openai is)".split()
    )
    assert vault("guard", "db", "--json").json["guards"] == [
        {"name": "db/PASSWORD", "words": "2 more times", "times": 2, "by": ["db/PASSWORD"]}
    ]
    assert "3 guard(s)" in vault("status").stdout and vault.status()["guards"] == 3
    assert "there is no db/OTHER in the vault yet" in vault("guard", "db/OTHER", "--only", "run").stderr


def test_times_are_not_begun_anew_by_a_lock_or_a_restart(vault: Machine) -> None:
    vault("guard", "db/PASSWORD", "--times", "3")
    vault("get", "db/PASSWORD", secret=True)
    vault("daemon", "stop", "--force")
    vault("daemon", "start", "-b", NOSTR_NSEC=NSEC)
    vault.wait_state("unlocked")
    vault("run", "--only", "db/PASSWORD", "--", "true")
    vault("guard", "db/PASSWORD", "--only", "run")
    assert "left out, as guarded: db/PASSWORD" in vault("run", "--", "true").stderr, "nobody named it: that uses nothing up"
    assert vault("guard", "db/PASSWORD", "--json").json["guards"][0]["times"] == 1
    vault("run", "--only", "db/PASSWORD", "--", "true")
    assert "has been used as often as it may be" in vault("run", "--only", "db/PASSWORD", "--", "true", code=5).stderr
    assert "left out, as guarded: db/PASSWORD" in vault("run", "--", "true").stderr


def test_scan_and_audit_say_what_they_do_not_look_for(vault: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    allow(vault.top / "leak").write_text(f"key={canary.value}\n")
    assert "leak:1" in vault("scan", str(vault.top / "leak"), code=1).stdout
    vault("guard", "openai/API_KEY", "--only", "run")
    done = vault("scan", str(vault.top / "leak"), "--json")
    assert "not looked for, as they are guarded: openai/API_KEY" in done.stderr and done.json["left_out"] == ["openai/API_KEY"]
    assert "not compared, as they are guarded" in vault("audit", "--file", str(vault.top / "leak"), code=None).stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("guard", "--only", "run"), "which secret?"),
        (("guard", "db", "--only", "get"), "no way to use a secret: get"),
        (("guard", "db", "--preset", "nothing"), "no such preset"),
        (("guard", "db", "--until", "yesterday"), "not a time"),
        (("guard", "db", "--until", "20301201"), "not a time"),
        (("guard", "db", "--until", "90"), "not a time"),
        (("guard", "db", "--until", "0001-01-01"), "not a time"),
        (("guard", "db", "--until", "2001-01-01"), "until is a time to come"),
        (("guard", "db", "--times", "0"), "--times takes a number from 1"),
        (("guard", "db", "--times", "9" * 5000), "--times takes a number from 1"),
        (("guard", "db", "--host", "http://a.com"), "not one of hosts"),
        (("guard", "db", "--only", "run", "--host", "a.com"), "are for the proxy"),
        (("guard", "a b", "--only", "run"), "not a group name"),
        (("unguard", "a b", "--yes"), "not a group name"),
    ],
    ids=lambda words: " ".join(words)[:40],
)  # fmt: skip
def test_what_is_no_guard(vault: Machine, words: tuple[str, ...], says: str) -> None:
    assert says in vault(*words, code=2).stderr


def test_presets(vault: Machine) -> None:
    shown = vault("guard", "--preset", "anthropic").stdout
    assert "api.anthropic.com" in shown and "x-api-key: KEY" in shown and "sk-ant-" in shown
    assert vault("guard", "--preset", "stripe", "--json").json["hosts"] == ["api.stripe.com", "files.stripe.com"]
    done = vault("guard", "openai", "--preset", "openai", "--method", "POST")
    assert "only proxy, to api.openai.com, by POST" in done.stderr
    assert len(avault.SERVICES) >= 20 and all(avault.check_rules({"hosts": [*each[0]]}, 0) for each in avault.SERVICES.values())


def test_what_git_has_brings_no_guard_back_to_what_it_was(vault: Machine, canary: Canary) -> None:
    git(vault, "init", "-q")
    vault("sync", code=None)
    git(vault, "add", "-A")
    git(vault, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "before", "--allow-empty")
    before = git(vault, "rev-parse", "HEAD").strip()
    vault("mv", "openai/API_KEY", "llm/KEY")
    vault("guard", "llm/KEY", "--only", "run")
    vault("restore", before, "openai/API_KEY")
    for name in ("openai/API_KEY", "llm/KEY"):
        assert "only run may use it" in vault("get", name, code=5).stderr
    assert "openai/API_KEY  only run (as llm/KEY is)" in vault("guard").stdout


# Less is agreed to by the operator


class Office:
    """A machine whose phone has opened its vault, with a secret that is guarded."""

    def __init__(self, machine: Machine, phone: Rogue, keys: nostr_sdk.Keys) -> None:
        self.machine, self.phone, self.keys = machine, phone, keys
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)

    def sentences(self) -> list[str]:
        asked = [request["params"] for request in self.phone.requests("nip44_decrypt")]
        secret = self.keys.secret_key()
        texts = [nostr_sdk.nip44_decrypt(secret, nostr_sdk.PublicKey.parse(peer), text) for peer, text in asked]
        return [str(json.loads(text)["content"]) for text in texts]


@pytest.fixture
def office(machine: Machine, relay: Relay, canary: Canary) -> Iterator[Office]:
    keys = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=keys.secret_key().to_bech32()) as phone:
        office = Office(machine, phone, keys)
        machine("set", "stripe/KEY", input=canary.value)
        machine("guard", "stripe/KEY", "--only", "run")
        yield office


def test_a_guard_is_taken_off_if_the_operator_agrees(office: Office, canary: Canary) -> None:
    machine, asked = office.machine, len(office.sentences())
    assert "not confirmed" in machine("unguard", "stripe/KEY", code=5).stderr
    assert len(office.sentences()) == asked, "nobody was asked yet"
    office.phone.behave("nip44_decrypt", REFUSED, requests=1)
    machine("unguard", "stripe/KEY", "--yes", code=5)
    assert "only run may use it" in machine("get", "stripe/KEY", code=5).stderr
    asked = len(office.sentences())
    assert "in a terminal, at once: avault unguard" in machine("unguard", "stripe/KEY", "--yes", code=5).stderr
    assert len(office.sentences()) == asked, "a program leaves the phone alone after that"
    with Screen(machine, AVAULT, "unguard", "stripe/KEY", "--yes", columns=200) as screen:
        done = screen.wait().decode()
    assert "stripe/KEY is not guarded any more" in done
    sentence = office.sentences()[-1]
    assert sentence.startswith(
        "avault: in test@machine, from now on stripe/KEY may be used by:"
        " anything, by any program here (until now: only run), code "
    )
    code = sentence.partition("code ")[2][:4]
    assert f"the phone is asked, code {code}" in done and sentence.endswith("Approve only if you want that.")
    assert machine("get", "stripe/KEY", secret=True).stdout == canary.value + "\n"
    assert "unguard" in machine("log").stdout
    machine("unguard", "stripe/KEY", "--yes", code=4)
    machine("lock")
    machine("unguard", "stripe/KEY", "--yes", code=3)
    machine("guard", "stripe/KEY", "--only", "run", code=3)


@pytest.mark.slow
def test_a_guard_is_weakened_if_the_operator_agrees(office: Office) -> None:
    machine = office.machine
    less = ("guard", "stripe/KEY", "--only", "run", "--only", "ssh")
    assert "that is less than the guard on stripe/KEY: only run" in machine(*less, code=5).stderr
    office.phone.behave("nip44_decrypt", REFUSED, requests=1)
    with Screen(machine, AVAULT, *less, "--yes") as screen:
        screen.wait(5)
    assert "stripe/KEY  only run\n" in machine("guard").stdout
    assert machine(*less, "--yes", "--json").json["guard"]["words"] == "only run or ssh"
    assert "from now on stripe/KEY may be used by: only run or ssh (until now: only run), code " in office.sentences()[-1]
    asked = len(office.sentences())
    machine("guard", "stripe/KEY", "--only", "run")
    assert len(office.sentences()) == asked, "stricter is free"


def test_a_guard_that_counts_by_another_name_is_named(office: Office, canary: Canary) -> None:
    machine = office.machine
    machine("guard", "stripe", "--times", "50")
    machine("unguard", "stripe/OTHER", "--yes", code=1)
    left = machine("unguard", "stripe/KEY", "--yes").stderr
    assert "stripe/KEY is still guarded, as stripe is: 50 more times" in left
    assert "from now on stripe/KEY may be used by: 50 more times (until now: only run, 50 more times)" in office.sentences()[-1]
    machine("unguard", "stripe", "--yes")
    assert "from now on all in stripe (1 now, and later ones) may be used by: anything" in office.sentences()[-1]


@pytest.mark.slow
def test_where_there_is_no_phone_who_opens_it_agrees(machine: Machine, canary: Canary) -> None:
    init_with_passphrase(machine, canary)
    machine("set", "stripe/KEY", input=canary.value)
    machine("guard", "stripe/KEY", "--only", "run")
    assert "somebody has to answer" in machine("unguard", "stripe/KEY", "--yes", code=6).stderr
    assert "only run may use it" in machine("get", "stripe/KEY", code=5).stderr
    with Screen(machine, AVAULT, "unguard", "stripe/KEY", "--yes") as screen:
        screen.expect(r"so that in clawd@vm, from now on stripe/KEY may be used by: anything, by any program here")
        type_passphrase(screen, 1)
        screen.wait()
    assert machine("get", "stripe/KEY", secret=True).stdout == canary.value + "\n"
