"""The files: each has one encoding, anything else is refused; and each is replaced whole or not at all.

AVAULT_TEST_FULL=1 tries every prefix and every bit; otherwise it is a sample, another one in each file.
"""

import contextlib
import errno
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import avault

FULL = bool(os.environ.get("AVAULT_TEST_FULL"))
RELAYS = ["wss://relay.example.com", "ws://127.0.0.1:7777"]


class Example:
    """A vault directory and a state directory with every file that avault writes, and both keys."""

    def __init__(self, top: Path) -> None:
        self.agent, self.operator = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()
        self.identity = "00112233445566778899aabbccddeeff"
        self.places = avault.Places(str(top / "vault"))
        for directory in (self.places.dir, self.places.state):
            os.makedirs(directory, mode=0o700)
        operator = avault.public_hex(self.operator)
        self.vault = avault.Vault(self.identity, avault.public_hex(self.agent), operator, "test@machine")
        self.vault.put("openai", "API_KEY", "a value", 1, "m")
        self.vault.generation = {"m": 1}
        sealed = [avault.seal_nsec(self.agent, self.identity, operator, "test@machine", "machine") for _ in range(2)]
        pairing = avault.Pairing(nostr_sdk.Keys.generate(), "11" * 32, avault.public_hex(self.agent), operator, RELAYS)
        self.write("avault.enc", avault.seal_vault(self.vault, self.agent))
        self.write("nsec.enc", avault.encode_file("nsec", sealed[0]))
        self.write("nip46.json", avault.encode_hints(avault.public_hex(self.agent), operator, RELAYS, "test@machine"))
        self.write("unlock.json", avault.encode_file("unlock", {**sealed[1], "proven": None, "quick": 0}))
        self.write("pin.json", avault.encode_file("pin", {"generation": {"m": 1}, "hash": "22" * 32}))
        pairing.save(self.places)
        avault.machine_id(self.places)

    def path(self, name: str) -> Path:
        return Path(self.places.dir if name in ("avault.enc", "nsec.enc", "nip46.json") else self.places.state, name)

    def write(self, name: str, data: bytes) -> None:
        self.path(name).write_bytes(data)

    def read(self, name: str) -> object:
        """What avault makes of a file, to the end: keys are decrypted and parsed."""
        match name:
            case "avault.enc":
                return avault.open_vault(self.path(name).read_bytes(), self.agent).to_json()
            case "nsec.enc" | "unlock.json":
                if name == "nsec.enc":
                    self.path("unlock.json").unlink(missing_ok=True)
                content, own = avault.read_unlock(self.places)
                assert own == (name == "unlock.json")
                return content, avault.open_nsec(content, self.answer(content["envelope"])).secret_key().to_hex()
            case "pairing.json":
                found = avault.Pairing.load(self.places)
                assert found
                return found.keys.secret_key().to_hex(), found.signer, found.agent, found.operator, found.relays, found.by_itself
            case "pin.json":
                return avault.read_pin(self.places)
            case "machine.json":
                return avault.machine_id(self.places)
            case "nip46.json":
                return avault.read_hints(str(self.path(name)))
        raise AssertionError(name)

    def answer(self, envelope: str) -> str:
        """What the phone says; nothing if it cannot open it."""
        try:
            return avault.decrypt(self.operator, avault.public_hex(self.agent), envelope)
        except ValueError:
            return ""

    def is_refused(self, name: str, data: bytes) -> None:
        """Reading this instead must raise Tampered, and change nothing on the disk."""
        self.write(name, data)
        with pytest.raises(avault.Tampered):
            self.read(name)
        assert self.path(name).read_bytes() == data


@pytest.fixture
def example(tmp_path: Path, place) -> Example:
    return Example(tmp_path)


CHECKED = ["avault.enc", "nsec.enc", "unlock.json", "pairing.json", "pin.json", "machine.json"]
ALL = [*CHECKED, "nip46.json"]


