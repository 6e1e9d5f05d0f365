"""Every file of ours cut short at each length and flipped at each bit, mixed, replayed: refused by name, and left as it is.

What opens the vault runs here in this process, a thousand times faster than the command, and is all of it but the socket:
the keyholder that reads the files, asks its custody, loads the store and turns the ratchet. A sample goes through the
command and its daemon. test_seal.py and test_store.py look at the functions one by one.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import figures
import nostr_sdk
import pytest
from harness import SOURCE, Machine
from hypothesis import given, settings
from hypothesis import strategies as st
from test_seal import Example

import avault

CUSTODY, SHARED = "custody-box.json", "custody-fleet.json"
pytestmark = [pytest.mark.proof, pytest.mark.timeout(figures.pick(300, 7200))]

REFUSED = ["avault.enc", "nsec.enc", "unlock.json", "pin.json", "machine.json", "offered.json", "pairing.json"]
REFUSED += [CUSTODY, SHARED]
# The vault opens beside these: nothing hangs on them.
OPENED = ["nip46.json", ".gitattributes", "access.log", "socket", "python", "recovery.json", "log.json"]
ANEW = ["recovery.json", "log.json"]  # written again, of what was looked at


def close_log(log: avault.AccessLog) -> None:
    """What the end of a process closes."""
    for ledger in (log.releases, log.refusals):
        os.close(ledger.file)


def sign_custodian(keys: nostr_sdk.Keys, content: dict[str, Any]) -> dict[str, str]:
    """What makes a custodian one for all machines."""
    unsigned = avault.Unsigned()
    unsigned.expect(keys, content)
    return unsigned.sign(content)


def box(keys: nostr_sdk.Keys, sealed: dict[str, Any]) -> dict[str, Any]:
    """The content of a custodian's file, as it was agreed to."""
    content = {
        "custodian": "box",
        "kind": "program",
        "account": "box",
        "asks": False,
        "settings": {"path": "/nowhere"},
        "kept": None,
        **sealed,
    }
    return {**content, "agreed": avault.mark_agreed(keys, {**content, "shared": False})}


class Disk(Example):
    """A vault and a state directory with every file that there can be, and the keys to it."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.nsec = self.agent.secret_key().to_bech32()
        names = self.identity, self.vault.operator, self.vault.name
        self.unlock_key, sealed = avault.seal_keys(self.agent, *names, "box")
        digest = avault.sha256(self.path("avault.enc").read_bytes()).hex()
        self.write("pin.json", avault.encode_file("pin", avault.describe_pin(self.vault, digest)))
        self.write(CUSTODY, avault.encode_file("custody", box(self.agent, sealed)))
        self.shared_key, sealed = avault.seal_keys(self.agent, *names, "fleet")
        shared = {**box(self.agent, sealed), "custodian": "fleet"}
        shared |= sign_custodian(self.agent, shared)
        self.write(SHARED, avault.encode_file("custody", shared))
        self.write("offered.json", avault.encode_file("offered", {"count": 3}))
        digest = avault.sha256(self.path("nsec.enc").read_bytes()).hex()
        self.write("recovery.json", avault.encode_file("recovery", {"hash": digest}))
        self.write("socket", os.fsencode(top / "run" / "avault@here.sock"))
        self.write("python", os.fsencode(sys.executable))
        self.write(".gitattributes", avault.GITATTRIBUTES)
        self.log = avault.AccessLog(self.places.state, self.agent, is_new=True)
        for number in range(5):
            caller = {"pid": number, "uid": 0, "exe": "/usr/bin/x", "parent": None}
            self.log.write({"op": "get", "group": "openai", "key": "API_KEY"}, caller, "ok")
        self.log.save()
        self.good = self.files()

    def path(self, name: str) -> Path:
        shared = ("avault.enc", "nsec.enc", "nip46.json", ".gitattributes", SHARED)
        return Path(self.places.dir if name in shared else self.places.state, name)

    def load(self, custody: str) -> dict[str, Any]:
        """What a custodian needs, as the supervisor reads it; raises Tampered."""
        if custody == "shared":
            return avault.Shared(self.places).load("fleet", avault.to_npub(avault.public_hex(self.agent)))
        return avault.Custodians(self.places).load("box")

    def files(self) -> dict[str, bytes]:
        """All that is on the disk, temporary files too."""
        found = [path for top in (self.places.dir, self.places.state) for path in Path(top).iterdir()]
        return {path.name: path.read_bytes() for path in found}

    def restore(self, found: dict[str, bytes] | None = None) -> None:
        """Have all files as they were at first; `found` is what is there."""
        found = self.files() if found is None else found
        for name in found.keys() - self.good.keys():
            self.path(name).unlink()
        for name, data in self.good.items():
            if found.get(name) != data:
                self.write(name, data)

    async def open(self, custody: str = "nsec") -> tuple[avault.Keyholder, str | None]:
        """The keyholder's way to the vault: what came of it, and the code of the error that ended it."""
        given = {
            "nsec": self.nsec,
            "custodian": json.dumps({"outcome": "ok", "value": self.unlock_key}),
            "shared": json.dumps({"outcome": "ok", "value": self.shared_key}),
            "phone": None,
        }[custody]
        ours, theirs = socket.socketpair()
        keyholder, sent = avault.Keyholder(self.places, ours, (None, None)), []
        keyholder.control.send = lambda message, fd=None: sent.append(message)
        fd = None
        if given is not None:
            mine, end = socket.socketpair()
            end.sendall(given.encode())
            end.close()
            fd = mine.detach()
        if custody in ("custodian", "shared") and fd is not None:
            message = {"number": "1", "limit": 9, "accept_rollback": False}
            try:
                content = self.load(custody)
                message |= {"custodian": content["custodian"], "content": content}
                await keyholder.unlocking.try_custodian(message, fd)
            except avault.AvaultError as error:
                os.close(fd)
                sent.append({"failed": error.to_dict()["error"]})
        else:
            await keyholder.unlocking.unlock(fd)
        keyholder.control.close()
        theirs.close()
        if fd is not None and not keyholder.unlocking.shown and custody == "nsec":
            os.close(fd)  # it did not come to read it; it ends then, and this process does not
        if keyholder.holding.log:
            close_log(keyholder.holding.log)
        errors = [message["failed"] for message in sent if message.get("failed")]
        assert not [error for error in errors if "avault failed" in error["message"] or not error["message"]], errors
        return keyholder, errors[0]["code"] if errors else None


