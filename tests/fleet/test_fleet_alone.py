"""What is made of what hosts say, without ssh: each refusal's word, and output that means harm."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from harness import Machine, Screen

import avault

KEY_CHANGED = "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@@\nHost key verification failed."
NO_KEY = "No ED25519 host key is known for web1 and you have requested strict checking.\nHost key verification failed."
JUMP = "Host key verification failed.\nConnection closed by UNKNOWN port 65535"
SHUT = "kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.0.0.1 port 22"

SAID = [  # of OpenSSH 9.2: exit code, stderr, word and code; and the word where something had been sent
    (255, KEY_CHANGED, "host key changed", 8, "host key changed"),
    (255, "WARNING: REVOKED HOST KEY DETECTED!\nHost key verification failed.", "host key changed", 8, "host key changed"),
    (255, NO_KEY, "unknown host key", 8, "unknown host key"),
    (255, JUMP, "unknown host key", 8, "unknown host key"),
    (255, "me@web1: Permission denied (publickey).", "not let in", 5, "not let in"),
    (255, "ssh: connect to host web1 port 22: Connection refused", "down", 6, "down"),
    (255, "ssh: connect to host web1 port 22: No route to host", "down", 6, "down"),
    (255, "ssh: Could not resolve hostname web1: Name or service not known", "no such host", 6, "no such host"),
    (255, "ssh: connect to host web1 port 22: Connection timed out", "no answer", 7, "no answer"),
    (255, "Connection timed out during banner exchange\nConnection to 10.0.0.1 port 22 timed out", "no answer", 7, "no answer"),
    (255, SHUT, "shut out", 6, "shut out"),
    (255, "Connection closed by 10.0.0.1 port 22", "down", 6, "down"),
    (255, "Timeout, server web1 not responding.", "no answer", 7, "unknown"),
    (255, "Connection to web1 closed by remote host.", "down", 6, "unknown"),
    (255, "Read from remote host web1: Connection reset by peer\nclient_loop: send disconnect", "down", 6, "unknown"),
    (255, "avault: error: Permission denied\nConnection to web1 closed by remote host.", "not let in", 5, "unknown"),
    (255, "", "down", 6, "unknown"),
    (None, "", "no answer", 7, "unknown"),
    (-9, "", "no answer", 7, "unknown"),
    (127, "bash: line 1: avault: command not found", "no avault", 6, "no avault"),
    (1, "avault: Command not found.", "no avault", 6, "no avault"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "err", "word", "number", "after"), SAID)
def test_what_ssh_says(code: int | None, err: str, word: str, number: int, after: str) -> None:
    ended = avault.Ended(code, "", err)
    found = avault.judge_transport(ended)
    assert found and (found.word, found.code) == (word, number)
    written = avault.judge_transport(ended, has_written=True)
    assert written and written.word == after


def test_only_a_door_that_was_shut_is_tried_again() -> None:
    """Behind it nothing was run. A host key that is not right is never tried again."""
    again = [err for code, err, *_ in SAID if avault.was_shut_out(avault.Ended(code, "", err))]
    assert again == [SHUT]


STATE = {"state": "unlocked", "warnings": [], "proven": True, "version": "0.1.0", "secrets": 3}


@pytest.mark.parametrize(
    ("out", "word"),
    [
        (json.dumps(STATE, indent=2), "unlocked"),
        ("Welcome!\n{ not JSON\n" + json.dumps(STATE) + "\nbye", "unlocked"),
        (json.dumps({"state": "locked"}) + "\n" + json.dumps(STATE), "unlocked"),
        (json.dumps({"ok": False, "error": {"code": "denied", "message": "no"}}), "refused"),
        (json.dumps({"ok": False, "error": {"code": "usage", "message": "no such command"}}), "too old"),
        (json.dumps({"state": "open"}), "no sense"),
        (json.dumps([STATE]), "no sense"),
        ("", "no sense"),
        ("{" * 5000, "no sense"),
        ('{"a":\n' * 5000, "no sense"),
    ],
)
def test_the_state_is_the_last_that_parses(out: str, word: str) -> None:
    assert avault.read_state(avault.Ended(0, out, "")).word == word


# Whether a host has a secret


class Speaker:
    """A crew for which every host says the same."""

    def __init__(self, *lines: str) -> None:
        self.ended = avault.Ended(0, "\n".join(lines), "")

    async def reach(self, *_: object, **__: object) -> avault.Ended:
        return self.ended


def refusal(code: str) -> str:
    return json.dumps({"ok": False, "error": {"code": code, "message": "no"}})


LISTED = json.dumps({"groups": [{"name": "stripe", "keys": [{"name": "KEY"}]}]})


@pytest.mark.parametrize(
    ("lines", "word", "code"),
    [
        ([LISTED], "ready", 0),
        ([LISTED.replace("KEY", "OTHER")], "has none", 0),
        ([refusal("not_found")], "has none", 0),
        ([refusal("locked")], "locked", 3),
        ([], "no sense", 1),
        (["Welcome!" + LISTED], "no sense", 1),
        (['{"groups": "many"}'], "no sense", 1),
        (["Killed"], "no sense", 1),
    ],
)
def test_only_a_host_that_says_so_has_none(lines: list[str], word: str, code: int) -> None:
    """One whose answer did not come may have the old value: it is not counted as one that never had it."""
    crew: Any = Speaker(*lines, json.dumps(STATE))
    outcome = asyncio.run(avault.Gift("stripe", "KEY", "sk-1").prepare(crew, avault.Host("web1")))
    assert (outcome.word, outcome.code) == (word, code)
    assert "has" in outcome.fields or word not in ("ready", "has none")


def reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str, line: str, **settings: Any) -> avault.Ended:
    """What comes of a line on a host whose logins begin with others: ssh is a shell here."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir(exist_ok=True)
    ssh.write_text(f'#!/bin/sh\n[ "$1" = -G ] && exit\n{login}\nwhile [ "$#" -gt 1 ]; do shift; done\neval "$1"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:/usr/bin:/bin")

    async def run() -> avault.Ended:
        host = avault.Host("web1")
        return await avault.Crew([host], 20, 1, True).reach(host, line, **settings)

    return asyncio.run(run())


def test_what_a_login_prints_is_no_part_of_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has no newline at its end, as a prompt has."""
    ended = reach(tmp_path, monkeypatch, "printf 'motd\n$ '", "echo '{\"a\": 1}'")
    assert ended.out == '{"a": 1}\n' and avault.find_objects(ended.out) == [{"a": 1}]


# A host that has more to say than anybody can hear


@pytest.mark.slow
def test_what_a_host_says_without_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stderr the last lines, and of each the beginning."""
    heard: list[str] = []
    tracemalloc.start()
    try:
        ended = reach(tmp_path, monkeypatch, "", "seq 300000 >&2; sleep 60", deadline=3.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ended.code is None and ended.err.splitlines()[-1] == "300000" and len(ended.err.splitlines()) == 20
    assert peak < 8 << 20, "300,000 lines take more than 15 MiB"
    long = "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo end >&2"
    reach(tmp_path, monkeypatch, "", long, hear=heard.append)
    assert [len(line) for line in heard] == [1_000, 3]


def test_of_an_answer_a_mebibyte_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "head -c 3000000 /dev/zero | tr '\\0' x"
    assert 1_000_000 < len(reach(tmp_path, monkeypatch, "", line).out) <= 1 << 20
    assert len(reach(tmp_path, monkeypatch, "", line, most=avault.MOST_OUTPUT).out) == 3_000_000


@pytest.mark.parametrize("piece", ["{\n", '{"a":[1,\n', '{"a":[' + "1," * 5_000 + "\n", '{"a":' + "9" * 5_000 + "}\n", "{}x\n"])
def test_what_never_is_an_object_is_not_tried_for_ever(piece: str) -> None:
    """Each beginning was tried up to the end of the output, while all other hosts waited."""
    many = piece * ((4 << 20) // len(piece))
    begun = time.process_time()
    found = avault.find_objects(many)
    crew: Any = Speaker(many, '{"op": "get", "time": "2026-01-01T00:00:00Z"}')
    asyncio.run(avault.read_log(crew, avault.Host("web1"), ""))
    assert time.process_time() - begun < 3
    assert found in ([], [{}] * 1_000)


def test_some_that_is_no_object_is_passed_over() -> None:
    noise = "{ welcome\n" * 50
    assert avault.find_objects(noise + '{"a": 1}\n' + noise + '{"b": 2}') == [{"a": 1}, {"b": 2}]


# How many at once


def most_at_once(monkeypatch: pytest.MonkeyPatch, said: dict[str, str], jobs: int, count: int = 30) -> int:
    """The most connections that are open together, to so many hosts of which `ssh -G` says that."""
    now, most = 0, 0

    async def execute(argv: list[str], *_: object) -> avault.Ended:
        nonlocal now, most
        if argv[1] == "-G":
            told = {"hostname": argv[-1], "port": "22", "proxyjump": "none", "proxycommand": "none", **said}
            return avault.Ended(0, "".join(f"{name} {text}\n" for name, text in told.items()), "")
        now += 1
        most = max(most, now)
        for _each in range(5):
            await asyncio.sleep(0)
        now -= 1
        return avault.Ended(0, "", "")

    async def run() -> None:
        hosts = [avault.Host(f"web{number}") for number in range(count)]
        crew = avault.Crew(hosts, 20, jobs, True)
        await asyncio.gather(*(crew.reach(host, "true") for host in hosts))

    monkeypatch.setattr(avault, "execute_once", execute)
    monkeypatch.setattr(avault.shutil, "which", lambda _: "/usr/bin/ssh")
    asyncio.run(run())
    return most


@pytest.mark.parametrize(
    ("said", "jobs", "most"),
    [
        ({}, avault.HOSTS_AT_ONCE, 16),
        ({}, 1, 1),  # a security key is touched for one at a time
        ({"hostname": "10.0.0.1"}, 16, 8),  # names of one address: sshd's MaxStartups begins to drop at 10
        ({"proxyjump": "bastion"}, 16, 8),
        ({"proxyjump": "bastion,inner"}, 64, 8),
        ({"proxycommand": "cloudflared access ssh"}, 16, 8),
    ],
)
def test_how_many_are_reached_at_once(monkeypatch: pytest.MonkeyPatch, said: dict[str, str], jobs: int, most: int) -> None:
    """16 of them, fewer through one door: a jump host, a proxy, or one address; and as --jobs says."""
    assert most_at_once(monkeypatch, said, jobs) == most


# What may be done once only


SHUT_DOOR = "echo 'kex_exchange_identification: Connection closed by remote host' >&2; exit 255"


@pytest.mark.parametrize(
    ("login", "said", "is_once", "times"),
    [(SHUT_DOOR, "", False, 3), (SHUT_DOOR, "", True, 1), ("", SHUT_DOOR, False, 1), (f"echo motd; {SHUT_DOOR}", "", False, 1)],
)
def test_what_was_begun_there_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str, said: str, is_once: bool, times: int
) -> None:
    """A command there may end with 255, and say what ssh says of a door that is shut."""
    monkeypatch.setattr(avault, "DOOR_PAUSES", (0, 0))
    count = tmp_path / "count"
    ended = reach(tmp_path, monkeypatch, f"echo x >> {count}\n{login}", said or "true", is_once=is_once)
    assert ended.code == 255 and ended.begun == bool(said) and count.read_text() == "x\n" * times


@pytest.mark.parametrize("said", [KEY_CHANGED, "git@example.com: Permission denied (publickey).", SHUT, ""])
def test_what_a_command_says_with_255_is_not_sshs(said: str) -> None:
    """Such as that of a restart that uses git: it was begun, so nobody knows how far it came."""
    ended = avault.Ended(255, "", said, begun=True)
    found, read = avault.judge_transport(ended, has_written=True), avault.judge_transport(ended)
    assert found and read and (found.word, read.word) == ("unknown", "down")


@pytest.mark.skipif(not shutil.which("ssh"), reason="no OpenSSH here")
@pytest.mark.parametrize("which", ["run", "restart"])
def test_a_command_of_a_person_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], which: str
) -> None:
    asked: list[bool] = []

    async def hear(*_: object, is_once: bool = False, **__: object) -> avault.Ended:
        asked.append(is_once)
        return avault.Ended(0, json.dumps({"new": [], "same": ["a/B"], "differs": []}), "")

    monkeypatch.setattr(avault.Crew, "reach", hear)
    path = tmp_path / "fleet"
    path.write_text("sh\n")
    if which == "run":
        assert avault.run_command(["fleet", "run", "--hosts", str(path), "--json", "--", "true"]) == 0
        assert asked == [True]
    else:
        crew: Any = Speaker()
        crew.reach = hear
        ready = avault.Outcome("ready", 0, "", {"has": True})
        outcome = asyncio.run(avault.Gift("a", "B", "c").rotate(crew, avault.Host("sh"), ready, "true", 1))
        assert outcome.word == "has it" and asked == [False, True, False]