def sample(data: bytes, count: int, wanted: int = 400) -> list[int]:
    """Some of the numbers below `count`, or all; the ends always."""
    if FULL or count <= wanted:
        return list(range(count))
    return sorted({0, count - 1, *random.Random(data).sample(range(count), wanted)})


# Canonical


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_is_read(example, name):
    assert example.read(name)


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("name", ALL)
def test_every_prefix_is_refused(example, name):
    good = example.path(name).read_bytes()
    for end in sample(good, len(good)):
        example.is_refused(name, good[:end])


def flipped(good: bytes):
    for bit in sample(good, len(good) * 8, 1500):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        yield bytes(bad)


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.slow
def test_every_flipped_bit_is_refused(example, name):
    for bad in flipped(example.path(name).read_bytes()):
        example.is_refused(name, bad)


@pytest.mark.timeout(3600 if FULL else 120)
def test_every_flipped_bit_of_the_hints_is_refused_or_shows(example):
    """They are hints: what is accepted differs in something that can be compared with the vault."""
    before = example.read("nip46.json")
    for bad in flipped(example.path("nip46.json").read_bytes()):
        example.write("nip46.json", bad)
        try:
            assert example.read("nip46.json") != before
        except avault.Tampered:
            pass
        assert example.path("nip46.json").read_bytes() == bad


