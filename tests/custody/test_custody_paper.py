"""Paper: a secret in shares (SLIP-39), the sheets that are printed, and the words as a person types them at a terminal.

The judge of a share is Trezor's own program, of a code another reader of QR codes, of a page a browser that prints it.
slip39.json has the test vectors that SLIP-39 names (trezor/python-shamir-mnemonic).
"""

import hashlib
import itertools
import json
import os
import random
import re
import secrets
import select
import shutil
import stat
import subprocess
import termios
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import pytest
from canary import Canary, record
from errands import send_errand
from harness import AVAULT, SOURCE, Machine, Screen, wait_until

import avault

pytestmark = pytest.mark.usefixtures("forks")

slip39 = pytest.importorskip("shamir_mnemonic", reason="shamir-mnemonic is not installed")
shares = avault.load_extra("shares", "shares")

FILE = Path(__file__).with_name("slip39.json")
VECTORS = json.loads(FILE.read_bytes())
SETTINGS = {"need": "2", "of": "3"}
NPUB = "npub1" + "q" * 58
FIELDS = {
    "bound": f"avault:custody:v1:{'0' * 32}:{NPUB}:paper",
    "label": "avault: unlock key of clawd@db1 (/home/op/clawd/.avault)",
    "name": "paper",
}


@pytest.fixture
def secret(canary: Canary) -> str:
    """An unlock key, which is to be in no file."""
    return canary.watch(secrets.token_hex(32))


# Shares


def test_any_that_are_enough_give_it_back(secret: str) -> None:
    made = shares.split(secret, 2, 3)
    assert [len(each.split()) for each in made] == [33] * 3
    for chosen in (*itertools.permutations(made, 2), *itertools.permutations(made)):
        assert shares.combine(chosen) == secret
    for chosen in itertools.permutations(made, 2):
        assert slip39.combine_mnemonics(chosen).hex() == secret, "another program's, too"
    assert shares.combine(slip39.generate_mnemonics(1, [(3, 5)], bytes.fromhex(secret))[0][2:]) == secret
    assert shares.combine(shares.split(secret, 1, 1)) == secret
    assert shares.combine(shares.split(secret, 16, 16)) == secret


def test_the_vectors_are_those_that_slip39_names() -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == "13ebecebdd869dd2bc2cdf69e7ce3a158cf106cac76c39d17682b1c6cdabbdc4"
    assert (len(VECTORS), sum(bool(wanted) for _, _, wanted, _ in VECTORS)) == (45, 15)


@pytest.mark.parametrize("vector", VECTORS, ids=[name.partition(".")[0] for name, *_ in VECTORS])
def test_vectors(vector: tuple[str, list[str], str, str]) -> None:
    _, mnemonics, wanted, _ = vector
    if wanted:
        assert shares.recover(mnemonics, b"TREZOR").hex() == wanted
    else:
        with pytest.raises((avault.Usage, avault.Unavailable, avault.Tampered)) as refused:
            shares.recover(mnemonics, b"TREZOR")
        assert not set(re.findall("[a-z]+", refused.value.message)) & set(" ".join(mnemonics).split())


def swap(words: list[str]) -> list[str]:
    """With two neighbours in each other's place."""
    at = next(at for at in range(4, 32) if words[at] != words[at + 1])
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


WRONG = {
    "no word": (lambda words: [*words[:6], "acadmeic", *words[7:]], "word 7 is not in the list"),
    "three letters": (lambda words: [*words[:32], words[32][:3]], "word 33 is not in the list"),
    "another word": (
        lambda words: [*words[:9], "academic" if words[9] != "academic" else "acid", *words[10:]],
        "a word is wrong, is missing, or stands in another place: the checksum does not fit",
    ),
    "two swapped": (swap, "a word is wrong, is missing, or stands in another place: the checksum does not fit"),
    "one missing": (lambda words: words[:-1], "it has 32 words, and an unlock key's has 33"),
    "one too many": (lambda words: [*words, words[0]], "it has 34 words, and an unlock key's has 33"),
    "nothing": (lambda words: [], "it has 0 words, and an unlock key's has 33"),
}