CLAIMS = f"""\
#!/bin/sh
echo "$1" >> LOG
case $1 in
  list) echo '{LISTED}';;
  status) echo '{json.dumps(STATE)}';;
  import) cat > /dev/null; echo '{json.dumps({"new": [], "same": ["stripe/KEY"], "differs": []})}';;
esac
"""


@pytest.fixture
def desk(tmp_path: Path) -> Machine:
    """A desk with one host, which says that it has a secret; ssh is a shell. What that host is asked is in `log`."""
    desk = Machine(tmp_path)
    place = tmp_path / "bin"
    place.mkdir()
    (place / "ssh").write_text('#!/bin/sh\n[ "$1" = -G ] && exit\nwhile [ "$#" -gt 1 ]; do shift; done\neval "$1"\n')
    (place / "claimer").write_text(CLAIMS.replace("LOG", str(tmp_path / "log")))
    for path in place.iterdir():
        path.chmod(0o755)
    (tmp_path / "fleet").write_text(f"web1 program={place / 'claimer'}\n")
    desk.env["PATH"] = f"{place}:{desk.env['PATH']}"
    return desk


ROTATE = ("fleet", "rotate", "stripe/KEY", "--hosts")
SHOWN = "the new stripe/KEY goes to 1 host, by what they say of themselves: web1"