OTHERS = {
    "newline after": lambda data: data + b"\n",
    "space after": lambda data: data + b" ",
    "newline before": lambda data: b"\n" + data,
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "no newline": lambda data: data.rstrip(b"\n"),
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "twice": lambda data: data + data,
    "UTF-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "UTF-32": lambda data: data.decode("latin-1").encode("utf-32-be"),
    "empty": lambda data: b"",
    "a newline": lambda data: b"\n",
    "zeros": lambda data: bytes(len(data)),
    "deep": lambda data: b"[" * 100_000,
    "a long number": lambda data: b"9" * 100_000,
    "null": lambda data: b"null\n",
    "a conflict": lambda data: b"<<<<<<< ours\n" + data + b"=======\n" + data + b">>>>>>> theirs\n",
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("other", OTHERS)
def test_other_encodings_are_refused(example, name, other):
    example.is_refused(name, OTHERS[other](example.path(name).read_bytes()))


@pytest.mark.parametrize("name", CHECKED[1:])
@pytest.mark.parametrize("indent", [None, 1])
def test_other_json_of_the_same_content_is_refused(example, name, indent):
    content = json.loads(example.path(name).read_bytes())
    example.is_refused(name, json.dumps(content, indent=indent).encode() + b"\n")
    example.is_refused(name, json.dumps(dict(reversed(content.items())), indent=2).encode() + b"\n")


def forged(kind: str, content: dict, replace: dict, drop: str | None = None) -> bytes:
    """A file whose checksum is right: it protects from accidents, not from an author."""
    body = {key: value for key, value in content.items() if key not in ("type", "version", "checksum", drop)}
    return avault.encode_file(kind, {**body, **replace})


WRONG = [None, True, 5, -1, 1.5, "", "x", "npub1x", "é" * 70_000, [], ["x"], [None], {}, {"a": 1}, {"m": "1"}, {"m": -1}]


@pytest.mark.parametrize("name", CHECKED[1:])
def test_a_forged_field_is_refused(example, name):
    """Right checksum, wrong type or value. Whatever is accepted must not change a key or whose vault it is."""
    kind, good = name.split(".", maxsplit=1)[0], json.loads(example.path(name).read_bytes())
    free = {
        "name",
        "proven",
        "approves_by_itself",
        "quick",
        "relays",
        "hash",
        "generation",
        "id",
        "host",
    }  # what a thief with a pen may set
    accepted = []
    for field in [key for key in good if key not in ("type", "version", "checksum")]:
        for data in [forged(kind, good, {}, drop=field), *(forged(kind, good, {field: wrong}) for wrong in WRONG)]:
            example.write(name, data)
            try:
                example.read(name)
            except avault.Tampered:
                continue
            if field not in free or field not in json.loads(data):
                accepted.append((field, json.loads(data).get(field, "dropped")))
            elif type(json.loads(data)[field]) is not type(good[field]) and good[field] is not None:
                accepted.append((field, json.loads(data)[field]))
    assert not accepted
    example.is_refused(name, forged(kind, good, {"more": 1}))
    example.is_refused(name, forged("other", good, {}))


def test_a_file_of_another_kind_is_refused(example):
    for name in CHECKED[1:]:
        for other in CHECKED[1:]:
            if name.split(".")[0] != other.split(".")[0]:
                with pytest.raises(avault.Tampered):
                    avault.decode_file(name.split(".", maxsplit=1)[0], example.path(other).read_bytes(), name)


def test_what_is_sealed_says_what_it_is(example):
    """The words that every later avault will look for."""
    line = example.path("avault.enc").read_text().splitlines()[0]
    header = json.loads(avault.decrypt(example.agent, avault.public_hex(example.agent), line).partition("\n")[0])
    place = {"index": 0, "count": 1, "generation": {"m": 1}, "sources": [], "vault": example.identity}
    assert header == {"type": "avault/vault", "version": 1, **place}
    content = avault.decode_file("nsec", example.path("nsec.enc").read_bytes(), "")
    unlock = avault.parse_keys(json.loads(example.answer(content["envelope"]))["avault"])
    assert json.loads(avault.decrypt(unlock, avault.public_hex(unlock), content["sealed"])) == {
        "type": "avault/nsec", "version": 1, "vault": example.identity, "name": "test@machine",
        "operator": avault.to_npub(avault.public_hex(example.operator)), "nsec": example.agent.secret_key().to_bech32(),
    }  # fmt: skip


# Envelopes


def test_the_phone_sees_a_sentence_and_no_nsec(example):
    content, _ = avault.read_unlock(example.places)
    event = json.loads(avault.decrypt(example.operator, avault.public_hex(example.agent), content["envelope"]))
    what = f"test@machine on machine, code {avault.request_code(content['sealed'])}"
    assert event["content"] == f"avault: unlock {what}. Approve only if you expect it."
    assert event["tags"] == [["alt", f"unlock the vault of {what}"]]
    assert event["pubkey"] == avault.public_hex(example.agent) and event["kind"] not in (13, 3, 22242)
    assert (event["id"], event["sig"]) == ("", ""), "nobody can publish it as it is"
    text = json.dumps(event)
    assert example.agent.secret_key().to_hex() not in text and "nsec1" not in text


def test_the_code_of_a_request():
    """Four letters that nobody mistakes for others (Crockford's base32), and another for each envelope."""
    assert avault.request_code("one") == "5GXD"
    codes = {avault.request_code(str(number)) for number in range(1000)}
    assert len(codes) > 990
    assert {letter for code in codes for letter in code} == set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def test_what_would_not_open_is_not_given_out(example, monkeypatch):
    """Nobody would notice before the day it is needed."""
    other = avault.make_envelope(example.agent, avault.public_hex(example.operator), "a", "c", "11" * 32)
    monkeypatch.setattr(avault, "make_envelope", lambda *_: other)
    with pytest.raises(avault.Tampered, match="does not open this vault"):
        avault.seal_nsec(example.agent, example.identity, avault.public_hex(example.operator), "test", "host")


@pytest.mark.parametrize("text", ["", "nsec1", "xyz", "0" * 64, "11" * 31, "nsec1" + "q" * 58])
def test_what_is_no_secret_key(text):
    with pytest.raises(avault.Usage, match="not a Nostr secret key") as refused:
        avault.parse_keys(text)
    assert text[-9:] not in str(refused.value) or not text


def test_each_envelope_opens_its_own_sealed_copy_only(example):
    ours = avault.decode_file("unlock", example.path("unlock.json").read_bytes(), "")
    recovery = avault.decode_file("nsec", example.path("nsec.enc").read_bytes(), "")
    answer = avault.decrypt(example.operator, avault.public_hex(example.agent), ours["envelope"])
    with pytest.raises(avault.Tampered):
        avault.open_nsec(recovery, answer)


@pytest.mark.parametrize("answer", ["", "null", "{}", "[]", '{"avault": 5}', '{"avault": ""}', '{"avault": "' + "0" * 64 + '"}',
                                    '{"avault": null}', "[" * 100_000, "x" * 100_000, '"' + "a" * 64 + '"'])  # fmt: skip
def test_an_answer_that_opens_nothing(example, answer):
    content, _ = avault.read_unlock(example.places)
    with pytest.raises(avault.Tampered):
        avault.open_nsec(content, answer)


def test_a_payload_has_one_encoding(example):
    """Its MAC does not cover the bits of the last letter that decode to nothing."""
    peer, letters = avault.public_hex(example.operator), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    payload = avault.encrypt(example.agent, peer, "x" * 40)
    assert payload.endswith("="), "there are no such bits"
    last = payload.rstrip("=")[-1]
    other = payload.rstrip("=")[:-1] + letters[letters.index(last) ^ 1] + "=" * payload.count("=")
    assert avault.decrypt(example.agent, peer, payload) == "x" * 40
    with pytest.raises(ValueError, match="not "):
        avault.decrypt(example.agent, peer, other)
    with pytest.raises(ValueError, match="not a payload between these keys"):
        avault.decrypt(nostr_sdk.Keys.generate(), peer, payload)


# Parts


def big_vault(agent: nostr_sdk.Keys, operator: str, identity: str, generation: int, groups: int = 40) -> avault.Vault:
    """A vault of a few parts. Each part of its body is the same in all of them."""
    vault = avault.Vault(identity, avault.public_hex(agent), operator, "test@machine")
    for number in range(groups):
        vault.put(f"g{number:03}", "K", f"{number:04}" * 2000, 1, "m")
    vault.generation = {"m": generation}
    return vault


def parts(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def refuse(lines: list[bytes], agent: nostr_sdk.Keys) -> None:
    with pytest.raises(avault.Tampered):
        avault.open_vault(b"".join(lines), agent)


def test_parts_dropped_repeated_reordered(example):
    vault = big_vault(example.agent, example.vault.operator, example.identity, 1)
    good = parts(avault.seal_vault(vault, example.agent))
    assert len(good) >= 5
    assert avault.open_vault(b"".join(good), example.agent).to_json() == vault.to_json()
    for index in range(len(good)):
        refuse(good[:index] + good[index + 1 :], example.agent)
        refuse(good[: index + 1] + good[index:], example.agent)
        refuse([*good, good[index]], example.agent)
        refuse([good[index]], example.agent)
        for other in range(index):
            swapped = list(good)
            swapped[index], swapped[other] = swapped[other], swapped[index]
            refuse(swapped, example.agent)
    refuse(good[::-1], example.agent)
    refuse([*good, b"\n"], example.agent)


def test_parts_of_other_vaults_generations_and_agents(example):
    """In all of these the slices of the body agree, so that only the part's own place can tell."""
    operator, agent = example.vault.operator, example.agent
    vault = big_vault(agent, operator, example.identity, 1)
    good = parts(avault.seal_vault(vault, agent))
    later = vault.copy()
    later.sources = ["33" * 32]
    others = [big_vault(agent, operator, "ff" * 16, 1), big_vault(agent, operator, example.identity, 2), later]
    strangers = [parts(avault.seal_vault(each, agent)) for each in others]
    stranger = nostr_sdk.Keys.generate()
    strangers.append(parts(avault.seal_vault(big_vault(stranger, operator, example.identity, 1), stranger)))
    for lines in strangers:
        for index in range(len(good)):
            refuse([*good[:index], lines[index], *good[index + 1 :]], agent)
            refuse([*lines[:index], good[index], *lines[index + 1 :]], agent)
    refuse(strangers[-1], agent)


def test_a_vault_that_was_not_encrypted_to_itself(example):
    """The agent's key signs nothing here: a payload between agent and operator, whom the phone can make, is no vault."""
    peer = avault.public_hex(example.operator)
    lines = [avault.encrypt(example.agent, peer, part).encode() + b"\n" for part in avault.split_vault(example.vault)]
    refuse(lines, example.agent)


def test_the_agent_named_inside_must_be_the_one_that_opens_it(example):
    vault = example.vault.copy()
    vault.agent = example.vault.operator
    refuse(parts(avault.seal_vault(vault, example.agent)), example.agent)


@pytest.mark.parametrize("length", [0, 1, 64_000, 65_000, *range(65_050, 65_300, 50), 65_408, 130_000, 200_000])
def test_any_length_around_the_limit_of_a_part(example, length):
    vault = example.vault.copy()
    if length:
        vault.put("g", "K", "x" * length, 1, "m")
    data = avault.seal_vault(vault, example.agent)
    assert len(parts(data)) == len(avault.split_vault(vault))
    assert avault.open_vault(data, example.agent).to_json() == vault.to_json()


def test_ten_thousand_secrets(example):
    vault = example.vault.copy()
    for number in range(10_000):
        vault.put(f"group{number // 10}", f"KEY_{number}", f"value {number} é🦄\n", number, "m")
    for number, text in enumerate(["x", "🦄", '"', "\\", "\n", "\x01", "\u2028"]):
        vault.put("big", f"K{number}", text * (avault.MAX_VALUE // len(text.encode())), 1, "m")
    vault.annotate("big", "a note: é", "m")
    data = avault.seal_vault(vault, example.agent)
    assert len(parts(data)) > 40
    assert avault.open_vault(data, example.agent).to_json() == vault.to_json()
    refuse(parts(data)[:-1], example.agent)


def test_too_much_is_an_error_and_not_a_file_that_cannot_be_read(example, monkeypatch):
    monkeypatch.setattr(avault, "VAULT_LIMIT", 100_000)
    vault = example.vault.copy()
    vault.put("g", "K", "x" * 200_000, 1, "m")
    with pytest.raises(avault.AvaultError, match="limit"):
        avault.seal_vault(vault, example.agent)
    monkeypatch.setattr(avault, "VAULT_LIMIT", len(example.path("avault.enc").read_bytes()))
    assert len(avault.seal_vault(example.vault, example.agent)) == avault.VAULT_LIMIT


def test_too_many_machines_is_an_error(example):
    vault = example.vault.copy()
    vault.generation = {f"{number:016x}": 1 for number in range(2000)}
    with pytest.raises(avault.AvaultError, match="too many machines"):
        avault.seal_vault(vault, example.agent)


AGENT = nostr_sdk.Keys.generate()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        st.tuples(
            st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,127}", fullmatch=True), TEXT, min_size=1, max_size=3), TEXT
        ),
        max_size=3,
    )
)
def test_what_is_accepted_encodes_to_itself(groups):
    vault = avault.Vault("00" * 16, avault.public_hex(AGENT), "o", "é")
    for name, (keys, note) in groups.items():
        for key, value in keys.items():
            vault.put(name, key, value, 1, "m")
        vault.annotate(name, note, "m")
    found = avault.open_vault(avault.seal_vault(vault, AGENT), AGENT)
    assert avault.split_vault(found) == avault.split_vault(vault)
    assert {name: {key: found.secrets(name, key)[0].value for key in keys} for name, (keys, _) in groups.items()} == {
        name: keys for name, (keys, _) in groups.items()
    }


# Writing


def leftovers(path: Path) -> list[str]:
    return sorted(set(os.listdir(path.parent)) - {path.name})


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def test_a_write_is_whole_private_and_checked(old):
    seen = []
    avault.write_file(str(old), b"new", lambda data: seen.append((data, old.read_bytes())))
    assert (old.read_bytes(), seen, leftovers(old)) == (b"new", [(b"new", b"old")], [])
    assert old.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "error", [avault.AvaultError("no"), avault.Tampered("no"), KeyboardInterrupt(), MemoryError(), ValueError()], ids=repr
)
def test_a_failing_check_leaves_the_old_file(old, error):
    def check(_):
        raise error

    with pytest.raises(type(error)):
        avault.write_file(str(old), b"new", check)
    assert (old.read_bytes(), leftovers(old)) == (b"old", [])