@pytest.mark.parametrize("case", WRONG)
def test_which_share_is_wrong_is_told_and_no_word_of_it(secret: str, case: str) -> None:
    """The exact sentence: there is nothing of the share in it."""
    change, said = WRONG[case]
    one, two, _ = shares.split(secret, 2, 3)
    with pytest.raises(avault.Usage) as refused:
        shares.combine([one, " ".join(change(two.split()))])
    assert refused.value.message == f"share 2: {said}"
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def of_another_set(share: str, secret: str) -> str:
    """A share of another set; a set's name has 15 bits, so it is tried until it is another's."""
    while shares.read_share(other := shares.split(secret, 2, 3)[0]).identifier == shares.read_share(share).identifier:
        pass
    return str(other)


def test_too_few_the_same_twice_and_other_sets(secret: str) -> None:
    one, two, three = shares.split(secret, 2, 3)
    of_three = shares.split(secret, 3, 3)
    for given, kind, said in (
        ([], avault.Unavailable, "there is no share"),
        ([one], avault.Unavailable, "there are too few shares: 2 are needed, and 1 came"),
        (of_three[1:], avault.Unavailable, "there are too few shares: 3 are needed, and 2 came"),
        ([three, three], avault.Usage, "share 2 is the same as share 1"),
        ([two, one, two.upper()], avault.Usage, "share 3 is the same as share 1"),
        ([one, of_another_set(one, secret)], avault.Tampered, "share 2 is of another set than share 1"),
    ):
        with pytest.raises(kind) as refused:
            shares.combine(given)
        assert refused.value.message == said


