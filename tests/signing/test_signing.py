"""Signing without the key: the one request behind every front end, by a keyholder that is alone with what signs for it.

Each row of the dangers is a test: what a hostile client sends, and that nothing is signed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signing_thread import signing_for
from test_gate import asks
from test_keyholder_alone import Desk

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

from ssh_data import Server, login, new_session, pack_rsa, private_form, sshsig, string, twin_of

made = avault.load_extra("signing", "sign")
GITHUB = Server()
FINGERPRINT = avault.fingerprint_of(GITHUB.blob)


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Office(Desk):
    """A keyholder with what signs for it; `key` is one that may sign in to github.com as git, and sign commits."""

    signer: avault.KeySigner

    async def fill(self) -> None:
        await self.open()
        self.public = await self.generate(
            "ops", "GITHUB", servers=[f"github.com={FINGERPRINT}"], users=["git"], namespaces=["git"]
        )

    async def generate(self, group: str, key: str, kind: str = "ed25519", **uses: Any) -> bytes:
        answer = await self.serve("key", action="generate", kind=kind, group=group, key=key, **uses)
        return base64.b64decode(answer["public"].split()[1])

    async def sign(self, payload: bytes, what: str = "ssh", binds: list[bytes] | None = None, **fields: Any) -> bytes:
        given = {"as": what, "payload": encode(payload), "binds": [*map(encode, binds or [])]}
        named = {} if "group" in fields else {"public": encode(self.public)}
        answer = await self.serve("sign", **given, **{**named, **fields})
        return base64.b64decode(answer["signature"])

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(self.places.own(name)).read_text().splitlines()]


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    with signing_for(office.keyholder) as office.signer:
        await office.fill()
        yield office
    office.close()


# keys


@pytest.mark.parametrize(
    ("kind", "named"), [("ed25519", "ssh-ed25519"), ("ecdsa-p256", "ecdsa-sha2-nistp256"), ("rsa", "ssh-rsa")]
)
def test_a_key_that_is_made_is_what_ssh_keygen_says_that_it_is(tmp_path: Path, kind: str, named: str) -> None:
    value = made.make_key(kind)
    known = avault.read_signing_key(value)
    assert known and known.kind == kind and known.to_line().startswith(f"{named} ")
    if not shutil.which("ssh-keygen"):
        pytest.skip("no ssh-keygen here")
    file = tmp_path / "key"
    file.write_text(value)
    file.chmod(0o600)
    assert subprocess.check_output(["ssh-keygen", "-y", "-f", file], text=True).strip() == known.to_line()
    assert known.to_dict()["fingerprint"] in subprocess.check_output(["ssh-keygen", "-l", "-f", file], text=True)


FORMS = [
    ("-t", "ed25519"),
    ("-t", "ecdsa", "-b", "384"),
    ("-t", "rsa", "-b", "2048"),
    ("-t", "rsa", "-b", "2048", "-m", "PEM"),
    ("-t", "rsa", "-b", "2048", "-m", "PKCS8"),
    ("-t", "ecdsa", "-b", "521", "-m", "PEM"),
    ("-t", "ecdsa", "-b", "256", "-m", "PKCS8"),
]


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form[1::2]))
@pytest.mark.parametrize("passphrase", ["", "open, sesame"])
def test_a_key_of_ssh_keygens_is_taken(tmp_path: Path, form: tuple[str, ...], passphrase: str) -> None:
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-f", file, "-N", passphrase, *form], check=True)
    text = file.read_bytes()
    if passphrase and b"OPENSSH" in text:
        for said in (None, passphrase):
            with pytest.raises(avault.Usage, match="is not opened here") as refused:
                made.take_key(text, said)
            assert "ssh-keygen -p" in refused.value.hint
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", passphrase, "-N", "", "-f", file], check=True)
        text, passphrase = file.read_bytes(), ""
    if passphrase:
        with pytest.raises(avault.NeedsPassphrase):
            made.take_key(text, None)
        with pytest.raises(avault.Denied, match="the passphrase is not the key's"):
            made.take_key(text, "wrong")
    known = avault.read_signing_key(made.take_key(text, passphrase or None))
    assert known and Path(f"{file}.pub").read_text().startswith(known.to_line())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PuTTY-User-Key-File-3: ssh-ed25519\n", "a key of PuTTY's"),
        ("ssh-ed25519 AAAA a@b\n", "a public key"),
        ("sk-ssh-ed25519@openssh.com AAAA a@b\n", "a security key"),
        ("-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n", "a DSA key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "no private key"),
        ("", "no private key"),
        ("x" * 70_000, "no key"),
    ],
)
def test_what_is_no_key_is_refused_with_what_to_do(text: str, says: str) -> None:
    with pytest.raises(avault.Usage, match=says) as refused:
        made.take_key(text.encode(), None)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("kinds", "packages"), [("ed25519 ecdsa-p256 evm solana", set()), ("nostr", {"nostr_sdk"})], ids=["others", "nostr"]
)
def test_what_signs_imports_nothing_but_cryptography(tmp_path: Path, kinds: str, packages: set[str]) -> None:
    """Nor what that would take along, where it is there; for Nostr, and for words, what avault has for that anyway."""
    (tmp_path / "bcrypt.py").write_text("raise SystemExit('bcrypt was imported')")
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; import avault; before = {*sys.modules};"
        "desk, kinds = avault.open_key_signer(), sys.argv[1].split();"
        "made = [desk.do({'do': 'make', 'kind': each})['value'] for each in kinds];"
        "words = {'file': 'abandon ' * 11 + 'about', 'passphrase': '', 'kind': 'nostr', 'do': 'take'};"
        "'nostr' in kinds and desk.do(words);"
        "[desk.do({'do': 'prove', 'value': each, 'key': avault.identify_key(each)}) for each in made];"
        "names = {each.partition('.')[0] for each in {*sys.modules} - before};"
        "print(*sorted(names - {*sys.stdlib_module_names}), sys.modules['bcrypt'])"
    )
    words = [sys.executable, "-c", code, kinds, str(tmp_path), str(Path(avault.__file__).parent)]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    own = {"avault", "avault_extras", "bcrypt", "None", "_cffi_backend", "_openssl"}  # the last are cryptography's
    assert {*found} - own == {"cryptography"} | packages


def test_a_short_rsa_key_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    with pytest.raises(avault.Usage, match="1024 bits"):
        made.keep(rsa.generate_private_key(65537, 1024))


async def test_list_shows_the_kind_and_the_public_half(office: Office) -> None:
    (key,) = next(each["keys"] for each in (await office.serve("list"))["groups"] if each["name"] == "ops")
    assert key["signs"]["kind"] == "ed25519" and key["signs"]["public"].split()[1] == encode(office.public)
    assert key["guard"]["only"] == ["ssh"]
    assert key["signs"]["fingerprint"] in (await office.serve("list", format="text"))["output"]


async def test_a_key_is_not_written_over(office: Office) -> None:
    with pytest.raises(avault.Denied, match="there is a ops/GITHUB already"):
        await office.generate("ops", "GITHUB")


async def test_nor_by_any_other_request(office: Office) -> None:
    """A program could put its own key in the place of the one that the operator named servers for."""
    own = {"secrets": [["ops", "GITHUB", "mine"]]}
    Path(office.places.own("copy.enc")).write_bytes(office.own("avault.enc"))
    refused = r"ops/GITHUB is a key that signs, and is not written over"
    await office.serve("set", "mine", group="free", key="GITHUB")
    for op, value, fields in (
        ("set", "mine", {"group": "ops", "key": "GITHUB"}),
        ("set", None, {"group": "ops", "key": "GITHUB", "generate": 8}),
        ("import", own, {"replace": True}),
        ("move", None, {"group": "free", "key": "GITHUB", "to_group": "ops", "to_key": "GITHUB"}),
    ):
        with pytest.raises(avault.AvaultError, match=f"{refused}|there is a ops/GITHUB already"):
            await office.serve(op, value, **fields)
    assert made.verify(office.public, await office.sign(sshsig(), "sshsig"), sshsig())
    await office.serve("delete", group="ops", key="GITHUB")
    other = await office.generate("ops", "GITHUB", namespaces=["git"])
    with pytest.raises(avault.Denied, match=refused):
        await office.serve("restore", group="ops", key="GITHUB", file="copy.enc")
    await office.serve("delete", group="ops", key="GITHUB")
    await office.serve("restore", group="ops", key="GITHUB", file="copy.enc")
    assert made.verify(office.public, await office.sign(sshsig(), "sshsig"), sshsig()) and other != office.public


@pytest.mark.parametrize(
    "fields", [{"user": ["git"]}, {"users": []}, {"servers": []}, {"times": 1}, {"until": 99}, {"only": ["run"]}, {"Users": 1}]
)
async def test_what_is_not_known_of_a_new_key_is_not_left_out(office: Office, fields: dict[str, Any]) -> None:
    """Who mistypes a rule gets no key that has none."""
    with pytest.raises(avault.Usage, match=r"no such field|is a list that is empty"):
        await office.generate("ops", "NEW", **{"servers": ["any"], **fields})
    with pytest.raises(avault.Usage, match="no such field"):
        await office.sign(sshsig(), "sshsig", **{"until": 1, **fields})
    with pytest.raises(avault.NotFound):
        await office.serve("get", group="ops", key="NEW")


@pytest.mark.parametrize("op", sorted(avault.VALUES))
async def test_a_key_leaves_in_no_other_way_than_by_signing(office: Office, op: str) -> None:
    """Every request that there is, in every form: none has the private half, in whole or in part, in its answer."""
    store = office.holding.store
    assert store
    value = store.vault.groups["ops"].keys["GITHUB"][0].value
    body = "".join(value.splitlines()[1:-1])
    private = value.splitlines()[3]
    Path(office.places.own("copy.enc")).write_bytes(office.own("avault.enc"))

    async def hear(**fields: Any) -> str:
        second = fields.pop("value", None)
        try:
            return json.dumps(await office.serve(op, second, **fields))
        except avault.AvaultError as error:
            return json.dumps(error.to_dict())

    for fields in asks(op, "free"):
        renamed = json.loads(
            json.dumps(fields).replace('"KEY"', '"GITHUB"').replace("free", "ops").replace("ops/KEY", "ops/GITHUB")
        )
        if op == "import":
            continue  # what it is given stands in its second frame
        answer = await hear(**renamed)
        assert private not in answer and body[-60:] not in answer and value not in answer


# what is signed


async def test_a_login_that_is_proven_is_signed(office: Office) -> None:
    session = new_session()
    payload = login(session, office.public, host_key=GITHUB.blob)
    signature = await office.sign(payload, binds=[GITHUB.bind(session)])
    assert made.verify(office.public, signature, payload)
    line = office.lines("access.log")[-1]
    assert line["op"] == "sign" and line["for"] == "ssh" and line["outcome"] == "ok"
    assert line["signed"] == "sign in to github.com as git with ops/GITHUB"


async def test_a_commit_is_signed(office: Office) -> None:
    payload = sshsig(b"git")
    assert made.verify(office.public, await office.sign(payload, "sshsig"), payload)
    assert office.lines("access.log")[-1]["signed"] == "sign a commit that cannot be shown with ops/GITHUB"


NAME = b"n <a@b> 1767225600 +0000"
COMMIT = b"tree %s\nparent %s\nauthor %s\ncommitter c <c@d> 1 +0000\n\nfix the door\n\nmore" % (b"1" * 40, b"2" * 64, NAME)
TAG = b"object %s\ntype commit\ntag v1\ntagger %s\n\nit is out" % (b"1" * 40, NAME)
PUSH = b"certificate version 0.1\npusher key 1\npushee host:a/b\nnonce 5\n\n%s %s refs/heads/main\n" % (b"0" * 40, b"1" * 40)
NO_OBJECT = "sign content for git that is no commit, tag or push with ops/GITHUB"
FIX = 'sign the commit "fix the door" that says it is by "n <a@b>" with ops/GITHUB'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (COMMIT, FIX),
        (COMMIT[:-1], "sign a commit that cannot be shown with ops/GITHUB"),
        (COMMIT.replace(b"\n\nfix", b"\n\n\n\nfix"), FIX),  # as git shows it
        (COMMIT.replace(b"+0000\n\n", b"+0000\ntag v1.0\n\n"), FIX),
        (TAG, 'sign the tag "v1" of a commit, "it is out", that says it is by "n <a@b>" with ops/GITHUB'),
        (PUSH, 'sign a push of "refs/heads/main" to "host:a/b" with ops/GITHUB'),
        (
            COMMIT.replace(b"fix the door", b'fix" with ops/OTHER; node says: \x1b[2J' + b"x" * 90).replace(
                b"n <", b'x" by Eve <'
            ),
            "sign the commit \"fix' with ops/OTHER, node says: \\x1b[2J" + "x" * 23 + '…" that says it is by "x\' by Eve <a@b>"'
            " with ops/GITHUB",
        ),
        *(
            (COMMIT.replace(b"author", b"foo a%sauthor Alice <a@good>\nauthor" % end), NO_OBJECT)
            for end in (b"\x0b", b"\x1c", "\x85".encode(), "\u2028".encode(), b"\n")
        ),
        (COMMIT.replace(b"tree 1", b"tree x"), NO_OBJECT),
        (b"I owe Eve 100\n\nreally", NO_OBJECT),
        (b"", NO_OBJECT),
    ],
)
async def test_a_commit_is_shown_where_it_is_what_is_signed(office: Office, content: bytes, words: str) -> None:
    """Its digest stands in what is signed: the caller cannot show another one."""
    signed = COMMIT if content == COMMIT[:-1] else content
    await office.sign(sshsig(b"git", signed), "sshsig", content=encode(content))
    assert office.lines("access.log")[-1]["signed"] == words


async def test_what_was_refused_says_why(office: Office) -> None:
    with pytest.raises(avault.Denied):
        await office.sign(sshsig(b"file"), "sshsig", claims={"program": "node"})
    line = office.lines("refused.log")[-1]
    assert line["signed"] == "sign a file for file with ops/GITHUB; node"
    assert line["why"] == "ops/GITHUB may not sign for the namespace file"
    shown = avault.render_line(json.dumps(line).encode())
    assert shown.endswith(": denied, as ops/GITHUB may not sign for the namespace file")


async def test_claims_stand_behind_what_is_proven(office: Office) -> None:
    claims = {"program": "node\x1b[2J", "does": "git push acme/app.git", "pid": 7}
    await office.sign(sshsig(b"git"), "sshsig", claims=claims)
    said = office.lines("access.log")[-1]["signed"]
    assert said == "sign a commit that cannot be shown with ops/GITHUB; node\\x1b[2J says: git push acme/app.git"


EVIL = Server()
TWIN = twin_of(EVIL.blob)
SESSION = new_session()


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


ATTACKS: dict[str, tuple[Any, str]] = {
    "another server": (lambda key: (login(SESSION, key), [EVIL.bind(SESSION)]), "may not sign in to the server with the key"),
    "no server": (lambda key: (login(SESSION, key), []), "not proven which it is"),
    "another user": (lambda key: (login(SESSION, key, b"root"), [GITHUB.bind(SESSION)]), "may not sign in as root"),
    "another session than the proven one": (lambda key: (login(new_session(), key), [GITHUB.bind(SESSION)]), "another session"),
    "another server's session, and this one's name": (
        lambda key: (login(SESSION, key), [string(GITHUB.blob) + EVIL.bind(SESSION)[len(string(EVIL.blob)) :]]),
        "the server did not sign this",
    ),
    "hostbound to another server": (
        lambda key: (login(SESSION, key, host_key=EVIL.blob), [GITHUB.bind(SESSION)]),
        "another server than the one",
    ),
    "a damaged proof": (lambda key: (login(SESSION, key), [damaged(GITHUB.bind(SESSION), -3)]), "not sign this|not proven"),
    "forwarded": (
        lambda key: ((s := new_session()), (login(s, key), [EVIL.bind(SESSION, True), GITHUB.bind(s)]))[1],
        "through a forwarded agent",
    ),
    "bound twice": (
        lambda key: ((s := new_session()), (login(s, key), [EVIL.bind(SESSION), GITHUB.bind(s)]))[1],
        "does not forward",
    ),
    "a session bound again": (
        lambda key: (login(SESSION, key), [EVIL.bind(SESSION, True), GITHUB.bind(SESSION)]),
        "bound already",
    ),
    "the session of the host that it is forwarded to": (
        lambda key: (login(SESSION, key), [GITHUB.bind(SESSION, True)]),
        "another session",
    ),
    "more than there should be": (lambda key: (login(SESSION, key) + b"x", [GITHUB.bind(SESSION)]), "not understood"),
    "cut off": (lambda key: (login(SESSION, key)[:-1], [GITHUB.bind(SESSION)]), "not understood"),
    "for another key": (lambda key: (login(SESSION, EVIL.blob), [GITHUB.bind(SESSION)]), "another key"),
    "by SHA-1": (lambda key: (login(SESSION, key, algorithm=b"ssh-rsa"), [GITHUB.bind(SESSION)]), "another key"),
    "a user that drives a terminal": (lambda key: (login(SESSION, key, b"\x1b[2J"), [GITHUB.bind(SESSION)]), "not a name"),
    "no user": (lambda key: (login(SESSION, key, b""), [GITHUB.bind(SESSION)]), "no user"),
    "anything": (lambda key: (b"pay 6 USDC to Bob", [GITHUB.bind(SESSION)]), "not understood"),
    "nothing": (lambda key: (b"", [GITHUB.bind(SESSION)]), "not understood"),
    "a file as a login": (lambda key: (sshsig(b"git"), [GITHUB.bind(SESSION)]), "not understood"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_refused(office: Office, attack: str) -> None:
    make, says = ATTACKS[attack]
    payload, binds = make(office.public)
    signed = len([line for line in office.lines("access.log") if line["op"] == "sign"])
    with pytest.raises(avault.AvaultError, match=says) as refused:
        await office.sign(payload, binds=binds)
    assert refused.value.code in ("denied", "usage")
    assert len([line for line in office.lines("access.log") if line["op"] == "sign"]) == signed
    last = office.lines("refused.log")[-1]
    assert last["op"] == "sign" and last["outcome"] == refused.value.code


@pytest.mark.parametrize(
    "payload",
    [
        sshsig(b"file"),
        sshsig(b""),
        sshsig(b"git") + b"x",
        sshsig(b"git")[:-1],
        sshsig(b"git", reserved=b"x"),
        sshsig(b"git", algorithm=b"sha1"),
        b"SSHSIG",
    ],
)
async def test_a_file_that_is_not_named_or_not_understood_is_not_signed(office: Office, payload: bytes) -> None:
    with pytest.raises((avault.Denied, avault.Usage), match=r"may not sign for the namespace file|not understood"):
        await office.sign(payload, "sshsig")


@pytest.mark.parametrize("what", ["raw", "digest", "text", "", None, "SSH"])
async def test_there_is_no_raw(office: Office, what: Any) -> None:
    with pytest.raises(avault.Usage, match="as is ssh or sshsig"):
        await office.sign(sshsig(), what)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "rsa"])
@pytest.mark.parametrize("flags", [0, 2, 4])
async def test_each_kind_signs_and_never_by_sha1(office: Office, kind: str, flags: int) -> None:
    office.public = await office.generate("keys", kind.replace("-", "_"), kind, namespaces=["file"])
    signature = await office.sign(sshsig(b"file"), "sshsig", flags=flags)
    assert made.verify(office.public, signature, sshsig(b"file")) and not made.verify(office.public, signature, sshsig(b"git"))
    algorithm = avault.SshReader(signature).text()
    assert algorithm == (
        {0: "rsa-sha2-256", 2: "rsa-sha2-256", 4: "rsa-sha2-512"}[flags]
        if kind == "rsa"
        else avault.SshReader(office.public).text()
    )


async def test_a_key_for_which_nothing_is_named_signs_nothing(office: Office) -> None:
    office.public = await office.generate("ops", "NEW")
    with pytest.raises(avault.Denied):
        await office.sign(login(SESSION, office.public), binds=[GITHUB.bind(SESSION)])
    with pytest.raises(avault.Denied):
        await office.sign(sshsig(), "sshsig")


async def test_more_than_a_key_may_is_less_of_a_guard_and_needs_the_operator(office: Office) -> None:
    evil = f"evil.example={avault.fingerprint_of(EVIL.blob)}"
    for less in ({"servers": [evil]}, {"servers": ["any"]}, {"namespaces": ["file"]}, {"users": ["root"]}, {"only": ["run"]}):
        answer = await office.serve("guard", group="ops", key="GITHUB", **less)
        assert answer["weakens"], less
    assert not (await office.serve("guard", group="ops", key="GITHUB", until=int(time.time()) + 60))["weakens"]
    with pytest.raises(avault.Denied):
        await office.sign(login(SESSION, office.public), binds=[EVIL.bind(SESSION)])


async def test_a_secret_that_no_guard_lets_sign_does_not(office: Office) -> None:
    """Also where it is a key, as somebody has set it."""
    await office.serve("set", made.make_key("ed25519"), group="ops", key="PLAIN")
    with pytest.raises(avault.Denied, match="nothing that lets it sign"):
        await office.sign(sshsig(), "sshsig", group="ops", key="PLAIN")
    await office.serve("set", "no key", group="ops", key="WORD")
    with pytest.raises(avault.Usage, match="no key that signs"):
        await office.sign(sshsig(), "sshsig", group="ops", key="WORD")
    with pytest.raises(avault.NotFound):
        await office.sign(sshsig(), "sshsig", public=encode(EVIL.blob))


async def test_uses_are_counted_before_they_are_signed(office: Office) -> None:
    await office.serve("guard", group="ops", key="GITHUB", times=3)
    found = await asyncio.gather(*(office.sign(sshsig(), "sshsig") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, bytes) for each in found) == 3
    assert {type(each) for each in found} == {bytes, avault.Denied}


async def test_a_caller_that_leaves_gets_nothing_signed(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def decode(*_: Any) -> dict[str, Any]:
        asked.set()
        await never.wait()
        return {}

    monkeypatch.setattr(avault, "decode", decode)
    task = asyncio.ensure_future(office.sign(sshsig(), "sshsig"))
    await asked.wait()
    task.cancel()  # as the session does, when its connection is gone
    await asyncio.gather(task, return_exceptions=True)
    assert not [line for line in office.lines("access.log") if line["op"] == "sign"]
    assert office.lines("refused.log")[-1]["outcome"] == "timed_out"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_changes_while_it_is_signed_counts(office: Office, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """A guard, a lock, another key in its place: the signature that was made for it leaves nobody."""
    ask = office.keyholder.signing.ask

    async def sign_meanwhile(**message: Any) -> dict[str, Any]:
        if when == "before":
            assert not (await office.serve("guard", group="ops", only=["run"]))["weakens"]
        answer = await ask(**message)
        if when == "after":
            await office.serve("delete", group="ops", key="GITHUB")
        return answer

    monkeypatch.setattr(office.keyholder.signing, "ask", sign_meanwhile)
    with pytest.raises((avault.Denied, avault.NotFound)):
        await office.sign(sshsig(), "sshsig")
    assert not [line for line in office.lines("access.log") if line["op"] == "sign"]


async def test_a_grant_that_ends_while_it_is_signed_gets_nothing(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, grant = office.keyholder.signing.ask, avault.Grant("web", ["ops"], [], ["sign"])

    async def sign_meanwhile(**message: Any) -> dict[str, Any]:
        answer = await ask(**message)
        grant.is_ended = True
        return answer

    office.session = SimpleNamespace(**{**vars(office.session), "grant": grant})
    monkeypatch.setattr(office.keyholder.signing, "ask", sign_meanwhile)
    with pytest.raises(avault.Denied, match="the grant web has ended"):
        await office.sign(sshsig(), "sshsig")
    assert not [line for line in office.lines("access.log") if line["op"] == "sign"]


async def test_keys_are_listed_by_the_server(office: Office) -> None:
    other = avault.fingerprint_of(EVIL.blob)
    await office.generate("ops", "OTHER", servers=[f"other={other}"])
    await office.generate("ops", "NONE")
    await office.generate("ops", "ANY", servers=["any"])
    await office.generate("ops", "OLD", servers=["unproven"])

    async def listed(*binds: bytes) -> list[str]:
        return [each["name"] for each in (await office.serve("keys", binds=[*map(encode, binds)], **{"as": "ssh"}))["keys"]]

    assert await listed(GITHUB.bind(SESSION)) == ["ops/ANY", "ops/GITHUB"]
    assert await listed(EVIL.bind(SESSION)) == ["ops/ANY", "ops/OTHER"]
    assert await listed() == ["ops/GITHUB", "ops/OLD"]  # the first signs commits, too
    assert await listed(EVIL.bind(SESSION, True), GITHUB.bind(new_session())) == []


async def test_a_process_that_does_not_come_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(tmp_path)
    await office.open()
    monkeypatch.setattr(office.keyholder.signing, "START_TIME", 0.05)
    for number in (1, 2):
        with pytest.raises(avault.Unavailable, match="does not answer"):
            await office.generate("ops", "KEY")
        assert office.told.count({"need": "signing"}) == number
    monkeypatch.setattr(office.keyholder.signing, "START_TIME", 60.0)
    office.keyholder.signing.coming = None
    waiting = asyncio.ensure_future(office.generate("ops", "KEY"))
    await asyncio.sleep(0)
    office.keyholder.receive({"do": "signing", "failed": {"code": "unavailable", "message": "it did not start"}}, None)
    with pytest.raises(avault.Unavailable, match="it did not start"):
        await waiting
    office.close()


async def test_the_process_ends_and_comes_again(office: Office) -> None:
    link = office.keyholder.signing.link
    assert link
    await office.sign(sshsig(), "sshsig")
    link.close()
    asyncio.get_running_loop().call_soon(lambda: office.keyholder.signing.take({}, None))
    with signing_for(office.keyholder):
        assert await office.sign(sshsig(), "sshsig")


# keys that say of themselves what others are


WIDE: dict[str, Any] = {"servers": ["any", "unproven", "forwarded"], "namespaces": ["file", "git"]}


@pytest.mark.parametrize("is_warm", [True, False])
@pytest.mark.parametrize("is_deleted", [True, False])
@pytest.mark.parametrize("fields", [{"group": "evil", "key": "TWIN"}, {}])
async def test_a_twin_signs_nothing(office: Office, is_warm: bool, is_deleted: bool, fields: dict[str, str]) -> None:
    """What signs is what the guard was held against, not what has the same public half."""
    await office.serve("set", twin_of(office.public), group="evil", key="TWIN")
    await office.serve("guard", group="evil", key="TWIN", **WIDE)
    if is_warm:
        await office.sign(sshsig(b"git"), "sshsig", group="ops", key="GITHUB")
    if is_deleted:
        await office.serve("delete", group="ops", key="GITHUB")
    for payload, what in ((sshsig(b"file"), "sshsig"), (login(SESSION, office.public, b"root"), "ssh")):
        with pytest.raises((avault.Usage, avault.Denied)) as refused:
            await office.sign(payload, what, **fields)
        assert "another key" in refused.value.message or not fields
    if not is_deleted:
        for named in ({"group": "ops", "key": "GITHUB"}, {}):  # nor does it keep the other one from it
            assert made.verify(office.public, await office.sign(sshsig(), "sshsig", **named), sshsig())


async def test_what_is_deleted_or_replaced_is_dropped(office: Office) -> None:
    other = await office.generate("ops", "OTHER", namespaces=["git"])
    await office.sign(sshsig(), "sshsig")
    await office.sign(sshsig(), "sshsig", public=encode(other))
    assert len(office.signer.keys.loaded) == 2
    await office.serve("delete", group="ops", key="GITHUB")
    await office.sign(sshsig(), "sshsig", public=encode(other))  # behind what was said meanwhile
    assert {public for _, public in office.signer.keys.loaded.values()} == {other}
    assert {*office.signer.keys.loaded} == office.keyholder.signing.given


@pytest.mark.parametrize("signs", ["", "x", "ssh-dss AAAA", "nostr AAAA", "ssh-ed25519 AAAAC3Nz", 7])
async def test_what_is_sealed_and_says_no_public_half_signs_nothing(office: Office, signs: object) -> None:
    """What asks the phone, and does sign, is in test_asked_keys.py."""
    store, now = office.keyholder.open_store(), int(time.time())
    sealed = avault.SEAL_MARK + json.dumps({"to": "00", "from": "00", "parts": [], "signs": signs})
    await office.holding.writer.change(store, lambda vault: vault.put("ops", "GITHUB", sealed, now, store.machine))
    with pytest.raises(avault.Denied, match="is sealed, and is no key that signs"):
        await office.sign(sshsig(), "sshsig", group="ops", key="GITHUB")
    with pytest.raises((avault.Denied, avault.NotFound)):
        await office.sign(sshsig(), "sshsig")
    assert not [line for line in office.lines("access.log") if line["op"] == "sign"]


HUGE = 65_536


@pytest.mark.parametrize(
    "value",
    [
        pack_rsa(1024),
        pack_rsa(HUGE),
        private_form(string(b"ssh-ed25519") + bytes(16_400), b"x"),
        private_form(string(b"ssh-ed25519") + string(bytes(33)), b"x"),
        private_form(EVIL.blob + b"x", EVIL.blob + string(bytes(32) + EVIL.blob[-32:])),
        private_form(EVIL.blob, GITHUB.blob + string(bytes(32) + GITHUB.blob[-32:])),
        twin_of(EVIL.blob).replace("\n-----END", "AAAA\n-----END"),
        "x" * 200_000,
    ],
    ids=range(8),
)
async def test_a_value_that_is_no_key_of_a_size_that_there_is_signs_nothing(office: Office, value: str) -> None:
    """And takes no time: it is not loaded to find that out."""
    await office.serve("set", value, group="evil", key="BIG")
    await office.serve("guard", group="evil", key="BIG", **WIDE)
    began = time.process_time()
    assert avault.read_signing_key(value) is None
    with pytest.raises(avault.Usage, match="no key that signs"):
        await office.sign(sshsig(b"file"), "sshsig", group="evil", key="BIG")
    assert time.process_time() - began < 2
    assert [each["name"] for each in (await office.serve("keys", **{"as": "ssh"}))["keys"]] == ["ops/GITHUB"]


def der(tag: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    size = len(data).to_bytes(2, "big")
    return bytes([tag, 0x82]) + size + data


def pem(label: str, data: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n"


def encrypted(*numbers: int, oid: str = "2a864886f70d01050c") -> str:
    """A PKCS#8 file whose passphrase is hashed like this (RFC 8018; RFC 7914)."""
    asked = [der(2, each.to_bytes(each.bit_length() // 8 + 1, "big")) for each in numbers]
    hashing = der(0x30, b"\x06" + bytes([len(oid) // 2]) + bytes.fromhex(oid), der(0x30, der(4, b"salt" * 4), *asked))
    scheme = der(0x30, b"\x06\x09" + bytes.fromhex("2a864886f70d01050d"), der(0x30, hashing))
    return pem("ENCRYPTED PRIVATE KEY", der(0x30, scheme, der(4, bytes(64))))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (encrypted(0x7FFFFFFF), "takes too long"),
        (encrypted(1 << 80), "takes too long"),
        (encrypted(1 << 20, 8, 1, oid="2b06010401da47040b"), "takes too long"),
        (encrypted(2048, oid="2a864886f70d01050c") + encrypted(0x7FFFFFFF), "takes too long"),
        (encrypted(0x7FFFFFFF).replace("-----\nM", "-----\nX-Y: z-z\n\nM", 1), "no private key"),
        (pack_rsa(1024), "no private key|1024 bits"),
        (pack_rsa(16_384), "no private key|16384 bits"),
        (pem("RSA PRIVATE KEY", der(0x30, der(2, b"\0"), *[der(2, b"\x7f" * 1100)] * 8)), "longer numbers"),
        (pem("PRIVATE KEY", der(0x30, der(4, der(0x30, der(2, b"\x7f" * 1100))))), "longer numbers"),
        (twin_of(EVIL.blob), "another key's"),
    ],
)
def test_a_file_is_looked_at_before_there_is_work_to_do(text: str, says: str) -> None:
    began = time.process_time()
    with pytest.raises(avault.Usage, match=says) as refused:
        made.take_key(text.encode(), "a passphrase")
    assert time.process_time() - began < 2 and refused.value.hint


@pytest.mark.parametrize(
    ("field", "value"), [("file", 7), ("file", "x" * 70_000), ("passphrase", 7), ("passphrase", "x" * 2_000)]
)
async def test_what_comes_along_with_an_import_has_a_form(office: Office, field: str, value: Any) -> None:
    given = {"file": encrypted(2048), "passphrase": "", field: value}
    with pytest.raises(avault.Usage):
        await office.serve("key", given, action="import", group="ops", key="NEW")


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=30) | st.just("é" * 200_000),
    lambda each: st.lists(each, max_size=20) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=20,
)


@given(st.sampled_from(["as", "payload", "binds", "flags", "public", "group", "key", "claims", "content", "x"]), JSON_LIKE)
def test_what_goes_to_the_process_that_signs_has_a_size(field: str, value: Any) -> None:
    """Whatever a program asks for: a frame too long for it would end it, with others' requests."""
    request = {"op": "sign", "as": "ssh", "payload": encode(b"x"), "binds": [], "flags": 0, field: value}
    try:
        wish = avault.read_wish(request)
    except avault.Usage:
        return
    assert len(avault.encode_frame(wish)) < 1 << 20
    assert {*wish} == {"as", "payload", "binds", "flags"}


async def test_a_process_that_does_not_answer_is_left(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    link, asleep = office.keyholder.signing, asyncio.Event()
    assert link.link
    monkeypatch.setattr(link, "ANSWER_TIME", 0.05)
    monkeypatch.setattr(link.link, "send", lambda message: asleep.set())
    with pytest.raises(avault.Unavailable, match="does not answer"):
        await office.sign(sshsig(), "sshsig")
    assert asleep.is_set() and not link.link and not link.answers and not link.given


def test_what_takes_too_long_ends_the_process() -> None:
    """Also where it is at work in C, which no exception reaches."""
    code = (
        "import hashlib, os, socket, sys; sys.path.insert(0, sys.argv[1]); import avault\n"
        "class Busy:\n    def do(self, message): hashlib.pbkdf2_hmac('sha256', b'', b'', (1 << 31) - 1)\n"
        "ours, theirs = socket.socketpair(); theirs.sendall(avault.encode_frame({'id': 1}))\n"
        "avault.serve_signing(ours, Busy(), 0.2)"
    )
    words = [sys.executable, "-c", code, str(Path(avault.__file__).parent)]
    assert subprocess.run(words, timeout=60, check=False).returncode == -signal.SIGPROF


async def test_what_nobody_expected_stands_in_the_log(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise IndexError

    monkeypatch.setattr(avault, "describe_use", fail)
    with pytest.raises(IndexError):
        await office.sign(sshsig(), "sshsig")
    assert office.lines("refused.log")[-1]["outcome"] == "error"


# the parsers


@given(st.binary(max_size=300))
def test_bytes_are_no_use(data: bytes) -> None:
    for read in (lambda each: avault.decode_sshsig(each, []), lambda each: avault.decode_login(each, EVIL.blob, [])):
        with pytest.raises(avault.Usage):
            read(data)
    with pytest.raises(ValueError):
        avault.Bind(data)


@given(st.integers(0, 10_000), st.binary(max_size=4))
def test_a_changed_login_is_that_or_is_refused(at: int, put: bytes) -> None:
    """What is decoded stands for all bytes of it: two payloads that say the same are the same."""
    payload = login(SESSION, EVIL.blob)
    at %= len(payload)
    changed = payload[:at] + put + payload[at + len(put) :]
    try:
        use = avault.decode_login(changed, EVIL.blob, [])
    except avault.Usage:
        return
    rebuilt = login(avault.SshReader(changed).string(), EVIL.blob, use["user"].encode())
    assert changed == rebuilt


@given(st.binary(max_size=200), st.binary(max_size=100), st.binary(max_size=60))
def test_a_signature_that_is_none_proves_nothing(public: bytes, signature: bytes, data: bytes) -> None:
    assert made.verify(public, signature, data) is False
    assert made.verify(EVIL.blob, signature, data) is False


@given(st.text(max_size=400))
def test_a_value_that_is_no_key_is_none(text: str) -> None:
    assert avault.read_signing_key(text) is None
    assert avault.read_signing_key(f"{avault.OPENSSH[0]}\n{text}\n{avault.OPENSSH[1]}") is None


@given(st.integers(0, 10_000), st.binary(max_size=3))
def test_a_changed_key_is_one_of_the_same_public_half_or_none(at: int, put: bytes) -> None:
    """What is said of it in the clear is what its own copy says; nothing stands behind it."""
    begin, end = avault.OPENSSH
    data = base64.b64decode(TWIN[len(begin) : -len(end) - 1])
    at %= len(data)
    changed = f"{begin}\n{encode(data[:at] + put + data[at + 1 :])}\n{end}\n"
    known = avault.read_signing_key(changed)
    assert known is None or known.blob == EVIL.blob