OLD = avault.sha256(b"old").hex()


def bind(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path.name)  # the path of a socket has at most 107 bytes


@pytest.mark.parametrize("over", [None, "", "0" * 64])
@pytest.mark.parametrize(
    "make", [lambda path: path.symlink_to("elsewhere"), lambda path: path.symlink_to("nowhere"), Path.mkdir, os.mkfifo, bind],
    ids=["link", "dangling", "directory", "fifo", "socket"],
)  # fmt: skip
def test_what_is_no_file_of_ours_is_not_written_over(old, make, over):
    """Neither it nor what it names: who can push chooses what lies there."""
    elsewhere = old.rename(old.with_name("elsewhere"))
    make(old)
    before = os.lstat(old)
    with pytest.raises(avault.Tampered, match="is not a regular file of ours"):
        avault.write_file(str(old), b"new", over=over)
    with pytest.raises(avault.Tampered, match="is not a regular file of ours"):
        avault.complete_attributes(str(old))
    assert os.lstat(old) == before and elsewhere.read_bytes() == b"old"
    assert leftovers(old) == ["elsewhere"]


def test_only_what_was_meant_is_replaced(old):
    avault.write_file(str(old), b"new", over=OLD)
    assert (old.read_bytes(), leftovers(old)) == (b"new", [])
    for wrong in (OLD, ""):
        with pytest.raises(avault.FileChanged):
            avault.write_file(str(old), b"newer", over=wrong)
    assert (old.read_bytes(), leftovers(old)) == (b"new", [])
    old.unlink()
    with pytest.raises(avault.FileChanged):
        avault.write_file(str(old), b"newer", over=OLD)
    avault.write_file(str(old), b"first", over="")
    assert (old.read_bytes(), leftovers(old)) == (b"first", [])


@pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="files cannot be exchanged")
def test_files_are_exchanged(old):
    other = old.with_name("other")
    assert not avault.exchange(str(old), str(other))
    other.write_bytes(b"other")
    assert avault.exchange(str(old), str(other))
    assert (old.read_bytes(), other.read_bytes()) == (b"other", b"old")


@pytest.mark.parametrize("what", ["gone", "anew"])
def test_a_file_that_is_removed_at_the_last_moment_and_made_anew(old, monkeypatch, what):
    """As git does it: it unlinks, then creates where nothing may be."""
    real = avault.exchange

    def exchange(one, other):
        old.unlink()
        done = real(one, other)
        if what == "anew":
            with old.open("xb") as file:
                file.write(b"pulled")
        return done

    monkeypatch.setattr(avault, "exchange", exchange)
    with pytest.raises(avault.FileChanged, match="was changed by another process"):
        avault.write_file(str(old), b"new", over=OLD)
    assert leftovers(old) == [] and (old.read_bytes() == b"pulled" if what == "anew" else not old.exists())


def test_a_file_system_that_renames_when_it_is_to_exchange(old, monkeypatch):
    """CryFS and s3fs have done so."""

    def exchange(one, other):
        os.rename(one, other)
        return True

    monkeypatch.setattr(avault, "exchange", exchange)
    avault.write_file(str(old), b"new", over=OLD)
    assert (old.read_bytes(), leftovers(old)) == (b"new", [])