def test_who_gets_a_value_is_shown_before_it_is_sent(desk: Machine, canary: Any) -> None:
    """That a host has the secret is its own word."""
    path = str(desk.top / "fleet")
    with Screen(desk, "avault", *ROTATE, path) as screen:
        screen.expect("stripe/KEY: ")
        screen.type(canary.value + "\n")
        screen.expect(SHOWN)
        screen.expect("are these all, and no others.*y/N")
        screen.type("n\n")
        assert b"nothing was changed: do not revoke" in screen.wait(5)
    assert (desk.top / "log").read_text().split() == ["list", "status"]
    with Screen(desk, "avault", *ROTATE, path, "--yes", columns=200) as screen:
        screen.expect("stripe/KEY: ")
        screen.type(canary.value + "\n")
        assert SHOWN.encode() in screen.wait(0)
    done = desk(*ROTATE, path, input=canary.value)
    assert f"avault: {SHOWN}\n" in done.stderr and done.stdout.endswith("1 of 1 have it: revoke the old one\n")


def test_of_each_host_one_code_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """Four letters of the code's alphabet: a host could write other hosts' codes, or a screen full of them."""
    said = ["code QWX4", "asking the phone, code ", "asking the phone, code 7\x1b[2", "asking the phone, code oops; x"]
    said += ["asking the phone, code 7K3F; open the signer app", *["asking the phone, code QWX4"] * 100]

    class Teller(Speaker):
        deadline = 1.0

        async def reach(self, *words: Any, **_: object) -> avault.Ended:
            for line in said:
                words[4](line)
            return self.ended

    for _ in range(2):
        crew: Any = Teller(json.dumps(STATE))
        assert asyncio.run(avault.unlock_host(crew, avault.Host("web1"), 5)).word == "unlocked"
    assert capfd.readouterr().err == "avault: the phone shows the code 7K3F\n" * 2