@pytest.fixture
def disk(tmp_path: Path, place, monkeypatch) -> Iterator[Disk]:
    """Where a phone is asked, nobody answers. Nothing waits for the disk or a thread: that is not the question here."""

    def connect(*_: object) -> None:
        raise avault.TimedOut("the phone is asked, and nobody answers")

    async def at_once(work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    monkeypatch.setattr(avault.Contact, "connect", connect)
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    disk = Disk(tmp_path)
    yield disk
    close_log(disk.log)


def some(count: int, wanted: int | None) -> list[int]:
    """The numbers below `count`: all of them, or a sample with both ends."""
    if wanted is None or count <= wanted:
        return list(range(count))
    return sorted({0, count - 1, *random.Random(count).sample(range(count), wanted)})


def damaged(good: bytes, wanted: int | None) -> Iterator[tuple[str, bytes]]:
    """The file cut short, at every length, and with one other bit, each of them; or some of these."""
    for length in some(len(good), wanted and wanted // 3):
        yield "truncated", good[:length]
    for bit in some(8 * len(good), wanted):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        yield "flipped", bytes(bad)


# One file at a time


async def test_no_damage_opens_the_vault_or_is_written_over(disk):
    """Exit 8, whatever the damage; or, for what the vault does not hang on, the vault as it was. Nothing else is written."""
    count: Counter[str] = Counter()
    for name in [*REFUSED, *OPENED]:
        custody = {"pairing.json": "phone", CUSTODY: "custodian", SHARED: "shared"}.get(name, "nsec")
        for how, bad in damaged(disk.good[name], figures.pick(21, None)):
            disk.write(name, bad)
            if name == "nsec.enc":  # asked for only where a machine has nothing better
                disk.path("unlock.json").unlink()
            keyholder, code = await disk.open(custody)
            after = disk.files()
            wanted = "tampered" if name in REFUSED else None
            assert code == wanted, (name, how, bad)
            changed = {file for file in after.keys() | disk.good.keys() if after.get(file) != disk.good.get(file)} - {name}
            if name in REFUSED:
                assert keyholder.holding.store is None
                # the answer that came must open nothing tomorrow, whatever the vault says
                assert changed <= {"unlock.json"} and (name != "unlock.json" or after[name] == bad), (name, changed)
            else:
                assert keyholder.holding.store and keyholder.holding.store.vault.to_json() == disk.vault.to_json()
                assert changed <= {"unlock.json", "access.log", "log.json"}, (name, changed)
                assert name != "nip46.json" or "hints" in keyholder.reporter.warnings
            mended = name == "recovery.json" and after[name] == disk.good[name]
            if name == "log.json":  # that the bounds of the log before are not known is in those after
                assert keyholder.holding.log and not keyholder.holding.log.verify()["intact"], bad
                mended = True
            assert after[name] == bad or mended or (name == "access.log" and after[name].startswith(bad)), name
            count[how] += 1
            disk.restore(after)
    for custody in ("nsec", "custodian", "shared"):  # the control
        keyholder, code = await disk.open(custody)
        assert code is None and keyholder.holding.store, custody
        disk.restore()
    figures.at_least("truncated files on the way to an open vault", count["truncated"])
    figures.at_least("flipped bits on the way to an open vault", count["flipped"])


def test_an_open_vault_is_served_and_not_written_over_damage(disk, monkeypatch):
    """The file breaks under a running keyholder: reads go on, writes are refused by name, and the file is left."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # it would be looked at again after that, and be the same
    store = avault.Store.load(disk.places, disk.agent, avault.read_unlock(disk.places)[0])
    good, count = disk.good["avault.enc"], 0
    for _, bad in damaged(good, figures.pick(150, None)):
        disk.write("avault.enc", bad)
        [refused] = store.write([lambda vault: vault.put("g", "K", "x", 1, store.machine)])
        assert isinstance(refused, avault.Tampered) and "avault.enc" in refused.message
        store.refresh()
        assert store.vault.to_json() == disk.vault.to_json() and store.trouble
        files = disk.files()
        assert files.pop("avault.enc") == bad
        assert files.items() <= disk.good.items() and len(files) == len(disk.good) - 1
        count += 1
    disk.write("avault.enc", good)
    assert store.write([lambda vault: vault.put("g", "K", "x", 1, store.machine)]) == [None]
    figures.at_least("damaged vaults under a running keyholder", count)


def test_doctor_and_status_name_every_damage(disk, monkeypatch):
    """Both look at files that may be anything; neither stumbles, and what the vault needs is called bad."""
    shown: list[str] = []
    monkeypatch.setattr(avault, "put", shown.append)
    checks = [avault.CHECKS[name] for name in ("vault", "state", "custodians", "socket", "python")]
    count = 0
    for name in [*REFUSED, *OPENED]:
        for _, bad in damaged(disk.good[name], figures.pick(12, 300)):
            disk.write(name, bad)
            patient = avault.Patient(disk.places, offline=True)
            findings = [finding for check in checks for finding in avault.run_check(check, patient)]
            assert not [each for each in findings if "could not be looked at" in each.text], (name, bad)
            if name in REFUSED and name != "avault.enc":  # which only its key can judge
                assert [each for each in findings if each.state == "bad" and name in each.text], (name, bad)
            if name == "python" and not os.path.isfile(os.fsdecode(bad)):
                assert [each for each in findings if "which the daemon ran with, is gone" in each.text], bad
            assert (
                avault.cmd_status(avault.Terminal(disk.places.dir, want_json=True), watch=False, short=False)
                == avault.Unavailable.exit_code
            )
            status = json.loads(shown.pop())
            assert (name != "unlock.json") or name in status["warnings"][0]
            assert disk.files() == {**disk.good, name: bad}
            count += 1
            disk.restore({**disk.good, name: bad})
    figures.at_least("damaged files that doctor and status looked at", count)


# The access log


def test_every_damage_of_the_access_log_is_named(disk):
    """By the keyholder that wrote it, and by the next one, which knows from log.json where it ended."""
    good, count = disk.good["access.log"], 0
    for _, bad in [
        *damaged(good, figures.pick(450, None)),
        *(("", good.replace(b"\n", end)) for end in (b"\r", b"\r\n", b"\n\n")),
    ]:
        disk.write("access.log", bad)
        found = disk.log.verify()
        assert not found["intact"] and found["problem"], bad
        [avault.render_line(line) for line in avault.Reader(disk.places.own("access.log"), older=4).lines()]
        count += 1
        following = avault.AccessLog(disk.places.state, disk.agent, is_new=False)
        following.write({"op": "unlock"}, {"pid": 1, "uid": 0, "exe": None, "parent": None}, "ok")
        close_log(following)
        is_mended = bad + b"\n" == good  # the next keyholder ends a line that was cut off
        assert following.verify()["intact"] == is_mended, bad
        assert disk.files() == {**disk.good, "access.log": disk.path("access.log").read_bytes()}
        assert disk.path("access.log").read_bytes().startswith(bad)
    disk.write("access.log", good)
    assert disk.log.verify()["intact"]
    figures.at_least("damages of the access log that were named", count)


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b'{"n": 1e999, "mac": ""}', b'{"n": NaN, "mac": 1}', b'{"n": ' + b"9" * 5000 + b"}"]
)
async def test_a_line_that_is_a_trap_for_parsers(disk, line):
    disk.write("access.log", disk.good["access.log"] + line + b"\n")
    assert not disk.log.verify()["intact"]
    keyholder, code = await disk.open()
    assert code is None and keyholder.holding.log and not keyholder.holding.log.verify()["intact"]


# What leads to the daemon, and to the interpreter


def with_odd_bytes(good: bytes) -> Iterator[bytes]:
    """All truncations and flips, and bytes that no path has."""
    yield from (good[:length] for length in range(len(good)))
    for place in range(len(good)):
        yield from (good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :] for bit in range(8))
        yield from (good[:place] + odd + good[place + 1 :] for odd in (b"\0", b"\xff", b"\n", b"x" * 300))


def test_a_damaged_socket_file_leads_nowhere(disk):
    """A daemon that cannot be found is no daemon; that is said, with exit 6."""
    terminal = avault.Terminal(disk.places.dir, want_json=False)
    for bad in list(with_odd_bytes(disk.good["socket"]))[:: figures.pick(5, 1)]:
        disk.write("socket", bad)
        assert avault.fast_exchange(disk.places, {"op": "list"}, None) is None
        with pytest.raises(avault.NoDaemon):
            terminal.ask("list")
        assert not terminal.is_running()


class Became(Exception):
    """Another program would go on."""


def test_a_damaged_interpreter_file_is_no_traceback(disk, monkeypatch, capfd):
    """Where this Python lacks what avault needs, the recorded one goes on if it can be started; else that is said."""

    def execv(path: str, argv: list[str]) -> None:
        if not os.path.isfile(path):
            raise PermissionError(13, "Permission denied")
        raise Became

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(sys, "executable", "/another/python")
    words = ["list", "--dir", disk.places.dir]
    with pytest.raises(Became):
        avault.use_right_interpreter(words, words)
    said = 0
    for bad in with_odd_bytes(disk.good["python"]):
        disk.write("python", bad)
        with pytest.raises((Became, SystemExit)) as ended:
            avault.use_right_interpreter(words, words)
        said += ended.type is SystemExit and ended.value.code == 1
    assert said > 100 and capfd.readouterr().err.count("avault: error: this Python has no click") == said


# Mixtures


def history(agent: nostr_sdk.Keys, operator: str, identity: str, length: int) -> list[bytes]:
    """The files of a vault at each of its writes, each in several parts."""
    vault, files = avault.Vault(identity, avault.public_hex(agent), operator, "test@machine"), []
    for number in range(length):
        for key in range(8):
            vault.put("g", f"K{key}", f"{number} {key} ".ljust(250, "x"), 1, "m")
        vault.generation = {"m": number + 1}
        files.append(avault.seal_vault(vault, agent))
        vault.sources = [avault.sha256(files[-1]).hex()]
    return files


def test_mixed_parts_open_nothing(disk, monkeypatch):
    """Parts of this vault's generations, of another vault of the agent, of another agent: dropped, repeated, reordered, mixed.

    Only a whole file of one generation is a vault, and only one that is not older than what this machine has seen is served.
    """
    monkeypatch.setattr(avault, "PART_LIMIT", 1000)
    operator, stranger = disk.vault.operator, nostr_sdk.Keys.generate()
    own = history(disk.agent, operator, disk.identity, 3)
    others = [*history(disk.agent, operator, "ff" * 16, 2), *history(stranger, operator, disk.identity, 2)]
    latest = own[-1]
    lines = [[line + b"\n" for line in file.splitlines()] for file in [*own, *others]]
    assert all(len(parts) > 2 for parts in lines)
    disk.write(
        "pin.json",
        avault.encode_file("pin", avault.describe_pin(avault.open_vault(latest, disk.agent), avault.sha256(latest).hex())),
    )
    content, pin = avault.read_unlock(disk.places)[0], disk.path("pin.json").read_bytes()
    chance, seen, count = random.Random(figures.FULL), set(), 0
    good = lines[2]
    pool = [line for parts in lines for line in parts]
    while count < figures.pick(600, 100_000):
        kind = chance.randrange(5)
        if kind == 0:  # one part of another file in the place of ours
            mixed = [
                chance.choice(lines)[place % len(lines[0])] if chance.random() < 0.3 else line for place, line in enumerate(good)
            ]
        elif kind == 1:
            mixed = chance.sample(good, len(good))
        elif kind == 2:
            mixed = sorted(chance.choices(range(len(good)), k=len(good) + chance.randrange(-1, 2)))
            mixed = [good[place] for place in mixed]
        elif kind == 3:
            mixed = chance.choices(pool, k=chance.randrange(1, len(good) + 2))
        else:
            mixed = chance.choice(lines)
            mixed = [*mixed[: chance.randrange(len(mixed) + 1)], *chance.choice(lines)[chance.randrange(len(mixed)) :]]
        data = b"".join(mixed)
        if data == latest:
            continue
        disk.write("avault.enc", data)
        with pytest.raises(avault.Tampered):
            avault.Store.load(disk.places, disk.agent, content)
        seen.add(data)
        count += 1
        assert disk.path("avault.enc").read_bytes() == data and disk.path("pin.json").read_bytes() == pin
    disk.write("avault.enc", latest)
    assert avault.Store.load(disk.places, disk.agent, content).vault.generation == {"m": 3}
    figures.at_least("mixtures of a vault's parts that were refused", len(seen))


def opens(data: bytes, store: avault.Store) -> bool:
    """Whether an nsec.enc leads to this vault."""
    try:
        avault.verify_recovery(data, store.keys, store.vault)
    except avault.Tampered:
        return False
    return True


async def test_mixed_files_never_open_something_else(disk):
    """Each file now, as it was one write ago, of another vault of the same agent, of another agent, or none at all.

    Where a mixture opens, it opens the vault that is on the disk, which is neither older than its pin nor another's than
    the sealed key says. Where it does not, the vault's files are as they were.
    """
    operator = disk.vault.operator
    names = ("vault", "name", "agent", "operator")
    variants: dict[str, list[bytes | None]] = {}

    def take(agent: nostr_sdk.Keys, identity: str, generation: int) -> None:
        vault = avault.Vault(identity, avault.public_hex(agent), operator, "test@machine")
        vault.put("g", "K", f"{identity} {generation}", 1, "m")
        vault.generation = {"m": generation}
        data = avault.seal_vault(vault, agent)
        sealed = [avault.seal_nsec(agent, identity, operator, "test@machine", "machine") for _ in range(2)]
        pairing = avault.Pairing(nostr_sdk.Keys.generate(), "11" * 32, avault.public_hex(agent), operator, [])
        pairing.save(disk.places)
        for name, each in {
            "avault.enc": data,
            "nsec.enc": avault.encode_file("nsec", sealed[0]),
            "unlock.json": avault.encode_file("unlock", {**sealed[1], "proven": None, "quick": 0}),
            "pin.json": avault.encode_file("pin", avault.describe_pin(vault, avault.sha256(data).hex())),
            "pairing.json": disk.path("pairing.json").read_bytes(),
            "machine.json": avault.encode_file("machine", {"id": os.urandom(8).hex(), "host": ""}),
            "nip46.json": avault.encode_hints(avault.public_hex(agent), operator, [], "test@machine"),
        }.items():
            variants.setdefault(name, [None]).append(each)

    take(disk.agent, disk.identity, 2)
    take(disk.agent, disk.identity, 1)
    take(disk.agent, "ff" * 16, 2)
    take(nostr_sdk.Keys.generate(), disk.identity, 2)
    chance, outcomes = random.Random(figures.FULL), Counter()
    own = set(variants["avault.enc"][1:3])
    for _ in range(figures.pick(80, 3000)):
        disk.restore()
        mixed = {name: chance.choices(each, weights=[1, 5, 3, 2, 2])[0] for name, each in variants.items()}
        for name, data in mixed.items():
            disk.path(name).unlink() if data is None else disk.write(name, data)
        keyholder, code = await disk.open(chance.choice(["nsec", "nsec", "nsec", "phone"]))
        if keyholder.holding.store:
            found = avault.open_vault(mixed["avault.enc"], disk.agent)
            assert keyholder.holding.store.vault.to_json() == found.to_json()
            sealed = json.loads(mixed["unlock.json"] or mixed["nsec.enc"])
            assert (sealed["vault"], sealed["agent"]) == (found.identity, avault.to_npub(found.agent))
            pinned = json.loads(mixed["pin.json"])["generation"] if mixed["pin.json"] else {}
            assert found.is_after(pinned) and (mixed["pin.json"] or keyholder.holding.store.warning)
            assert mixed["avault.enc"] in own or found.identity == "ff" * 16
        else:
            assert code in ("tampered", "not_found", "timed_out", "locked")
            assert code != "not_found" or (not mixed["unlock.json"] and not mixed["nsec.enc"])
        after = disk.files()
        kept = ["avault.enc", "nip46.json"]
        if (
            mixed["unlock.json"]
            and mixed["nsec.enc"]
            and (not keyholder.holding.store or opens(mixed["nsec.enc"], keyholder.holding.store))
        ):
            kept.append("nsec.enc")
        assert not keyholder.holding.store or opens(after["nsec.enc"], keyholder.holding.store), "or it is made anew"
        assert [after.get(name) for name in kept] == [mixed[name] for name in kept]
        if mixed["unlock.json"] and not mixed["nsec.enc"]:  # a recovery copy that is gone is made anew, of what was opened
            made = json.loads(after.get("nsec.enc", "null"))
            assert made or not keyholder.holding.store
            assert not made or [made[name] for name in names] == [json.loads(mixed["unlock.json"])[name] for name in names]
        outcomes[code] += 1
    assert outcomes[None] and outcomes["tampered"] and outcomes["timed_out"]
    figures.at_least("mixtures of files of four vaults", outcomes.total())


# What is accepted


AGENT = nostr_sdk.Keys.generate()
SIMPLE = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.sampled_from(["", "m", "a/b", "é"]),
    lambda x: st.lists(x, max_size=3),
    max_leaves=4,
)


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of some JSON, with each key or index in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places_in(value[key])


@settings(deadline=None, max_examples=figures.pick(100, 20_000))
@given(st.data())
def test_what_is_accepted_re_encodes_to_itself(data):
    """The agent's own hand writes plaintexts that are nearly right: in a header, in the body, or between."""
    vault = avault.Vault("00" * 16, avault.public_hex(AGENT), "o", "test@machine")
    vault.generation, vault.sources = {"m": 1}, ["22" * 32]
    vault.put("g", "K", "value", 1, "m")
    [part] = avault.split_vault(vault)
    head, body = (json.loads(text) for text in part.split("\n"))
    changed = data.draw(st.sampled_from([head, body]))
    container, key = data.draw(st.sampled_from(list(places_in(changed))))
    match data.draw(st.sampled_from(["drop", "replace", "add", "space", "nothing"])):
        case "drop":
            del container[key]
        case "replace":
            container[key] = data.draw(SIMPLE)
        case "add" if isinstance(container, dict):
            container[data.draw(st.sampled_from(["x", "K2", "m2"]))] = data.draw(SIMPLE)
    gaps = data.draw(st.sampled_from([(",", ":"), (", ", ": ")])), data.draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    written = json.dumps(head, separators=gaps[0]) + "\n" + json.dumps(body, separators=gaps[1])
    sealed = (avault.encrypt(AGENT, avault.public_hex(AGENT), written) + "\n").encode()
    with contextlib.suppress(avault.Tampered):
        assert avault.split_vault(avault.open_vault(sealed, AGENT)) == [written]


FIELD = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=3), max_size=2) | st.floats()


