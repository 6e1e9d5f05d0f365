"""The custodians `command` and `program`: real programs that encrypt, and hostile ones."""

import functools
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from errands import BOUND, SECRET, send_errand
from harness import wait_until
from ports import free_port

import avault

pytestmark = pytest.mark.usefixtures("forks")

AGENT = "npub1" + "q" * 58
LONG_BOUND = f"avault:custody:v1:{'0' * 32}:{AGENT}:a-name-of-some-length"
OTHER_BOUND = BOUND.replace(":here", ":there")


def need(*programs: str) -> None:
    """Skip where a program is missing."""
    if missing := [name for name in programs if not shutil.which(name)]:
        pytest.skip(f"no {' and no '.join(missing)}")


def script(path: Path, text: str, mode: int = 0o755) -> str:
    """A program in Python."""
    path.write_text(f"#!{sys.executable}\nimport json, os, signal, sys, time\n{text}\n")
    path.chmod(mode)
    return str(path)


@pytest.fixture
def programs(place) -> Path:
    """A directory for programs that is ours alone, whatever the umask."""
    path = place.top / "bin"
    path.mkdir(mode=0o755)
    return path


def settle(settings: dict[str, str], **more: Any) -> dict[str, str]:
    """The settings as they are kept."""
    answer = send_errand("settle", "command", settings, **more)
    assert answer["outcome"] == "ok", answer
    settled: dict[str, str] = answer["value"]
    assert answer["asks"] == (settled["person"] == "yes")
    return settled


def keep(settings: dict[str, str], **more: Any) -> str | None:
    """What is kept of the secret."""
    answer = send_errand("set", "command", settings, secret=SECRET, **more)
    assert answer["outcome"] == "ok", answer
    kept: str | None = answer["value"]
    assert SECRET not in str(kept)
    return kept


def get(settings: dict[str, str], kept: str | None, **more: Any) -> dict[str, Any]:
    return send_errand("get", "command", settings, kept=kept, **more)


def check_round(settings: dict[str, str], kept: str | None) -> None:
    """It opens, and for no other vault, agent or custodian."""
    assert get(settings, kept) == {"outcome": "ok", "value": SECRET}
    assert get(settings, kept, bound=OTHER_BOUND) == {
        "outcome": "tampered",
        "detail": "what the program gave is not what this custodian was given for this vault",
    }


def failed(outcome: str, detail: str) -> dict[str, str]:
    return {"outcome": outcome, "detail": detail}


def not_run(program: str, theirs: Path | str) -> dict[str, str]:
    """What is said of a program that others can change."""
    return {
        **failed("denied", f"{program} is not run: others can change {theirs}"),
        "hint": "it has to be yours or root's, and nobody else may write it: chmod go-w, chown",
    }


# Real programs


@pytest.fixture
def age(place) -> dict[str, str]:
    need("age", "age-keygen")
    made = {}
    for name in ("here", "elsewhere"):
        subprocess.run(["age-keygen", "-o", place.tmp / name], check=True, capture_output=True)
        shown = subprocess.run(["age-keygen", "-y", place.tmp / name], check=True, capture_output=True, text=True)
        made[name] = shown.stdout.strip()
    return made


def test_age(age, place) -> None:
    told = {"recipe": "age", "recipient": age["here"], "identity": "here"}
    settings = settle(told, directory=str(place.tmp))
    assert settings == {
        "wrap": f"{shutil.which('age')} --encrypt --recipient {age['here']}",
        "unwrap": f"{shutil.which('age')} --decrypt --identity {place.tmp}/here",
        "delete": "",
        "person": "no",
    }
    check_round(settings, keep(settings))
    assert settle(settings) == settings, "settled once, it stays"


def test_age_with_a_wrong_key(age, place) -> None:
    settings = settle({"recipe": "age", "recipient": age["here"], "identity": str(place.tmp / "elsewhere")})
    assert get(settings, keep(settings)) == failed("error", "age failed, with exit code 1")
    person = {**settings, "person": "yes"}
    assert get(person, keep(person)) == failed("denied", "age failed, with exit code 1"), "it may have been a person's no"