@pytest.mark.skipif(not shutil.which("ssh"), reason="no OpenSSH here")
@pytest.mark.parametrize("watch", [False, True])
def test_json_is_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: bool) -> None:
    """JSON escapes C0 alone: CSI of C1 and letters that turn the line around would come to a terminal as they are."""
    evil = "\x9b2J \u202e \x1b[2J ü"

    async def see(*_: object) -> avault.Outcome:
        return avault.Outcome("unlocked", 0, "", {"name": evil})

    class Shown(BaseException):
        pass

    def put(text: str) -> None:
        raise Shown(text)

    monkeypatch.setattr(avault, "put", put)
    monkeypatch.setattr(avault, "see_state", see)
    path = tmp_path / "fleet"
    path.write_text("sh\n")
    with pytest.raises(Shown) as raised:
        avault.run_command(["fleet", "status", "--json", "--hosts", str(path), *["--watch"] * watch])
    shown = str(raised.value)
    assert json.loads(shown)["hosts"][0]["name"] == evil
    assert shown.isascii() and shown.replace("\n", "").isprintable()


# What is named, and empty


def choose(**which: Any) -> avault.Round:
    named = {"file": None, "patterns": (), "local": False, "jobs": 1, "deadline": None, **which}
    return avault.Round(True, **named)


