"""What `export` prints, in every shell; what shells print, in every importer; and what a command prints, masked.

The same strategies as in test_export.py, test_import.py and test_run.py, with names as well as values, in numbers.
"""

import base64
import itertools
import json
import os
import random
import re
import shutil
import string
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures
import pytest
from canary import Canary
from harness import Machine
from test_export import NASTY, batches, chunks, compare, dumped, generated, globs, shell  # noqa: F401  globs is a fixture
from test_import import SEED, WRITERS, has

import avault

pytestmark = [pytest.mark.proof, pytest.mark.timeout(figures.pick(120, 7200))]

ENVIRON = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}


# Names and values


def any_text(chance: random.Random) -> str:
    """A value: like a token, a URL or a key; of what shells mean something by; of any characters; or all of these."""

    def token() -> str:
        return "".join(chance.choices(string.ascii_letters + string.digits + "_-./+=", k=chance.randrange(1, 50)))

    def unicode() -> str:
        codes = [
            chance.choice([chance.randrange(1, 0xD800), chance.randrange(0xE000, 0x110000), chance.randrange(1, 256)])
            for _ in range(4)
        ]
        return "".join(map(chr, codes))

    def nasty() -> str:
        return next(value for value in iter(lambda: chance.choice(NASTY), None) if len(value) < 100)

    def odd() -> str:
        return "".join(chance.choices(string.printable + "é🦄\u2028\x01\x7f\xa0\x1b", k=chance.randrange(1, 12)))

    return "".join(chance.choice([token, unicode, nasty, odd])() for _ in range(chance.choice([1, 1, 1, 2, 3])))


def variables(count: int, seed: int) -> dict[str, str]:
    """So many names that `export` does not refuse, each with a value."""
    chance, made = random.Random(f"{seed} {SEED}"), dict[str, str]()
    letters = string.ascii_letters + "_"
    values = iter([value for value in NASTY if len(value) < 20_000] if not seed else [])
    while len(made) < count:
        length = chance.choice([1, 2, 3, *range(4, 30), chance.randrange(30, 129)])
        name = chance.choice(letters) + "".join(chance.choices(letters + string.digits, k=length - 1))
        if not avault.is_dangerous(avault.check_key(name)) and name != "file":  # which the scripts here use
            made.setdefault(name, next(values, None) or any_text(chance))
    return made


# eval


SIX = ["sh", "dash", "bash", "zsh", "busybox"]  # and fish
FORMS = {"quoted": 'eval "$(cat $file)"', "unquoted": "eval $(cat $file)"}
AT_ONCE = 1000
ROUNDS = figures.pick(1, 100)


def test_every_value_comes_through_eval(globs):  # noqa: F811
    """Both forms, each shell: the same bytes under the same name, no glob that matched, and no program that ran."""
    count = 0
    for number in range(ROUNDS):
        values = variables(AT_ONCE, number)
        statements = globs.parent / "statements"
        shutil.rmtree(statements, ignore_errors=True)
        files = batches(values, statements)
        tempt(values, globs)
        for name, form in itertools.product(SIX, FORMS.values()):
            compare(dumped(shell(name), f"for file in {files}; do {form}; done\n", values, globs), values)
            count += len(values)
        (globs.parent / "fish").write_text(avault.render_export("fish", values))
        for form in ("cat ../fish | source", "eval (cat ../fish)"):
            count += in_fish(form, values, globs)
    figures.at_least("values through eval, times shells and forms", count)


def tempt(values: dict[str, str], directory: Path) -> None:
    """Files whose names the statements would match, if a shell found a pattern in them."""
    for name, value in values.items():
        if re.search(r"[*?\[]", value) and not re.search(r"[\s/']", value) and len(value.encode()) < 99:
            (directory / f"export {name}='{re.sub(r'[*?]', 'y', value)}';").touch()
            (directory / f"{name}='{re.sub(r'[*?]', 'y', value)}';").touch()