PLUGIN = """
import base64
def say(kind, body=b""):
    text = base64.b64encode(body).decode().rstrip("=")
    sys.stdout.write(f"-> {kind}\\n{text}\\n")
    sys.stdout.flush()
def hear():
    kind = sys.stdin.readline().split()[1:]
    text = sys.stdin.readline().strip()
    return kind, base64.b64decode(text + "=" * (-len(text) % 4))
hide = lambda key: bytes(each ^ 0x5A for each in key)
heard = []
while not heard or heard[-1][0] != ["done"]:
    heard.append(hear())
for kind, body in heard:
    if kind[0] == "wrap-file-key":
        say("recipient-stanza 0 test", hide(body))
        assert hear()[0] == ["ok"]
    elif kind[0] == "recipient-stanza" and kind[2] == "test":
        say("file-key 0", hide(body))
        assert hear()[0] == ["ok"]
say("done")
"""


def bech32(prefix: str, data: bytes) -> str:
    """As age has its recipients and identities (BIP-173)."""
    bits = "".join(f"{each:08b}" for each in data)
    words = [int(bits[start : start + 5].ljust(5, "0"), 2) for start in range(0, len(bits), 5)]
    check = 1
    for word in [*(ord(each) >> 5 for each in prefix), 0, *(ord(each) & 31 for each in prefix), *words, *[0] * 6]:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ word
        for number, part in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= part if top >> number & 1 else 0
    check ^= 1
    words += [check >> 5 * (5 - number) & 31 for number in range(6)]
    return prefix + "1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[word] for word in words)