@pytest.mark.parametrize("patterns", [("",), (",",), (" ",), ("web1", "")])
def test_a_choice_that_is_empty_is_not_all_of_them(tmp_path: Path, patterns: tuple[str, ...]) -> None:
    path = tmp_path / "fleet"
    path.write_text("web1\nweb2\n")
    assert len(choose(file=str(path)).hosts) == 2
    with pytest.raises(avault.Usage, match="--only names no host"):
        choose(file=str(path), patterns=patterns)


def test_a_list_that_is_empty_is_not_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    avault.add_hosts(None, [avault.Host("web1")])
    with pytest.raises(avault.Usage, match="--hosts names no file"):
        choose(file="")
    with pytest.raises(avault.Usage, match="exclude each other"):
        choose(file="", local=True)
    with pytest.raises(avault.Usage, match="--hosts names no file"):
        avault.add_hosts("", [avault.Host("web2")])
    with pytest.raises(avault.Usage, match="--hosts names no file"):
        avault.remove_hosts("", ["web1"])
    assert [host.name for host in choose().hosts] == ["web1"]


@pytest.mark.parametrize("words", [("rotate", "a/B", "--restart", " "), ("add", "web1", "--vault", ""), ("status", "--only", "")])
def test_an_option_that_is_empty_is_wrong_usage(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    path = tmp_path / "fleet"
    path.write_text("web2\n")
    assert avault.run_command(["fleet", *words, "--hosts", str(path)]) == 2
    assert path.read_text() == "web2\n" and "avault: error: " in capfd.readouterr().err


def test_a_hosts_words_cannot_drive_a_terminal() -> None:
    evil = "\x1b[2J\x07\n\u202efake"
    states: list[dict[str, Any]] = [
        {**STATE, "warnings": [evil], "version": evil},
        {**STATE, "state": "waiting", "waiting": {"since": evil, "error": evil}, "code": evil},
        {**STATE, "error": {"message": evil}},
    ]
    for state in states:
        outcome = avault.read_state(avault.Ended(0, json.dumps(state), ""))
        shown = "".join(avault.Board([avault.Host("web1")]).render(avault.Host("web1"), outcome))
        assert shown.isprintable() and not any(cell and not cell.isprintable() for cell in avault.status_cells(outcome))
    failed = avault.read_state(avault.Ended(1, evil, evil))
    assert failed.note.isprintable()


def test_a_clock() -> None:
    now = time.time()
    assert avault.ahead_of(f"hello\n{int(now)}\n", now - 1) == 0
    assert avault.ahead_of(f"{int(now) + 600}\n", now - 1) == pytest.approx(600, abs=5)
    assert avault.ahead_of(f"{int(now) - 600}\n", now) == pytest.approx(-600, abs=5)
    assert avault.ahead_of("date: no such command", now) is None and avault.ahead_of("9" * 400, now) is None


@pytest.mark.parametrize(
    ("codes", "code"), [([0, 0], 0), ([3, 0, 3], 3), ([3, 6], 1), ([8, 6, 0], 8), ([6], 6), ([1, 1], 1), ([], 0)]
)
def test_the_exit_code_of_all(codes: list[int], code: int) -> None:
    assert avault.judge_all(avault.Outcome("x", each) for each in codes) == code


def test_words_for_a_shell() -> None:
    host = avault.Host("web1", "/a b", "~/bin/my avault")
    assert avault.command_line(host, "set", "a/B;C") == "~/'bin/my avault' --dir '/a b' set 'a/B;C'"
    argv = avault.ssh_command(host, "line", True)
    assert argv[-3:] == ["--", "web1", "line"] and "ControlPath=none" in argv
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ClearAllForwardings=yes"} <= {*argv} and "-a" in argv
    assert "ControlPath=none" not in avault.ssh_command(host, "line", False)
    local = shlex.split(avault.command_line(avault.Host("", "/v"), "status"))
    assert local[-3:] == ["--dir", "/v", "status"] and avault.ssh_command(avault.Host("", "/v"), "x", True) == ["sh", "-c", "x"]


@pytest.mark.parametrize("width", [30, 40, 63, 64, 80, 200])
def test_no_row_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "stdout_width", lambda: width)
    hosts = [avault.Host("a-host-with-a-very-long-name.of.example.com"), avault.Host("b")]
    board = avault.Board(hosts, avault.STATUS_TITLES, avault.status_cells)
    board.is_coloured = False
    for outcome in (avault.Outcome("unlocked", 0, "x " * 200, STATE), avault.Outcome("host key changed", 8, "why " * 50)):
        lines = [line for host in hosts for line in board.render(host, outcome)]
        assert max(map(len, lines)) <= width
        assert outcome.code == 0 or "".join(lines).count("why") == 100, "what went wrong is said in full"