@settings(deadline=None, max_examples=figures.pick(100, 20_000))
@given(st.sampled_from(sorted(avault.FIELDS)), st.data())
def test_a_file_that_is_accepted_re_encodes_to_itself(kind, data):
    fields = avault.FIELDS[kind]
    right = {
        str: st.text(max_size=9),
        int: st.integers(),
        list: st.lists(FIELD, max_size=2),
        dict: st.dictionaries(st.text(max_size=3), FIELD, max_size=2),
    }
    content = {name: data.draw(right.get(each, FIELD) if isinstance(each, type) else FIELD) for name, each in fields.items()}
    written = avault.encode_file(kind, content)
    edit = data.draw(st.integers(0, len(written) - 1)), data.draw(st.sampled_from([b"", b" ", b"\n", b"\\u0061", b"1"]))
    for each in (
        written,
        written[: edit[0]] + edit[1] + written[edit[0] :],
        written[: edit[0]] + edit[1] + written[edit[0] + 1 :],
    ):
        with contextlib.suppress(avault.Tampered):
            assert avault.encode_file(kind, avault.decode_file(kind, each, "file")) == each


# The command


def test_the_command_says_so_and_leaves_the_file(machine: Machine):
    """A daemon stays, and each unlock meets another damage: exit 8 that names the file, nothing served, nothing written."""
    key = nostr_sdk.Keys.generate()
    nsec = key.secret_key().to_bech32()
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("set", "g/K", input="first")
    state = machine.own
    machine("lock", "--force")
    os.environ["XDG_STATE_HOME"] = str(machine.state)
    places = avault.Places(str(machine.vault))
    avault.write_file(places.own("offered.json"), avault.encode_file("offered", {"count": 3}))
    content = avault.read_unlock(places)[0]
    names = content["vault"], avault.parse_npub(content["operator"]), content["name"]
    _, sealed = avault.seal_keys(key, *names, "box")
    avault.write_file(places.own(CUSTODY), avault.encode_file("custody", box(key, sealed)))
    shared = {**box(key, avault.seal_keys(key, *names, "fleet")[1]), "custodian": "fleet"}
    shared |= sign_custodian(key, shared)
    avault.write_file(places.file(SHARED), avault.encode_file("custody", shared))
    where = {name: path for top in (machine.vault, state) for path in top.iterdir() if (name := path.name) in [*REFUSED, *OPENED]}
    assert len(where) == len([*REFUSED, *OPENED]) - 1  # no pairing
    chance, count = random.Random(figures.FULL), 0

    def files() -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in where.items() if path.exists()}

    for name, path in sorted(where.items()):
        if name in OPENED and not figures.FULL:
            continue
        for _, bad in chance.sample(list(damaged(path.read_bytes(), 60)), figures.pick(1, 20)):
            before = files()
            if name == "nsec.enc":
                where["unlock.json"].unlink()
            path.write_bytes(bad)
            done = machine("unlock", NOSTR_NSEC=nsec, code=8 if name in REFUSED and name not in (CUSTODY, SHARED) else 0)
            if done.returncode:
                assert "avault: error: " in done.stderr and name in done.stderr and not done.stdout
                assert "avault: hint: " in done.stderr
            else:
                assert machine("get", "g/K", secret=True).stdout == "first\n"
                machine("lock", "--force")
            after = files()
            assert name in ANEW or after[name] == bad or (name == "access.log" and after[name].startswith(bad)), name
            assert [after[each] for each in ("avault.enc",) if each != name] == [
                before[each] for each in ("avault.enc",) if each != name
            ]
            path.write_bytes(before[name])
            for each in before.keys() - files().keys():
                where[each].write_bytes(before[each])
            count += 1
    machine("unlock", NOSTR_NSEC=nsec)
    assert machine("get", "g/K", secret=True).stdout == "first\n"
    figures.at_least("damaged files that the command met", count)


@pytest.mark.parametrize("bad", [b"/usr", b"/nothing", b"\xff\xfe", b"/usr/bin/\0python", b"/etc/passwd", b""])
def test_an_interpreter_that_lacks_what_is_needed_says_so(machine: Machine, bad: bytes):
    """The real command under a Python without our packages, beside a damaged record of the right one."""
    state = Path(machine.state, "avault", avault.vault_id(str(machine.vault)))
    state.mkdir(parents=True)
    (state / "python").write_bytes(bad)
    done = subprocess.run([sys.executable, "-I", "-S", SOURCE, "status"], env=machine.env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("avault: error: this Python has no click"), done.stderr
    assert (state / "python").read_bytes() == bad