def test_age_finds_its_plugins(age, place, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those for YubiKeys and TPMs: programs that age looks for in PATH, where others cannot write."""
    script(programs / "age-plugin-test", PLUGIN)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    identity = place.tmp / "identity"
    identity.write_text(bech32("age-plugin-test-", b"\x01" * 20).upper() + "\n")
    told = {"recipe": "age", "recipient": bech32("age1test", b"\x01" * 20), "identity": str(identity)}
    settings = settle(told)
    kept = keep(settings)
    check_round(settings, kept)
    programs.chmod(0o777)
    assert get(settings, kept)["outcome"] == "error", "what others could put there is not run"


def test_gpg(place, monkeypatch: pytest.MonkeyPatch) -> None:
    need("gpg", "gpgconf")
    home = place.top / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    try:
        subprocess.run(
            ["gpg", "--batch", "--passphrase", "", "--quick-gen-key", "operator@example.test", "default", "default"],
            check=True, capture_output=True,
        )  # fmt: skip
        settings = settle({"recipe": "gpg", "recipient": "operator@example.test"})
        kept = keep(settings)
        check_round(settings, kept)
        assert get(settings, avault.binascii.b2a_base64(b"no message", newline=False).decode()) == failed(
            "error", "gpg failed, with exit code 2"
        )
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


def test_pass_keeps_it_itself(place, monkeypatch: pytest.MonkeyPatch) -> None:
    need("pass", "gpg", "gpgconf")
    home = place.top / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    try:
        subprocess.run(
            ["gpg", "--batch", "--passphrase", "", "--quick-gen-key", "operator@example.test", "default", "default"],
            check=True, capture_output=True,
        )  # fmt: skip
        subprocess.run(["pass", "init", "operator@example.test"], check=True, capture_output=True)
        settings = settle({"recipe": "pass"})
        entry = place.home / ".password-store" / "avault" / "avault1-AAAAAAAAAAAAAAAA:here.gpg"
        assert keep(settings) is None and entry.exists()
        check_round(settings, None)
        assert keep(settings) is None, "a second time, over the first"
        check_round(settings, None)
        assert send_errand("delete", "command", settings) == {"outcome": "ok", "value": None}
        assert not entry.exists()
        assert get(settings, None) == failed("error", "pass failed, with exit code 1")
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


def test_sops(age, place, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_cheat_sheets import sops

    program = Path(sops()) / "sops"
    keys = place.home / ".config" / "sops" / "age"
    keys.mkdir(parents=True)
    shutil.copy(place.tmp / "here", keys / "keys.txt")
    # the cache may lie below a directory of a group; what is tested is the recipe
    own = place.top / "sops-bin"
    own.mkdir(mode=0o755)
    shutil.copy(program, own / "sops")
    (own / "sops").chmod(0o755)
    monkeypatch.setenv("PATH", f"{own}:{os.environ['PATH']}")
    settings = settle({"recipe": "sops", "recipient": age["here"]})
    check_round(settings, keep(settings))


@pytest.fixture
def tpm(place) -> Iterator[str]:
    """A TPM in software with an RSA key at 0x81010001, as references/custody.md makes it: tpm2-tools' name for it."""
    need("swtpm", "tpm2_createprimary", "tpm2_rsaencrypt")
    port = free_port(2)  # its control channel is at the next one
    state = place.top / "tpm"
    state.mkdir()
    words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    for kind, number in (("--server", port), ("--ctrl", port + 1)):
        words += [kind, f"type=tcp,port={number},bindaddr=127.0.0.1"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tcti = f"swtpm:host=127.0.0.1,port={port}"

    def tool(name: str, *words: str) -> None:
        done = subprocess.run([f"tpm2_{name}", "-T", tcti, *words], cwd=place.tmp, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    try:
        wait_until(lambda: answers(port))
        tool("createprimary", "-C", "o", "-c", "primary.ctx")
        use = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|decrypt|noda"
        tool("create", "-C", "primary.ctx", "-G", "rsa2048", "-a", use, "-u", "key.pub", "-r", "key.priv")
        tool("flushcontext", "-t")
        tool("load", "-C", "primary.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
        tool("evictcontrol", "-C", "o", "-c", "key.ctx", "0x81010001")
        tool("flushcontext", "-t")
        yield tcti
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    """Whether the software TPM takes connections: it takes one at a time, and the next after that has ended."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_tpm(tpm: str) -> None:
    settings = settle({"recipe": "tpm2", "key": "0x81010001"})
    for name in ("wrap", "unwrap"):
        program, *words = shlex.split(settings[name])
        settings[name] = shlex.join([program, "--tcti", tpm, *words])
    kept = keep(settings, bound=LONG_BOUND)
    assert get(settings, kept, bound=LONG_BOUND) == {"outcome": "ok", "value": SECRET}
    assert get(settings, kept)["outcome"] == "tampered"
    wrong = {**settings, "unwrap": settings["unwrap"].replace("0x81010001", "0x81010002")}
    assert get(wrong, kept, bound=LONG_BOUND)["outcome"] == "error"


# Recipes


STAND_IN = """
data = sys.stdin.buffer.read()
open("{directory}/said", "a").write(repr(sys.argv) + repr(os.environ))
if data:
    open("{directory}/kept", "wb").write(data)
sys.stdout.buffer.write(data[::-1])
"""


@pytest.mark.parametrize("recipe", avault.TOOL_RECIPES)
def test_a_recipe_has_no_secret_on_the_command_line(recipe: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in, which keeps what it is given; what a real one does with these words is tested where there is one."""
    program = avault.TOOL_RECIPES[recipe][0].split()[0]
    for name in {program, avault.TOOL_RECIPES[recipe][1].split()[0]}:
        script(programs / name, STAND_IN.format(directory=str(programs)))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("NOSTR_NSEC", "nsec-of-a-test")
    settings = settle({"recipe": recipe, "recipient": "somebody", "identity": "file", "key": "key-1"})
    assert send_errand("set", "command", settings, secret=SECRET)["outcome"] == "ok"
    said = (programs / "said").read_text()
    assert SECRET not in said and "nsec-of-a-test" not in said
    assert (programs / "kept").read_text() == f"{BOUND}\n{SECRET}\n", "on stdin"


def test_a_recipe_says_what_it_needs() -> None:
    for recipe, name in (("age", "recipient"), ("gpg", "recipient"), ("gcloud-kms", "key"), ("tpm2", "key")):
        answer = send_errand("settle", "command", {"recipe": recipe, "identity": "x"})
        assert answer == failed("usage", f"the recipe {recipe} needs {name}=…")
    answer = send_errand("settle", "command", {"recipe": "age", "recipient": "--output=/tmp/x", "identity": "x"})
    assert answer["outcome"] == "usage", "no option in the place of a name"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "it needs wrap and unwrap, or a recipe"),
        ({"wrap": "cat"}, "it needs wrap and unwrap, or a recipe"),
        ({"wrap": "cat", "unwrap": "cat", "recipe": "age"}, "either a recipe, or wrap and unwrap"),
        ({"recipe": "rot13"}, "there is no recipe rot13: one of age, gpg, pass, sops, op, gcloud-kms, az-keyvault, tpm2"),
        ({"wrap": "cat '", "unwrap": "cat"}, "not a command line: cat '"),
        ({"wrap": "cat", "unwrap": "cat", "person": "maybe"}, "person is yes or no"),
    ],
)
def test_settings_are_refused(settings: dict[str, str], said: str) -> None:
    assert send_errand("settle", "command", settings) == failed("usage", said)


def test_whether_it_asks_is_a_setting() -> None:
    assert avault.Command.asks({"person": "yes"}) and not avault.Command.asks({"person": "no"})
    assert not avault.Command.needs_person and not avault.Command.asks({})


# Programs that are not to be run


def test_no_shell(programs: Path, place) -> None:
    program = script(programs / "keep", "sys.stdout.write(sys.argv[1])")
    line = f"{program} '$(touch {place.tmp}/touched); `id` > {place.tmp}/touched'"
    settings = settle({"wrap": line, "unwrap": line})
    kept = avault.binascii.a2b_base64(keep(settings))
    assert kept.decode() == shlex.split(line)[1] and not (place.tmp / "touched").exists()


def test_a_program_that_a_group_can_write_is_refused(programs: Path) -> None:
    program = script(programs / "keep", "pass")
    settings = settle({"wrap": program, "unwrap": program})
    for path, mode in ((programs / "keep", 0o775), (programs / "keep", 0o757), (programs, 0o775), (programs, 0o777)):
        before = path.stat().st_mode & 0o777
        path.chmod(mode)
        refused = not_run(program, path)
        assert send_errand("settle", "command", {"wrap": program, "unwrap": program}) == refused
        assert send_errand("set", "command", settings, secret=SECRET) == refused, "also after it was added"
        assert send_errand("probe", "command", settings, kept="aaaa") == refused
        path.chmod(before)
    assert send_errand("probe", "command", settings, kept="aaaa")["outcome"] == "ok"


def test_a_link_leads_to_what_is_looked_at(programs: Path, place) -> None:
    target = script(place.tmp / "target", "pass", 0o777)
    (programs / "keep").symlink_to(target)
    answer = send_errand("settle", "command", {"wrap": str(programs / "keep"), "unwrap": str(programs / "keep")})
    assert answer == not_run(f"{programs}/keep", target)


def test_a_hostile_helper_in_path(programs: Path, place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands first in PATH where others can write is not run, nor by a program that we run."""
    shared = place.top / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (place.tmp / "ran").touch()
    hostile = f"open({str(place.tmp / 'ran')!r}, 'a').write('hostile')"
    script(shared / "wrapper", hostile)
    script(shared / "inner", hostile)
    script(programs / "wrapper", "sys.exit(os.system('inner'))")
    script(programs / "inner", "print('ours')")
    good, bad = f"{programs}:{os.environ['PATH']}", f"{shared}:{programs}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", good)
    settings = settle({"wrap": "wrapper", "unwrap": "wrapper"})
    monkeypatch.setenv("PATH", bad)
    answer = send_errand("settle", "command", {"wrap": "wrapper", "unwrap": "wrapper"})
    assert answer == not_run(f"{shared}/wrapper", shared)
    assert avault.binascii.a2b_base64(keep(settings)) == b"ours\n"
    monkeypatch.setenv("PATH", f".:{bad}")
    assert avault.binascii.a2b_base64(keep(settings, directory=str(shared))) == b"ours\n"
    assert (place.tmp / "ran").read_text() == ""


def test_a_program_that_is_gone(programs: Path) -> None:
    program = script(programs / "keep", "pass")
    settings = settle({"wrap": program, "unwrap": program})
    os.unlink(program)
    assert get(settings, "aaaa") == failed("unavailable", f"there is no {program}")
    answer = send_errand("settle", "command", {"wrap": "no-such-program", "unwrap": "cat"})
    assert answer == failed("unavailable", "there is no program no-such-program in PATH")
    Path(program).write_text("no program")
    assert get(settings, "aaaa") == failed("unavailable", f"{program} is no program that we may run")
    Path(program).chmod(0o755)
    assert get(settings, "aaaa") == failed("unavailable", "keep does not start: Exec format error")


# Programs that misbehave


@pytest.mark.parametrize(
    ("text", "outcome", "said"),
    [
        ("while True: os.write(1, b'x' * 65536)", "error", "odd prints more than 65,536 bytes"),
        ("sys.stdin.buffer.read(); time.sleep(600)", "unavailable", "odd did not end in 2.7 s"),
        ("os.close(0); os.close(1); time.sleep(600)", "unavailable", "odd did not end in 2.7 s"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", "unavailable", "odd did not end in 2.7 s"),
        ("os.write(1, b'half'); os.kill(os.getpid(), signal.SIGKILL)", "error", "odd was killed by signal 9"),
        ("os.write(1, b'half'); os._exit(3)", "error", "odd failed, with exit code 3"),
        ("print(open(0).read(), file=sys.stderr); sys.exit(5)", "error", "odd failed, with exit code 5"),
        ("", "error", "the program that is to wrap the unlock key printed nothing"),
    ],
)
def test_wrap_misbehaves(programs: Path, text: str, outcome: str, said: str) -> None:
    program = script(programs / "odd", text)
    settings = {"wrap": program, "unwrap": program, "delete": "", "person": "no"}
    limit = 3.0 if "sleep" in text else 60.0
    assert send_errand("set", "command", settings, secret=SECRET, limit=limit) == failed(outcome, said)


def test_a_person_who_does_not_answer_has_said_no(programs: Path) -> None:
    program = script(programs / "odd", "time.sleep(600)")
    settings = {"wrap": program, "unwrap": program, "delete": "", "person": "yes"}
    assert get(settings, "aaaa", limit=2.0) == failed("denied", "odd did not end in 1.8 s")


@pytest.mark.parametrize(
    "text", ["print('x')", f"print({BOUND!r})", f"print({OTHER_BOUND!r}); print('5f')", f"print({BOUND!r}); print('5\\n5')"]
)
def test_unwrap_gives_something_else(programs: Path, text: str) -> None:
    program = script(programs / "odd", text)
    settings = {"wrap": program, "unwrap": program, "delete": "", "person": "no"}
    assert get(settings, "aaaa")["outcome"] == "tampered"


def test_what_is_kept_is_damaged(programs: Path) -> None:
    program = script(programs / "odd", "pass")
    settings = {"wrap": program, "unwrap": program, "delete": "", "person": "no"}
    assert get(settings, "a")["outcome"] == "tampered"
    assert get(settings, None) == failed("not_found", "there is nothing that the program could decrypt")


@pytest.mark.slow
def test_a_hang_is_ended_with_all_that_it_started(programs: Path, place) -> None:
    pids = place.tmp / "pids"
    text = f"child = os.fork()\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\ntime.sleep(600)"
    program = script(programs / "odd", text)
    settings = {"wrap": program, "unwrap": program, "delete": "", "person": "no"}
    assert get(settings, "aaaa", limit=8.0)["outcome"] == "unavailable"
    left = [int(pid) for pid in pids.read_text().split()]
    assert len(left) == 2
    wait_until(lambda: not any(is_alive(pid) for pid in left))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_with_the_helper(programs: Path, place) -> None:
    """Even if that is killed, as by the supervisor's end."""
    pids = place.tmp / "pids"
    write = f"open({str(pids)!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}')"
    text = f"{write}\nos.rename({str(pids)!r}, {str(pids)!r} + '.whole')\ntime.sleep(600)"
    program = script(programs / "odd", text)
    settings = {"wrap": program, "unwrap": program, "delete": "", "person": "no"}

    def ask() -> None:
        with pytest.raises(AssertionError):  # it has no answer
            get(settings, "aaaa", limit=60.0)

    errand = threading.Thread(target=ask)
    errand.start()
    wait_until(Path(f"{pids}.whole").exists)
    helper, own = map(int, Path(f"{pids}.whole").read_text().split())
    os.kill(helper, 9)
    errand.join()
    wait_until(lambda: not is_alive(own))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is only not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# A third party's custodian

THIRD = """
request = json.load(sys.stdin)
action, store = sys.argv[1], os.path.join(request["settings"].get("store", "/nowhere"), "kept")
def answer(outcome, **more):
    print(json.dumps({"outcome": outcome, **more})); sys.exit()
if action == "settle": answer("ok", value={"store": os.path.join(request["directory"], request["settings"]["store"])})
if action == "set":
    open(store, "w").write(request["bound"] + "\\n" + request["secret"])
    open(store + ".argv", "w").write(repr(sys.argv) + repr(os.environ))
    answer("ok", value=None)
if not os.path.exists(store): answer("not_found", detail="there is none")
bound, secret = open(store).read().split("\\n")
if bound != request["bound"]: answer("denied", detail="it is another's")
if action == "delete": os.unlink(store)
answer("ok", value={"probe": "it is there", "get": secret, "delete": None}[action])
"""


@pytest.fixture
def third(programs: Path) -> str:
    return script(programs / "avault-custodian-store", THIRD)


def test_a_third_partys_program(third: str, place) -> None:
    send = functools.partial(send_errand, kind="program", directory=str(place.tmp))
    settled = send("settle", settings={"path": "../bin/avault-custodian-store", "options": "store=."})
    settings = settled["value"]
    assert settings == {"path": third, "options": f"store={place.tmp}/.", "person": "no"}
    assert settled["asks"] is False
    assert send("get", settings=settings) == failed("not_found", "there is none")
    assert send("set", settings=settings, secret=SECRET) == {"outcome": "ok", "value": None}
    assert SECRET not in (place.tmp / "kept.argv").read_text(), "neither on its command line nor in its environment"
    assert send("probe", settings=settings) == {"outcome": "ok", "value": "it is there"}
    assert send("get", settings=settings) == {"outcome": "ok", "value": SECRET}
    assert send("get", settings=settings, bound=OTHER_BOUND) == failed("denied", "it is another's")
    assert send("delete", settings=settings) == {"outcome": "ok", "value": None}
    assert send("get", settings=settings)["outcome"] == "not_found"


def test_a_third_partys_program_is_looked_at_each_time(third: str) -> None:
    settings = {"path": third, "options": "store=/nowhere", "person": "no"}
    os.chmod(third, 0o775)
    for action in ("settle", "probe", "get", "delete"):
        assert send_errand(action, "program", settings) == not_run(third, third)
    os.unlink(third)
    assert send_errand("get", "program", settings) == failed("unavailable", f"there is no {third}")


@pytest.mark.parametrize(
    ("text", "outcome", "said"),
    [
        ("print('garbage')", "error", "its helper ended without an answer"),
        ("print('[]')", "error", "its helper ended without an answer"),
        ("print('{}')", "error", "None"),
        ("print(json.dumps({'outcome': 'ok', 'value': 7}))", "error", "the program answered ok, and no secret"),
        ("print(json.dumps({'outcome': 'odd', 'detail': '\\x1b[2J', 'hint': '\\x1b[2J'}))", "error", "\\x1b[2J"),
        ("print(json.dumps({'outcome': 'denied', 'detail': 'no'}))", "denied", "no"),
        ("sys.exit(1)", "error", "avault-custodian-odd failed, with exit code 1"),
        ("time.sleep(600)", "unavailable", "avault-custodian-odd did not end in 1.8 s"),
    ],
)
def test_a_third_partys_program_misbehaves(programs: Path, text: str, outcome: str, said: str) -> None:
    path = script(programs / "avault-custodian-odd", text)
    limit = 2.0 if "sleep" in text else 60.0
    answer = send_errand("get", "program", {"path": path, "options": "", "person": "no"}, limit=limit)
    assert answer == failed(outcome, said)


def test_what_a_third_partys_program_says_is_not_shown_if_it_is_the_secret(programs: Path) -> None:
    echo = "print(json.dumps({'outcome': 'error', 'detail': json.load(sys.stdin)['secret']}))"
    path = script(programs / "avault-custodian-odd", echo)
    answer = send_errand("set", "program", {"path": path, "options": "", "person": "no"}, secret=SECRET)
    assert answer == failed("error", "its answer held the secret, and is not shown")


def test_a_third_partys_settings_are_refused(programs: Path) -> None:
    path = script(programs / "other-name", "pass")
    answer = send_errand("settle", "program", {"path": path})
    assert answer == failed("usage", "the executable's name begins with avault-custodian-")
    path = script(programs / "avault-custodian-x", "pass")
    assert send_errand("settle", "program", {"path": path, "options": "x"})["detail"] == "options are words: NAME=VALUE …"
    assert send_errand("settle", "program", {"path": path, "person": "x"})["detail"] == "person is yes or no"
    assert json.dumps(avault.Program.SETTINGS["path"][1]) == "null", "it has to be told"


def test_a_program_is_quick(programs: Path) -> None:
    """Nothing waits for the limit once the program has ended."""
    program = script(programs / "quick", f"print({BOUND!r}); print('5f')")
    settings = {"wrap": program, "unwrap": program, "delete": "", "person": "no"}
    began = time.monotonic()
    assert get(settings, "aaaa", limit=250.0) == {"outcome": "ok", "value": "5f"}
    assert time.monotonic() - began < 100