def in_fish(form: str, values: dict[str, str], directory: Path) -> int:
    script = f"{form}\nfor name in {' '.join(values)}; printf '%s\\0' \"$$name\"; end\n"
    (directory.parent / "script").write_text(script)
    argv = [has("fish"), "--no-config", directory.parent / "script"]
    done = subprocess.run(argv, cwd=directory, env={**ENVIRON, "HOME": str(directory)}, capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr[:1000]
    assert not (directory / "pwned").exists()
    compare(dict(zip(values, done.stdout.split(b"\0"), strict=False)), values)
    return len(values)


# Importers


MORE_WRITERS = {
    "bash, export -p in its order": (["bash"], "declare -px"),
    "bash, a dotenv file": (["bash"], 'for name in $NAMES; do printf "%s=%q\\n" $name "${!name}"; done; echo export $NAMES'),
    "dash, set": (["dash"], "set; echo export $NAMES"),
    "zsh, -px": (["zsh", "-f"], "typeset -px ${=NAMES}"),
}


def written(argv: list[str], script: str, values: dict[str, str]) -> str:
    """What a shell says of the variables in its environment."""
    env = {**ENVIRON, "NAMES": " ".join(values), **values}
    done = subprocess.run([has(argv[0]), *argv[1:], "-c", script], env=env, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape")


def is_read_back_by_zsh(value: str) -> bool:
    """zsh's own output does not give every value back: (q) is not for assignments, and some control characters get lost."""
    return not re.search(r"[\x1c\x80-\x9f]|(^|:)[=~]", value)


def lines_by(argv: list[str], script: str, parse: Callable[[str], list[Any]], keep: Callable[[str], bool], seed: int) -> int:
    """How many of the values that a shell writes are read; the others are named, and are few. None is read as another."""
    read = left = 0
    for number in range(figures.pick(1, 10)):
        values = {key: value for key, value in variables(figures.pick(300, 1000), seed + number).items() if keep(value)}
        found = {each.name: each for each in parse(written(argv, script, values))}
        for key, value in values.items():
            assert key in found, (key, value)
            assert found[key].problem or found[key].value == value, (value, found[key].value)
            read, left = read + (not found[key].problem), left + bool(found[key].problem)
    assert left < read / 50, (read, left)
    return read


def test_what_shells_write_is_read_or_named():
    """Never as something else: the value itself, or its line, which is left."""
    count = 0
    for number, (name, (argv, script)) in enumerate({**WRITERS, **MORE_WRITERS}.items()):
        is_zsh = argv[0] == "zsh"
        keep: Callable[[str], bool] = is_read_back_by_zsh if is_zsh else bool
        count += lines_by(argv, script, lambda text, is_zsh=is_zsh: avault.parse_shell(text, is_zsh), keep, 1000 * number)
        assert name
    script = 'for name in (string split " " $NAMES); echo set -gx $name (string escape -- "$$name"); end'
    count += lines_by(["fish", "--no-config"], script, avault.parse_fish, bool, 99_000)  # `audit` reads those
    figures.at_least("lines that shells wrote, read back", count)


def test_what_export_writes_is_read_back():
    """As a file of many lines, and each by itself."""
    count = 0
    for number in range(figures.pick(1, 100)):
        values = variables(1000, number)
        found = avault.parse_dotenv(avault.render_export("dotenv", values))
        assert {each.name: each.value for each in found} == values and not [each for each in found if each.problem]
        for key, value in values.items():
            [each] = avault.parse_dotenv(avault.quote_dotenv(key, value))
            assert (each.name, each.value, each.problem) == (key, value, "")
            count += 1
    figures.at_least("lines that export wrote, read back", count)


QUOTED_FOR_A_SHELL = ["dash", "busybox", "bash, %q", "bash, @Q", "zsh, qq", "zsh, qqq", "zsh, qqqq", "zsh, q-"]


def test_what_shells_quote_in_a_dotenv_file_is_read_or_said():
    """Another language: a file of it has other quotes. One line each, as what is misread may swallow what follows."""
    read = said = 0
    for number, name in enumerate(QUOTED_FOR_A_SHELL):
        argv, script = WRITERS[name]
        values = {
            key: value for key, value in variables(figures.pick(200, 1000), 50_000 + number).items() if is_read_back_by_zsh(value)
        }
        for line in re.split(r"(?m)^(?=export )", written(argv, script, values)):
            found = {each.name: each for each in avault.parse_dotenv(line) if each.name in values}
            for key, each in found.items():
                if each.problem or each.remark:
                    said += 1
                else:
                    assert each.value == values[key], (name, line, values[key], each.value)
                    read += 1
    assert read > said
    figures.at_least("lines of a shell in a dotenv file", read + said)


# Masks


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda data: data.hex().encode(),
    "HEX": lambda data: data.hex().upper().encode(),
    "URL": lambda data: urllib.parse.quote(data).encode(),
    "URL component": lambda data: urllib.parse.quote(data, safe="").encode(),
    "form": lambda data: urllib.parse.quote_plus(data).encode(),
    "JSON": lambda data: json.dumps(data.decode())[1:-1].encode(),
    "JSON in UTF-8": lambda data: json.dumps(data.decode(), ensure_ascii=False)[1:-1].encode(),
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
}


class Stream:
    """Random bytes with encoded secrets in them; `secret` says where, in letters that only the secret decides."""

    def __init__(self, chance: random.Random, values: list[bytes]) -> None:
        self.data, self.secret = b"", list[tuple[int, int]]()
        for _ in range(chance.randrange(1, 12)):
            if chance.random() < 0.5:
                self.data += chance.choice([chance.randbytes, lambda n: b"a" * n, lambda n: chance.choice(values)[: n % 7]])(
                    chance.randrange(40)
                )
            else:
                self.add(chance, chance.choice(values))

    def add(self, chance: random.Random, value: bytes) -> None:
        """A value in some encoding; in base64 also as a part of something longer."""
        kind = chance.choice([*ENCODE, "within base64"])
        first, last, piece = 0, None, b""
        if kind == "within base64":
            before, after = chance.randbytes(chance.randrange(9)), chance.randbytes(chance.randrange(9))
            piece = chance.choice([base64.b64encode, base64.urlsafe_b64encode])(before + value + after)
            first, last = -(-len(before) * 8 // 6), (len(before) + len(value)) * 8 // 6
        else:
            piece = ENCODE[kind](value)
        self.secret.append((len(self.data) + first, len(self.data) + (len(piece) if last is None else last)))
        self.data += piece

    def visible(self, patterns: avault.Patterns) -> list[bytes]:
        """What lies between masks: all that no form covers, looked for by the plainest of means."""
        covered = bytearray(len(self.data))
        for view, strings in patterns.search.views(self.data):
            for form in strings.sorted:
                start = view.text.find(form)
                while start >= 0:
                    first, end = view.place(start), view.end(start + len(form) - 1)
                    covered[first:end] = b"\1" * (end - first)
                    start = view.text.find(form, start + 1)
        for start, end in self.secret:
            left = [place for place in range(start, end) if not covered[place] and self.data[place] not in avault.NOISE]
            assert not left, self.data[start:end]
        ends = [0, *(place for run in re.finditer(b"\1+", bytes(covered)) for place in run.span()), len(self.data)]
        return [self.data[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]


def test_masks_of_random_streams_in_random_pieces():
    """Nothing of a secret comes out, in any encoding, wherever a write ends; and every other byte does, unchanged."""
    chance, count, masked = random.Random(SEED), 0, 0
    while count < figures.pick(1500, 100_000):
        texts = [text for text in (any_text(chance).strip() for _ in range(9)) if len(text.encode()) >= avault.SHORTEST]
        texts = list(dict.fromkeys([*texts[:2], *(text for text in ['p\u00e4ss/w\u00f6rd+&<>="\\ 1'] if not texts)]))
        patterns = avault.Patterns.of({f"g/K{number}": [text] for number, text in enumerate(texts)})
        assert patterns
        for _ in range(25):
            stream = Stream(chance, [text.encode() for text in texts])
            expected, longest = stream.visible(patterns), chance.choice([1, 2, 7, 30, 200])
            mask, shown, rest = avault.Mask(patterns), b"", stream.data
            while rest:
                size = chance.randrange(1, longest + 1)
                shown, rest = shown + mask.feed(rest[:size]), rest[size:]
            shown += mask.end()
            pieces = [avault.solid(piece) for piece in re.split(rb"<avault:g/K\d>", shown)]
            assert [*filter(None, pieces)] == [*filter(None, map(avault.solid, expected))], (texts, stream.data, shown)
            count, masked = count + 1, masked + len(stream.secret)
    figures.at_least("streams with masked secrets, in random pieces", count)
    figures.at_least("encoded secrets in them", masked)


WRITE = """
import os, random, sys, base64, urllib.parse, json
value, chance = os.environb[b"KEY"], random.Random(int(sys.argv[1]))
forms = [value, value.hex().encode(), value.hex().upper().encode(), base64.b64encode(value), base64.urlsafe_b64encode(value),
         urllib.parse.quote(value).encode(), json.dumps(value.decode()).encode()[1:-1]]
for number in range(int(sys.argv[2])):
    form = forms[number % len(forms)]
    rest = b"%d[" % number + form + b"]%d\\n" % number
    while rest:
        size = chance.randrange(1, 30)
        os.write(1 + number % 2, rest[:size])
        rest = rest[size:]
"""


def test_masks_of_a_command_that_writes_in_pieces(machine: Machine, canary: Canary):
    """The command, its two pipes and their silences: at most seven letters of a form come before its mask."""
    machine.init_unproven()
    value = canary.odd.replace("\n", " ")
    machine("set", "g/KEY", input=value)
    count = figures.pick(210, 7000)
    done = machine("run", "--", sys.executable, "-I", "-S", "-c", WRITE, str(SEED), str(count))
    for lines, odd in ((done.stdout, 0), (done.stderr, 1)):
        shown = lines.splitlines()
        assert len(shown) == count // 2
        for place, line in enumerate(shown):
            number = 2 * place + odd
            assert re.fullmatch(rf"{number}\[.{{0,7}}(<avault:g/KEY>)+\]{number}", line), line
    figures.at_least("lines of a command that came out masked", count)