@pytest.mark.parametrize("what", ["file", "directory", "fifo"])
def test_what_comes_at_the_last_moment_stays(old, monkeypatch, what):
    """Between the last look and the exchange: git, which takes no lock of ours."""
    real = avault.exchange

    def exchange(one, other):
        monkeypatch.setattr(avault, "exchange", real)
        old.unlink()
        {"file": lambda: old.write_bytes(b"pulled"), "directory": old.mkdir, "fifo": lambda: os.mkfifo(old)}[what]()
        return real(one, other)

    monkeypatch.setattr(avault, "exchange", exchange)
    with pytest.raises(avault.AvaultError):
        avault.write_file(str(old), b"new", over=OLD)
    assert leftovers(old) == []
    assert (old.is_file(), old.is_dir(), old.is_fifo()) == (what == "file", what == "directory", what == "fifo")
    assert what != "file" or old.read_bytes() == b"pulled"


def test_where_files_cannot_be_exchanged_they_are_renamed(old, monkeypatch):
    monkeypatch.setattr(avault, "exchange", lambda *_: False)
    avault.write_file(str(old), b"new", over=OLD)
    assert (old.read_bytes(), leftovers(old)) == (b"new", [])


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_failing_disk_leaves_the_old_file(old, monkeypatch, call, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(avault.AvaultError, match=os.strerror(code)) as refused:
            avault.write_file(str(old), b"new")
    assert refused.value.exit_code == 1 and "old" not in str(refused.value)
    assert (old.read_bytes(), leftovers(old)) == (b"old", [])


def test_a_disk_that_fails_after_the_rename_is_told_apart(old, monkeypatch):
    """The new file may be there: nobody may be told that the old one is."""
    real = os.fsync

    def fail(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}") or not os.path.exists("/proc/self/fd"):
            raise OSError(errno.EIO, "I/O error")
        real(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(avault.AvaultError) as refused:
            avault.write_file(str(old), b"new")
    assert leftovers(old) == []
    assert old.read_bytes() == b"old" or "as it was before" not in str(refused.value.hint)


def test_a_disk_that_takes_a_byte_at_a_time(old, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:1])))
    avault.write_file(str(old), b"new and longer")
    assert old.read_bytes() == b"new and longer"