def test_shares_that_name_one_set_and_are_not_of_it(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set's name has 15 bits, so another may have the same; what they give together is noticed all the same."""
    monkeypatch.setattr(slip39.shamir, "_random_identifier", lambda: 1234)
    mine, other = shares.split(secret, 2, 3), shares.split(secrets.token_hex(32), 2, 3)
    with pytest.raises(avault.Tampered, match=r"^the shares do not belong together$"):
        shares.combine([mine[0], other[1]])
    with pytest.raises(avault.Tampered, match=r"^share 2 does not belong together with share 1$"):
        shares.combine([mine[0], other[0]])


def test_fewer_than_enough_know_nothing(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same luck, the first shares of two secrets are the same, word by word: they are of either."""
    made = {}
    for secret in (secrets.token_hex(32), secrets.token_hex(32)):
        luck = random.Random(5)
        monkeypatch.setattr(slip39.shamir, "RANDOM_BYTES", luck.randbytes)
        made[secret] = shares.split(secret, 3, 5)
        assert shares.combine(made[secret][2:]) == secret
        for few in itertools.chain(itertools.combinations(made[secret], 1), itertools.combinations(made[secret], 2)):
            with pytest.raises(avault.Unavailable):
                shares.combine(few)
    one, other = made.values()
    assert one[0] == other[0]
    assert not {*one[1:]} & {*other[1:]}


def test_four_letters_are_enough(secret: str) -> None:
    made = shares.split(secret, 2, 3)
    short = [" ".join(word[:4].upper() for word in each.split()) for each in made]
    assert shares.combine(short[1:]) == secret
    numbered = "\n".join(f"{number}. {word}," for number, word in enumerate(made[0].split(), 1))
    assert shares.combine([numbered, made[2]]) == secret, "as it stands on the sheet"


@pytest.mark.parametrize(("need", "count"), [(0, 1), (2, 1), (1, 2), (17, 17), (2, 17)])
def test_sets_that_cannot_be(need: int, count: int) -> None:
    with pytest.raises(avault.Usage):
        shares.split("5f" * 32, need, count)


# The settings


def answer(action: str, settings: dict[str, str], *, secret: str = "", kept: str | None = None, **fields: Any) -> dict[str, Any]:
    """What the helper answers, without a process for it; `terminal` and `answers` as in send_errand."""
    prompt = avault.Prompt(fields.pop("terminal", None), fields.pop("answers", None))
    request = {**FIELDS, "settings": settings, "kept": kept, "account": "", "limit": 30, **fields}
    return dict(json.loads(avault.answer_errand(action, "paper", avault.Errand(request, prompt), secret)))


def told(answer: dict[str, Any]) -> tuple[str, Any]:
    """An answer's outcome, and its value or detail."""
    return answer["outcome"], answer["value" if answer["outcome"] == "ok" else "detail"]


def settle(directory: Path, **settings: str) -> dict[str, Any]:
    return answer("settle", settings, directory=str(directory))


def test_settings(place) -> None:
    kit = str(place.top / "kit")
    settled = {"settings": {"need": "2", "of": "3", "sheets": kit}, "asks": True}
    assert told(settle(place.top, sheets="kit")) == ("ok", settled)
    assert settle(place.top, sheets="kit", need="1", of="1")["value"]["settings"]["need"] == "1"
    assert settle(place.top, sheets="~/kit")["value"]["settings"]["sheets"] == str(place.home / "kit")
    (place.top / "empty").mkdir()
    assert settle(place.top, sheets="empty")["outcome"] == "ok"
    assert not os.path.exists(kit), "nothing is made yet"


def test_settings_that_are_refused(place) -> None:
    (place.top / "full").mkdir()
    (place.top / "full" / "file").touch()
    (place.top / "file").touch()
    for settings, said in (
        ({}, "where are the sheets to be written?"),
        ({"sheets": "full"}, f"{place.top}/full is not empty, or not ours"),
        ({"sheets": "file"}, f"{place.top}/file cannot be a directory for sheets: Not a directory"),
        ({"sheets": "kit", "need": "two"}, "not a number of sheets: two"),
        ({"sheets": "kit", "need": "3", "of": "2"}, "3 of 2 is no set of shares"),
        ({"sheets": "kit", "need": "1"}, "one of several shares cannot be enough: each would be the secret"),
        ({"sheets": "kit", "of": "17"}, "2 of 17 is no set of shares"),
        ({"sheets": "kit", "off": "3"}, "paper has no setting off"),
    ):
        assert told(settle(place.top, **settings)) == ("usage", said)


def test_the_package_is_missing(place) -> None:
    (place.tmp / "shamir_mnemonic.py").write_text("raise ModuleNotFoundError('no', name='shamir_mnemonic')\n")
    missing = send_errand("probe", "paper", SETTINGS, env={"PYTHONPATH": str(place.tmp)})
    assert told(missing) == ("unavailable", "the package shamir_mnemonic is not installed")


# The sheets, and a person at a terminal


class Desk:
    """A terminal, and a person at it."""

    def __init__(self) -> None:
        self.fd, self.end = os.openpty()
        self.path = os.ttyname(self.end)
        self.shown, self.seen = bytearray(), 0
        self.pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()
        record("terminal", bytes(self.shown))
        os.close(self.fd)
        os.close(self.end)

    def send(self, action: str, settings: dict[str, str], **fields: Any) -> Callable[[], dict[str, Any]]:
        """Send the helper on an errand; what is given waits for its answer."""
        future = self.pool.submit(send_errand, action, "paper", settings, terminal=self.path, **{**FIELDS, **fields})
        return lambda: future.result(90)

    def read(self) -> str:
        """All that is shown so far."""
        while select.select([self.fd], [], [], 0)[0]:
            self.shown += os.read(self.fd, 65536)
        return self.shown.decode().replace("\r\n", "\n")

    def expect(self, text: str) -> None:
        """Wait until that is shown, after what was expected before."""
        wait_until(lambda: text in self.read()[self.seen :], what=f"{text!r} in {self.read()[self.seen :]!r}")
        self.seen = self.read().index(text, self.seen) + len(text)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def answer(self, question: str, line: str) -> None:
        """Type a line, once that is asked, and nothing typed is shown."""
        self.expect(f"{question}: ")
        wait_until(lambda: not self.echoes())
        os.write(self.fd, line.encode() + b"\n")


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk() as desk:
        yield desk


class Page(HTMLParser):
    """What stands on a sheet: its words in order, its facts, its picture, and what it would fetch or run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attributes if name in ("src", "href", "srcset", "action", "data", "style")]
        self.links += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] in ("li", "td", "th") and data.strip():
            (self.words if self.tags[-1] == "li" else self.cells).append(data.strip())

    def picture(self) -> bytes:
        [link] = self.links
        assert link.startswith("data:image/png;base64,")
        return b64decode(link.partition(",")[2])


def read_code(picture: bytes) -> str:
    """The text of the one QR code in a picture, by a reader that is not ours."""
    zxingcpp = pytest.importorskip("zxingcpp", reason="zxing-cpp is not installed")
    image = pytest.importorskip("PIL.Image")
    [found] = zxingcpp.read_barcodes(image.open(BytesIO(picture)), formats=zxingcpp.BarcodeFormat.QRCode)
    return str(found.text)


def write_sheets(desk: Desk, directory: Path, secret: str, need: int = 2, of: int = 3) -> tuple[dict[str, str], str]:
    """The settings, and what `set` gives to be kept."""
    settings = {"need": str(need), "of": str(of), "sheets": str(directory)}
    outcome, kept = told(answer("set", settings, secret=secret, terminal=desk.path))
    assert outcome == "ok", kept
    return settings, kept


def read_sheets(directory: Path, canary: Canary) -> list[str]:
    """The words of each, which are to be nowhere else."""
    return [canary.watch(" ".join(Page(path).words)) for path in sorted(directory.iterdir())]


def test_the_sheets(desk: Desk, place, canary: Canary, secret: str) -> None:
    directory = place.top / "new" / "kit"
    outcome, kept = told(desk.send("set", {**SETTINGS, "sheets": str(directory)}, secret=secret)())
    assert outcome == "ok"
    paths = sorted(directory.iterdir())
    assert [path.name for path in paths] == [f"share-{number}-of-3.html" for number in (1, 2, 3)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
    texts = read_sheets(directory, canary)
    assert [len(text.split()) for text in texts] == [33] * 3
    for chosen in itertools.combinations(texts, 2):
        assert slip39.combine_mnemonics(chosen).hex() == secret
    share = slip39.Share.from_mnemonic(texts[0])
    assert json.loads(kept) == {"need": 2, "of": 3, "set": share.identifier}, "and nothing of the secret"
    desk.expect(f"avault: the sheets are written into {directory} now. PRINT THEM, THEN DELETE THEM")
    for number, path in enumerate(paths, 1):
        page = Page(path)
        assert f"Share {number} of 3 for clawd@db1" in page.text
        assert page.cells == [
            "Vault", "clawd@db1",
            "Belongs to", f"{avault.place_name()}, /home/op/clawd/.avault",
            "Agent", NPUB,
            "Custodian", "paper",
            "Sheet", f"{number} of 3, set {share.identifier:04x}",
            "Needed", "any 2 of the 3 sheets",
            "Made", time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime)),
        ]  # fmt: skip
        assert "type on that machine: avault unlock --with paper." in page.text
        assert "the file custody-paper.json, which lies there. Fewer open nothing." in page.text


def test_one_sheet_alone(desk: Desk, place, canary: Canary, secret: str) -> None:
    _, kept = write_sheets(desk, place.top / "kit", secret, 1, 1)
    [text] = read_sheets(place.top / "kit", canary)
    assert slip39.combine_mnemonics([text]).hex() == secret
    assert json.loads(kept)["need"] == 1
    page = Page(place.top / "kit" / "share-1-of-1.html")
    assert "this one alone" in page.cells
    assert "Whoever has it can open it together with the file custody-paper.json" in page.text


def test_the_codes_read_back(desk: Desk, place, canary: Canary, secret: str) -> None:
    write_sheets(desk, place.top / "kit", secret)
    texts = read_sheets(place.top / "kit", canary)
    codes = [read_code(Page(path).picture()) for path in sorted((place.top / "kit").iterdir())]
    assert codes == texts
    assert slip39.combine_mnemonics(codes[1:]).hex() == secret


def test_a_sheet_runs_nothing_and_fetches_nothing(desk: Desk, place, secret: str) -> None:
    write_sheets(desk, place.top / "kit", secret, 1, 1)
    path = place.top / "kit" / "share-1-of-1.html"
    page = Page(path)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {*page.tags}
    assert [link.partition(",")[0] for link in page.links] == ["data:image/png;base64"]
    text = path.read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert not re.search(r"url\(|@import|https?:", text)


def test_a_sheet_shows_what_it_is_told_as_text() -> None:
    page = avault.render_sheet("<b>", {"<i>": "&amp; `<u>`"}, "x", ["<s>"], ["a `b` <script>"]).decode()
    for shown in (
        "<title>&lt;b&gt;</title>",
        "<h1>&lt;b&gt;</h1>",
        "<th>&lt;i&gt;<td>&amp;amp; <code>&lt;u&gt;</code>",
        "<li>&lt;s&gt;",
        "<p>a <code>b</code> &lt;script&gt;\n",
    ):
        assert shown in page


def test_an_nsec_on_a_sheet(tmp_path: Path, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """The page of a recovery kit: another title, no words, the same form."""
    nsec = canary.watch("nsec1" + secrets.token_hex(29))
    pieces = avault.cut_text(nsec)
    assert pieces[:2] == [nsec[:4], nsec[4:8]] and "".join(pieces) == nsec
    path = allow(tmp_path / "kit.html")
    path.write_bytes(avault.render_sheet("Recovery kit", {"Operator": NPUB}, nsec, pieces, ["`avault recover`"]))
    page = Page(path)
    assert page.words == pieces
    assert page.cells == ["Operator", NPUB]
    assert read_code(page.picture()) == nsec


def test_no_sheet_is_written_over_another(desk: Desk, place, secret: str) -> None:
    settings, _ = write_sheets(desk, place.top / "kit", secret)
    before = {path: path.read_bytes() for path in (place.top / "kit").iterdir()}
    refused = answer("set", settings, secret=secret, terminal=desk.path)
    assert told(refused) == ("usage", f"{place.top}/kit is not empty, or not ours")
    assert {path: path.read_bytes() for path in (place.top / "kit").iterdir()} == before


def test_no_sheet_is_written_where_nobody_is_told(place, secret: str) -> None:
    settings = {**SETTINGS, "sheets": str(place.top / "kit")}
    assert told(answer("set", settings, secret=secret)) == ("unavailable", "somebody has to answer, and there is no terminal")
    assert not (place.top / "kit").exists()


def test_no_sheet_is_left_where_not_all_can_be_written(place, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = avault.load_extra("custody_paper", "shares")
    written: list[str] = []

    def write(path: str, data: bytes) -> None:
        if len(written) == 2:
            raise avault.AvaultError("the disk is full")
        written.append(path)
        Path(path).write_bytes(data)

    class Told:
        def tell(self, text: str) -> None: ...

    monkeypatch.setattr(avault, "write_file", write)
    settings = {**SETTINGS, "sheets": str(place.top / "kit")}
    errand = avault.Errand({**FIELDS, "settings": settings, "account": "", "limit": 9}, Told())
    with pytest.raises(avault.AvaultError, match="the disk is full"):
        paper.Custodian(errand).set(secret)
    assert len(written) == 2
    assert not [*(place.top / "kit").iterdir()]


LONGEST_FIELDS = {
    "name": "p" * 32,
    "bound": f"avault:custody:v1:{'0' * 32}:{NPUB}:{'p' * 32}",
    "label": f"avault: unlock key of {'W' * 64} (/{'long/' * 40}.avault)",
}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
@pytest.mark.parametrize("paper", ["A4", "Letter"])
@pytest.mark.parametrize("fields", [FIELDS, LONGEST_FIELDS], ids=["usual", "longest"])
def test_a_sheet_is_printed_on_one_page(desk: Desk, place, canary: Canary, secret: str, paper: str, fields) -> None:
    """By a browser, which also shows it; the code is read from the screen."""
    directory = place.top / "kit"
    settings = {"need": "16", "of": "16", "sheets": str(directory)}
    assert answer("set", settings, secret=secret, terminal=desk.path, **fields)["outcome"] == "ok"
    path = directory / "share-16-of-16.html"
    words = " ".join(Page(path).words)
    path.write_text(path.read_text().replace("@page { ", f"@page {{ size: {paper}; "))
    browser = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place.tmp}/profile",
        "--no-pdf-header-footer", "--window-size=900,1400",
    ]  # fmt: skip
    for option in (f"--print-to-pdf={place.tmp}/page.pdf", f"--screenshot={place.tmp}/page.png"):
        subprocess.run([*browser, option, path.as_uri()], check=True, capture_output=True, timeout=120)
    printed = (place.tmp / "page.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", printed)) == 1
    [size] = re.findall(rb"/MediaBox \[0 0 (\d+)[.\d]* (\d+)[.\d]*\]", printed)
    assert size == {"A4": (b"594", b"841"), "Letter": (b"612", b"792")}[paper]
    assert read_code((place.tmp / "page.png").read_bytes()) == words


# Typing them in


@pytest.fixture
def sheets(desk: Desk, place, canary: Canary, secret: str) -> tuple[dict[str, Any], list[str]]:
    """What `get` is given, and the words of three sheets, which are not on the disk any more."""
    settings, kept = write_sheets(desk, place.top / "kit", secret)
    texts = read_sheets(place.top / "kit", canary)
    shutil.rmtree(place.top / "kit")
    return {"settings": settings, "kept": kept}, texts


FIRST = "sheet 1 of 2, from word 1 on"
SECOND = "sheet 2 of 2, from word 1 on"


def test_two_sheets_are_typed(desk: Desk, sheets, secret: str) -> None:
    given, texts = sheets
    got = desk.send("get", **given)
    desk.expect(f"2 of 3 sheets are needed, set {json.loads(given['kept'])['set']:04x}.")
    desk.answer(FIRST, texts[2])
    desk.expect("that is sheet 3\n")
    desk.answer(SECOND, texts[0])
    assert told(got()) == ("ok", secret)
    assert desk.echoes()
    shown = desk.read().partition("gives up\n")[2]
    lines = [f"{FIRST}: ", "that is sheet 3", f"{SECOND}: ", "that is sheet 1"]
    assert shown == "".join(f"avault: {line}\n" for line in lines), "and nothing of what was typed"


def test_a_few_letters_and_a_few_words_at_a_time(desk: Desk, sheets, secret: str) -> None:
    given, texts = sheets
    got = desk.send("get", **given)
    for which, text in ((1, texts[0]), (2, texts[1])):
        words = [word[:4] for word in text.split()]
        for start in range(0, 33, 11):
            line = " ".join(words[start : start + 11])
            desk.answer(f"sheet {which} of 2, from word {start + 1} on", line.upper() if start else line)
    assert told(got()) == ("ok", secret)


def test_a_typo_is_not_a_refusal(desk: Desk, sheets, secret: str) -> None:
    given, texts = sheets
    words = texts[0].split()
    got = desk.send("get", **given)
    desk.answer(FIRST, " ".join(words[:10]))
    desk.answer("sheet 1 of 2, from word 11 on", " ".join([*words[10:13], "acadmeic", *words[14:]]))
    desk.expect("word 14 is not in the list; type from word 11 again\n")
    desk.answer("sheet 1 of 2, from word 11 on", " ".join([*words[11:], words[10]]))
    desk.expect("a word is wrong, is missing, or stands in another place: the checksum does not fit; type a sheet again\n")
    desk.answer(FIRST, texts[0] + " " + words[0])
    desk.expect("it has 34 words, and an unlock key's has 33; type a sheet again\n")
    desk.answer(FIRST, texts[0])
    desk.expect("that is sheet 1\n")
    desk.answer(SECOND, texts[0])
    desk.expect("this is sheet 1, which you have typed already; type a sheet again\n")
    desk.answer(SECOND, texts[1])
    assert told(got()) == ("ok", secret)


def test_another_set_is_refused(desk: Desk, sheets, canary: Canary, secret: str) -> None:
    given, texts = sheets
    of = json.loads(given["kept"])["set"]
    other = of_another_set(texts[0], secret)
    got = desk.send("get", **given)
    desk.answer(FIRST, canary.watch(other))
    desk.expect(f"this sheet is of set {shares.read_share(other).identifier:04x}, and not of set {of:04x}; type a sheet again\n")
    desk.answer(FIRST, texts[1])
    desk.answer(SECOND, texts[2])
    assert told(got()) == ("ok", secret)


def test_one_gives_up(desk: Desk, sheets) -> None:
    given, texts = sheets
    got = desk.send("get", **given)
    desk.answer(FIRST, texts[0])
    desk.answer(SECOND, "")
    assert told(got()) == ("denied", "nothing was typed")
    assert desk.echoes()


def test_nobody_types(desk: Desk, sheets) -> None:
    given, _ = sheets
    got = desk.send("get", **given, limit=2.0)
    desk.expect(f"{FIRST}: ")
    assert told(got()) == ("denied", "the paper did not answer in 2 s")
    assert desk.echoes()


def test_nobody_is_there(sheets) -> None:
    given, _ = sheets
    assert told(answer("get", **given)) == ("unavailable", "somebody has to answer, and there is no terminal")


def test_a_file_answers(sheets, place, secret: str, allow: Callable[[Path], Path]) -> None:
    """For scripts: a line for each sheet. What is wrong ends it, as nobody is there who could type it again."""
    given, texts = sheets
    file = allow(place.top / "answers")
    file.touch(mode=0o600)

    def get(*lines: str) -> dict[str, Any]:
        file.write_text("".join(f"{line}\n" for line in lines))
        return answer("get", **given, answers=str(file))

    assert told(get(texts[0], "", texts[2])) == ("ok", secret)
    assert get(texts[0])["detail"] == "there are too few shares: 2 are needed, and 1 came"
    assert get(texts[0], texts[0])["detail"] == "share 2 is the same as share 1"
    assert get(texts[0], "what is this")["detail"] == "share 2: word 1 is not in the list"
    assert get(*shares.split(secret, 3, 3))["outcome"] == "tampered", "of another set"


# What else is asked of it


def test_probe(desk: Desk, place, secret: str) -> None:
    settings, kept = write_sheets(desk, place.top / "kit", secret)
    needed = "2 of 3 sheets are needed, and somebody who types them"
    left = f"{needed}; there are sheets in {place.top}/kit: print and delete them"
    assert told(answer("probe", settings, kept=kept)) == ("ok", left)
    for number in (1, 2):
        (place.top / "kit" / f"share-{number}-of-3.html").unlink()
    assert answer("probe", settings, kept=kept)["value"] == left, "one is left"
    shutil.rmtree(place.top / "kit")
    assert told(answer("probe", settings, kept=kept)) == ("ok", needed)


DAMAGED = ("{", "[]", "{}", '{"need": 2, "of": 3}', '{"need": "2", "of": 3, "set": 1}', '{"need": 9, "of": 3, "set": 1}')


@pytest.mark.parametrize("action", ["get", "probe"])
def test_what_is_kept_may_be_damaged(action: str) -> None:
    settings = {**SETTINGS, "sheets": "/nowhere"}
    assert told(answer(action, settings)) == ("not_found", "it has no sheets")
    for kept in DAMAGED:
        assert told(answer(action, settings, kept=kept)) == ("error", "what is kept about its sheets is damaged")


def test_the_sheets_are_the_persons(desk: Desk, place, secret: str) -> None:
    settings, kept = write_sheets(desk, place.top / "kit", secret)
    assert told(answer("delete", settings, kept=kept, terminal=desk.path)) == ("ok", None)
    desk.expect("the sheets are yours: destroy them.")
    assert len([*(place.top / "kit").iterdir()]) == 3
    assert told(answer("delete", settings, kept=kept)) == ("ok", None), "with nobody there"


def test_the_document_says_what_paper_says() -> None:
    text = (SOURCE.parent / "references" / "custody.md").read_text().partition("\n## paper\n")[2].partition("\n## ")[0]
    for name, (_, usual) in avault.find_kind("paper").SETTINGS.items():
        assert f"| `{name}` | {usual or 'to be told'} |" in text
    assert f"did not answer in {avault.Helper.LONGER['paper']:g} s" in text
    for said in ("somebody has to answer, and there is no terminal", "nothing was typed", "it has no sheets"):
        assert f'"{said}"' in text


@pytest.mark.slow
def test_a_vault_opens_with_two_sheets(proven: Machine, place, canary: Canary) -> None:
    """The whole way: the phone agrees, the sheets are typed to prove them, and open the vault when it is locked."""
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    proven("set", "a/B", input=canary.value)

    def type_sheets(screen: Screen, *numbers: int) -> None:
        for which, number in enumerate(numbers, 1):
            screen.expect(f"sheet {which} of 2, from word 1 on: ")
            wait_until(lambda: not termios.tcgetattr(screen.fd)[3] & termios.ECHO)
            screen.type(" ".join(Page(place.top / "kit" / f"share-{number}-of-3.html").words) + "\n")

    with Screen(proven, AVAULT, "custody", "add", "paper", "sheets=kit", "--yes") as screen:
        screen.expect("PRINT THEM, THEN DELETE THEM")
        type_sheets(screen, 1, 2)
        screen.wait()
    texts = read_sheets(place.top / "kit", canary)
    assert len(texts) == 3
    proven("lock")
    with Screen(proven, AVAULT, "unlock", "--with", "paper") as screen:
        type_sheets(screen, 3, 1)
        screen.wait()
    assert proven("get", "a/B", secret=True).stdout.rstrip("\n") == canary.value
    [listed] = [each for each in proven("custody", "list", "--json").json["custodians"] if each["name"] == "paper"]
    assert (listed["asks"], listed["outcome"]) == (True, "ok")
    assert "print and delete them" in listed["said"]
    proven("custody", "remove", "paper", "--yes")
    assert not (proven.own / "custody-paper.json").exists()
