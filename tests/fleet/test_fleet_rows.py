"""Each word that a row of `avault fleet` can say, with its exit code: what a host answers, and what is said of that."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import documents
import pytest
from test_fleet_alone import KEY_CHANGED, LISTED, NO_KEY, SHUT

import avault

OPERATOR, AGENT = (avault.public_hex(avault.make_keys()) for _ in range(2))
NPUBS = {"agent_npub": avault.to_npub(AGENT), "signer_npub": avault.to_npub(OPERATOR)}
Reply = avault.Ended | Callable[[bytes], avault.Ended]


def said(*objects: Any, code: int = 0) -> avault.Ended:
    """What a host prints: each as JSON, or as it is."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in objects]
    return avault.Ended(code, "\n".join(lines) + "\n", "", True)


def ssh(text: str, code: int | None = 255) -> avault.Ended:
    """What ssh says itself, before anything was run."""
    return avault.Ended(code, "", text)


def state(word: str, **more: Any) -> dict[str, Any]:
    return {"state": word, "warnings": [], "proven": True, "version": "0.1.0", **NPUBS, **more}


def error(code: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": "no", "hint": ""}}


def compared(kind: str) -> avault.Ended:
    return said({"new": [], "same": [], "differs": [], kind: ["stripe/KEY"]})


def key_of(data: bytes) -> avault.Ended:
    """A machine that has let the desk in says by which key, as that has signed for it."""
    return said({"ok": True, "key": avault.read_signed(data.decode().strip())[0]})


OPEN, LACKS, HAS = state("unlocked"), said({"groups": []}, state("unlocked")), said(LISTED, state("unlocked"))
GONE, RUN = ssh("", None), ("run", "--", "true")
SET, ROTATE = ("set", "stripe/KEY"), ("rotate", "stripe/KEY", "--restart", "false")

ROWS: list[tuple[str, int, tuple[str, ...], list[Reply]]] = [  # word, exit code, command, and what web1 answers, one by one
    ("unlocked", 0, ("status",), [said(OPEN)]),
    ("has it", 0, SET, [HAS, compared("same")]),
    ("has it", 0, SET, [LACKS, said(), compared("same")]),
    ("ready", 0, ROTATE, [HAS]),
    ("done", 0, RUN, [said("hello")]),
    ("well", 0, ("doctor",), [lambda _: said(f"{time.time():.0f}", {"checks": []}, OPEN)]),
    ("whole", 0, ("log",), [said({"intact": True}, {"op": "get", "time": "2999-01-01T00:00:00Z"})]),
    ("enrolled", 0, ("enroll", "--yes"), [said(OPEN), key_of]),
    ("left", 0, ("leave", "--yes"), [said({"ok": True}, {"ok": True, "desk": "desk-fleet", "key": None})]),
    ("has none", 0, ROTATE, [LACKS]),
    ("not verified", 0, ("log",), [said(error("locked"))]),
    ("waiting", 3, ("status",), [said(state("waiting", code="7K3F", waiting={"since": "12:03"}), code=3)]),
    ("locked", 3, SET, [said(state("locked"), code=3)]),
    ("locked", 3, RUN, [avault.Ended(3, "", "avault: error: the vault is locked", True)]),
    ("unpaired", 3, ("status",), [said(state("unpaired"), code=3)]),
    ("starting", 6, ("status",), [said(state("starting"), code=6)]),
    ("stopped", 6, ("status",), [said(state("stopped"), code=6)]),
    ("no vault", 4, ("status",), [said(state("stopped", dir="/home/bot/clawd/.avault"), code=4)]),
    ("not there", 4, RUN, [avault.Ended(4, "", "avault: error: there is no group stripe", True)]),
    ("refused", 5, ("lock",), [said(error("denied"), OPEN)]),
    ("refused", 5, ("enroll", "--yes"), [said({**OPEN, "signer_npub": NPUBS["agent_npub"]})]),
    ("not enrolled", 5, ("unlock", "--together"), [said({"desk": "desk-fleet", "key": AGENT}, state("locked"))]),
    ("not let in", 5, ("status",), [ssh("me@web1: Permission denied (publickey).")]),
    ("down", 6, ("lock",), [ssh("ssh: connect to host web1 port 22: Connection refused")]),
    ("shut out", 6, ("status",), [ssh(SHUT)]),
    ("no such host", 6, ("status",), [ssh("ssh: Could not resolve hostname web1: Name or service not known")]),
    ("no avault", 6, ("status",), [ssh("bash: line 1: avault: command not found", 127)]),
    ("no answer", 7, ("status",), [GONE]),
    ("not approved", 7, ("unlock",), [said(state("locked")), said(error("timed_out"), state("locked"))]),
    ("not approved", 7, ("enroll", "--yes"), [said(OPEN), said(error("timed_out"))]),
    ("unknown", 7, SET, [LACKS, GONE]),
    ("unknown", 7, ("lock",), [ssh("Connection to web1 closed by remote host.")]),
    ("unknown", 7, RUN, [GONE]),
    ("host key changed", 8, SET, [ssh(KEY_CHANGED)]),
    ("unknown host key", 8, ("status",), [ssh(NO_KEY)]),
    ("tampered", 8, ("log",), [said(error("tampered"), code=8)]),
    ("too old", 2, ("status",), [avault.Ended(2, "", "Error: No such option: --json", True)]),
    ("too old", 2, ("doctor",), [said("", OPEN)]),
    ("ssh refuses", 2, ("status",), [ssh("/home/me/.ssh/config: line 3: Bad configuration option: hots")]),
    ("has another", 1, SET, [LACKS, said(), compared("differs"), HAS]),
    ("not restarted", 1, ROTATE, [HAS, compared("differs"), said(), compared("same"), said(code=1)]),
    ("still unlocked", 1, ("lock",), [said(OPEN)]),
    ("N wrong", 1, ("doctor",), [said("1000000000", {"checks": [{"state": "bad", "name": "x", "text": "y"}]}, OPEN)]),
    ("failed", 1, RUN, [avault.Ended(9, "", "no balance", True)]),
    ("no sense", 1, ("status",), [said("{ hello")]),
]  # fmt: skip


class Script:
    """Hosts of which web1 answers one by one; what is not asked for is a fault. Others are down."""

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = [*replies]

    async def reach(self, host: avault.Host, line: str, data: bytes | None = None, *_: Any, **__: Any) -> avault.Ended:
        if host.name != "web1":
            return ssh("ssh: connect to host web2 port 22: Connection refused")
        reply = self.replies.pop(0)
        return reply if isinstance(reply, avault.Ended) else reply(data or b"")


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list with one host, at a desk that may open it; nothing is started, and this process stays as it is."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(avault, "harden", lambda *_: None)
    monkeypatch.setattr(avault, "read_value", lambda *_: "sk-1")
    monkeypatch.setattr(avault, "is_person", lambda: False)
    monkeypatch.setattr(avault.Crew, "__init__", lambda *_: None)
    monkeypatch.setattr(avault.Crew, "deadline", 1.0, raising=False)
    desk = avault.DeskFile(avault.make_keys(), OPERATOR, OPERATOR, ["ws://localhost:1"], "laptop")
    desk.groups["fleet"] = [avault.make_fleet_key(desk, "fleet", {"web1": AGENT})[1]]
    desk.save()
    return tmp_path / "fleet"


@pytest.mark.parametrize(("word", "code", "command", "replies"), ROWS, ids=[f"{row[0]}, {row[2][0]}" for row in ROWS])
def test_a_row(
    hosts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    word: str, code: int, command: tuple[str, ...], replies: list[Reply],
) -> None:  # fmt: skip
    script = Script(replies)
    monkeypatch.setattr(avault.Crew, "reach", lambda _, *given, **named: script.reach(*given, **named))
    is_held_up = word in ("ready", "has none")  # by another host, else it would be given to it
    hosts.write_text("web1\nweb2\n" if is_held_up else "web1\n")
    ended = avault.run_command(["fleet", command[0], "--hosts", str(hosts), "--json", *command[1:]])
    row = json.loads(capfd.readouterr().out)["hosts"][0]
    assert (re.sub(r"^\d+", "N", row["word"]), row["code"]) == (word, code) and not script.replies
    assert ended == (1 if is_held_up else code)


def test_each_row_of_the_document_is_here() -> None:
    """With its exit code; and what is said to do next is said of a word that there is."""
    text = documents.read("references/fleet.md").partition("## What a row says")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    written = {(word.strip("`| "), int(row[1])) for row in rows for word in row[0].split(",")}
    assert written == {(word, code) for word, code, *_ in ROWS}
    words = {word for word, _ in written}
    assert words >= {word for _, word, _ in avault.REFUSALS} | {*avault.NEXT} | {*avault.ERROR_WORDS.values()}
    assert words >= avault.STATE_CODES.keys()


def test_each_complaint_is_answered() -> None:
    """By a test that there is (test_documents.py), or more than one."""
    text = documents.read("references/fleet.md").partition("## What people complain about")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10 and all("github.com" in row and "`test_" in row.rpartition(" | ")[2] for row in rows)


@pytest.mark.parametrize(
    ("refused", "word", "says"),
    [
        (avault.Denied("the signer refused: no permission"), "refused", "gone from the app: avault fleet pair"),
        (avault.Denied("the signer refused: user rejected"), "refused", "user rejected"),
        (avault.TimedOut("nobody approved in time"), "not approved", "nobody approved"),
    ],
)
def test_a_phone_that_does_not_open_them_together(
    hosts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    refused: avault.AvaultError, word: str, says: str,
) -> None:  # fmt: skip
    async def refuse(*_: Any) -> None:
        raise refused

    async def enter(signer: avault.DeskSigner) -> avault.DeskSigner:
        assert signer.remote.code.pair_anew == "avault fleet pair"
        return signer

    async def leave(*_: Any) -> None:
        pass

    for name, done in (("ask", refuse), ("__aenter__", enter), ("__aexit__", leave)):
        monkeypatch.setattr(avault.DeskSigner, name, done)
    key = avault.DeskFile.need().groups["fleet"][0]["hosts"]["web1"]["key"]
    script = Script([said({"desk": "desk-fleet", "key": key}, state("locked"))])
    monkeypatch.setattr(avault.Crew, "reach", lambda _, *given, **named: script.reach(*given, **named))
    hosts.write_text("web1\n")
    avault.run_command(["fleet", "unlock", "--together", "--hosts", str(hosts), "--json"])
    row = json.loads(capfd.readouterr().out)["hosts"][0]
    assert row["word"] == word and says in row["note"]
    assert ("fleet pair" in row["note"]) == ("no permission" in refused.message), "a person's refusal is no lost pairing"


def test_a_group_is_of_twenty_machines_at_most(hosts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One that is in it counts: nothing is asked of any host, and no phone."""
    hosts.write_text("".join(f"bot{number}\n" for number in range(20)))
    assert avault.run_command(["fleet", "enroll", "--yes", "--hosts", str(hosts), "--json"]) == 2
    assert "21 machines; a group has at most 20" in capfd.readouterr().err
    assert avault.DeskFile.need().members("fleet") == {"web1"}


def test_figures_of_the_document() -> None:
    """What ssh is called with, word by word; and how many events an agent costs a relay that waits."""
    text = documents.read("references/fleet.md")
    options = " ".join(f"-o {name}={value}" for name, value in avault.SSH_OPTIONS.items())
    assert f"`-T -a -x {options}`" in text
    sent = [0.0, *(at for at, _ in itertools.takewhile(lambda step: step[0] <= 3600, avault.plan_requests(patient=True)))]
    first, later = len([at for at in sent if at < 600]) / 600, 1 / (sent[-1] - sent[-2])
    assert f"{len(sent)} events in the first hour" in text and "some 22 events a second at first, and 3 to 4 after" in text
    assert round(1000 * first) == 22 and 3 < 1000 * later < 4


def test_who_is_let_in_already_is_not_asked_again(
    hosts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A fleet grows: whoever enrolls all of it again has the phones of the new ones asked alone."""
    hosts.write_text("web1\n")
    key = avault.DeskFile.need().groups["fleet"][0]["hosts"]["web1"]["key"]
    before = Path(avault.DeskFile.path()).read_bytes()
    for shown, replies in ((key, []), (AGENT, [key_of])):
        script = Script([said({"desk": "desk-fleet", "key": shown}, OPEN), *replies])
        monkeypatch.setattr(avault.Crew, "reach", lambda _, *given, script=script, **named: script.reach(*given, **named))
        assert avault.run_command(["fleet", "enroll", "--yes", "--hosts", str(hosts), "--json"]) == 0
        row = json.loads(capfd.readouterr().out)["hosts"][0]
        assert row["word"] == "enrolled" and ("already" in row["note"]) == (not replies) and not script.replies
        assert (Path(avault.DeskFile.path()).read_bytes() == before) == (not replies)


def test_what_ssh_says_of_a_host_is_said_once(
    hosts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`run` prints what a command printed; where none was begun there is nothing."""
    hosts.write_text("web2\n")
    monkeypatch.setattr(avault.Crew, "reach", lambda _, *given, **named: Script([]).reach(*given, **named))
    assert avault.run_command(["fleet", *RUN[:1], "--hosts", str(hosts), *RUN[1:]]) == 6
    shown = capfd.readouterr()
    assert shown.err.count("Connection refused") == 1 and not shown.out