@pytest.mark.parametrize("name", ["-oProxyCommand=touch /tmp/x", "a b", "$(id)", "a;b", "", "a\nb", "*", "a'b", "x" * 256])
def test_what_is_no_host(name: str) -> None:
    """What ssh would take for an option, or a shell for a command."""
    with pytest.raises(avault.Usage, match="not a host"):
        avault.check_host(name)


@pytest.mark.parametrize("name", ["web1", "deploy@db1", "ssh://me@[::1]:2222", "10.0.0.1", "fe80::1%eth0"])
def test_what_is_a_host(name: str) -> None:
    assert avault.check_host(name) == name


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("web1 colour=red", "line 2 of .*: not understood"),
        ("web1 vault=", "line 2 of .*: not understood"),
        ("web1 vault=a vault=b", "line 2 of .*: not understood"),
        ("web1 vault=-x", "line 2 of .*: not a path"),
        ("web1 'open", "line 2 of .*: no closing quotation"),
        ("-v", "line 2 of .*: not a host"),
        ("one", "line 2 of .*: one stands there twice"),
    ],
)
def test_a_bad_line_of_the_list_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "fleet"
    path.write_text(f"one\n{line}\n")
    with pytest.raises(avault.Usage, match=says):
        avault.read_hosts(str(path))


def test_the_list_keeps_what_people_write(tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    path.write_text("# mine\n\nweb1   program=~/bin/avault  # the first\n")
    avault.add_hosts(str(path), [avault.Host("web1"), avault.Host("web2", "/a b")])
    assert path.read_text() == "# mine\n\nweb1   program=~/bin/avault  # the first\nweb2 'vault=/a b'\n"
    assert [host.label() for host in avault.read_hosts(str(path))] == ["web1", "web2:/a b"]
    avault.remove_hosts(str(path), ["web2"])
    assert path.read_text() == "# mine\n\nweb1   program=~/bin/avault  # the first\n"