def test_a_disk_that_keeps_something_else(old, monkeypatch):
    real = os.fsync

    def fsync(fd):
        if not os.path.isdir(f"/proc/self/fd/{fd}"):
            os.pwrite(fd, b"X", 0)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(avault.AvaultError, match="did not keep"):
        avault.write_file(str(old), b"new")
    assert (old.read_bytes(), leftovers(old)) == (b"old", [])


def test_a_symbolic_link_is_neither_followed_nor_replaced(old, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(old)
    with pytest.raises(avault.Tampered):
        avault.write_file(str(link), b"new")
    assert old.read_bytes() == b"old" and link.is_symlink()


@pytest.mark.root
@pytest.mark.skipif(not os.path.exists("/proc/mounts"), reason="Linux mounts")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr}")
    try:
        path = disk / "file"
        avault.write_file(str(path), b"old")
        with pytest.raises(avault.AvaultError, match="No space left"):
            avault.write_file(str(path), b"x" * 100_000)
        assert (path.read_bytes(), leftovers(path)) == (b"old", [])
        avault.write_file(str(path), b"new")
        assert path.read_bytes() == b"new"
    finally:
        subprocess.run(["umount", disk], check=True)


# Reading


def test_a_directory_takes_no_descriptor(tmp_path):
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(avault.AvaultError, match="Is a directory"):
            avault.read_file(str(tmp_path))
    assert len(os.listdir("/dev/fd")) == before


def test_what_is_no_file(tmp_path):
    (tmp_path / "directory").mkdir()
    with pytest.raises(avault.NotFound):
        avault.read_file(str(tmp_path / "nothing"))
    with pytest.raises(avault.AvaultError):
        avault.read_file(str(tmp_path / "directory"))
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(avault.Tampered):
        avault.read_file(str(tmp_path / "large"), 10)


@pytest.mark.timeout(120)
def test_a_fifo_hangs_nobody(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    code = "import avault, sys\ntry: avault.read_file(sys.argv[1])\nexcept avault.AvaultError: print('refused')"
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, "-c", code, "fifo"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == "refused\n"
        return
    pytest.fail("it waits for somebody to write")
