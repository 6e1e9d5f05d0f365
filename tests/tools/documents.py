"""What the documents say, in pieces that a test can hold against the program; and the parts of them that it writes.

    python tests/tools/documents.py --write            the real help into every  <!-- help: avault export -->…<!-- /help -->,
                                                 the rooms of the source into  <!-- rooms -->…<!-- /rooms -->,
                                                 and the services of guards into  <!-- presets -->…<!-- /presets -->
    python tests/tools/documents.py --write --bench    and the benchmark's table into  <!-- bench -->…<!-- /bench -->
    python tests/tools/bench.py --signatures --write   the table of signatures into  <!-- signatures -->…<!-- /signatures -->
    python tests/tools/bench_custody.py --write        the table of custodians into  <!-- custodians -->…<!-- /custodians -->
    python tests/tools/bench_replica.py --write        the table of relays into  <!-- replica -->…<!-- /replica -->
    python tests/tools/bench_proxy.py --write          the proxy's figures into  <!-- proxy -->…<!-- /proxy -->
    python tests/tools/bench_reboot.py --write         the table of a common reboot into  <!-- reboot -->…<!-- /reboot -->

Without --write it says which blocks are stale, and ends with 1 if any is.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "avault.py"
if __name__ == "__main__":  # in a test, what is installed is imported
    sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "scripts"))  # also where a benchmark is run by itself

import amalgamate  # noqa: E402
import click  # noqa: E402

import avault  # noqa: E402

# The documents


def documents() -> list[str]:
    """The documents for people and agents, as paths below the repository's root."""
    found = [ROOT / "README.md", ROOT / "SKILL.md", *(ROOT / "references").glob("*.md"), *(ROOT / "hooks").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.exists())


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def fences(text: str) -> list[str]:
    """What stands between ``` and ```."""
    return re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def code(text: str) -> list[str]:
    """Everything that is set as code: fenced and indented blocks, and spans."""
    rest = re.sub(r"^```[^\n]*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^(?: {4}.*)?\n)+", rest, re.MULTILINE)
    spans = [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest)]
    return [*fences(text), *(block for block in indented if block.strip()), *spans]


def headings(text: str) -> list[str]:
    without = re.sub(r"^```[^\n]*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#{1,6} +(.*?) *$", without, re.MULTILINE)


def anchor(heading: str) -> str:
    """The id that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links(text: str) -> list[str]:
    """The targets of links that lead to this repository."""
    bare = re.sub(r"^```[^\n]*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", bare) if "://" not in target]


# The commands


INTERNAL = {  # run by avault itself, or by git: nothing to type
    "git record", "git merge", "git diff", "replica keep", "message listen", "message notice",
    "keychain get", "keychain set", "keychain delete", "keychain look",
    "desk show", "desk join", "desk open", "desk turn",
}  # fmt: skip


@cache
def commands() -> dict[str, click.Command]:
    """click's commands by the words that call them, as `daemon start`."""

    def walk(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from walk(command, (*words, name))
            elif (path := " ".join((*words, name))) not in INTERNAL:
                yield path, command

    return dict(walk(avault.build_commands(()), ()))


def names(parameters: list[click.Parameter]) -> set[str]:
    return {name for parameter in parameters if isinstance(parameter, click.Option) for name in parameter.opts}


EVERYWHERE = {*names(avault.build_commands(()).params), "-h", "--help"}

# Where a command begins: a line, a shell's punctuation, two spaces, "…: ", and words that take a command.
BEFORE = r"^|[|;&({\"'/=]|\$ | {2}|: |, |(?:^| )(?:!|or|sudo|exec|if|while|until|not|then|do|and|with|see|say) "
CALL = re.compile(rf"(?:{BEFORE}) *avault +(?=[^ \n])([^\n]*)", re.MULTILINE)

VERBS = {
    "keeps",
    "failed",
    "needs",
    "answers",
    "is",
    "was",
    "and",
    "access",
    "knows",
    "command",
    "would",
    "out",
    "git",
}  # avault as the subject of a sentence


def calls(text: str) -> list[tuple[str, set[str]]]:
    """The commands that a piece of code calls, each with the options that it is given."""
    found = []
    place = 0
    while match := CALL.search(text, place):
        rest = match[1]
        place = match.end() - len(rest)
        plain = re.sub(r"'[^']*'|\"[^\"$(]*\"", "X", rest)
        plain = re.split(r"[|;&)`#>]| {2}|(?: -- )|, (?!--)", plain)[0]
        words = [word for each in plain.split() if (word := each.strip("[]…,.\"'"))]
        name, options = [], set()
        wants_value = False
        for word in words:
            if word.startswith("-") and word != "-":
                options.add(word.partition("=")[0])
                wants_value = word == "--dir"
            elif wants_value:
                wants_value = False
            elif not name or (
                len(name) == 1 and word not in VERBS and any(each.startswith(f"{name[0]} ") for each in commands())
            ):
                name.append(word)
        if name and re.fullmatch(r"[a-z][a-z-]*", name[0]) and name[0] not in VERBS:
            found.append((" ".join(name), options))
        elif not name and options:
            found.append(("", options))
    return found


def real_help(words: str) -> str:
    """What the command prints for --help."""
    argv = [sys.executable, str(SOURCE), *words.split(), "--help"]
    return subprocess.run(argv, check=True, capture_output=True, text=True, env={**os.environ, "HOME": "/nonexistent"}).stdout


# The messages


BARE = re.compile(r"^avault: (?:(?:error|hint): )?(.+)$", re.MULTILINE)


@cache
def constants() -> tuple[str, ...]:
    """Every text in avault.py and in its extras, with … where a value is filled in."""

    def piece(node: ast.expr) -> str:
        return str(node.value) if isinstance(node, ast.Constant) else "…"

    found = set()
    files = [SOURCE, *(ROOT / "src" / "avault_extras").glob("*.py")]
    for node in [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]:
        if isinstance(node, ast.JoinedStr):
            found.add("".join(piece(value) for value in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update((node.value, *BARE.findall(node.value)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):  # what is said before there is click
            found.update(BARE.findall(node.value.decode("utf-8", "replace")))
    return tuple(sorted(found))


def pattern(template: str) -> str:
    return ".+?".join(re.escape(part) for part in template.split("…"))


@cache
def _said() -> re.Pattern[str]:
    usable = [pattern(text) for text in constants() if len(text.replace("…", "").strip()) >= 6]
    return re.compile("|".join(f"(?:{each})" for each in usable), re.DOTALL)


TALK = re.compile(r"^(?:avault: )(?:(?:error|hint|warning): )?(.*)$|^(?:Warning|Reason): (.*)$", re.MULTILINE)


def is_said(message: str) -> bool:
    """Whether avault.py has this text: as it stands, or with … or values where something is filled in."""
    flat = " ".join(message.split())
    return flat in constants() or bool(_said().fullmatch(flat))


def messages(text: str) -> list[str]:
    """What a document says that avault says: lines as avault prints them."""
    return [match[1] or match[2] for block in code(text) for match in TALK.finditer(block) if match[1] or match[2]]


# The blocks that are written

BLOCKS = "bench|signatures|rooms|custodians|replica|reboot|presets|proxy|proxy-memory"
BLOCK = re.compile(rf"(<!-- (help: avault ?[a-z ]*|{BLOCKS}) -->\n)(.*?)(<!-- /(?:help|{BLOCKS}) -->)", re.DOTALL)


def help_block(words: str) -> str:
    return f"```\n{real_help(words).rstrip()}\n```\n"


def rooms() -> list[tuple[str, str]]:
    """The rooms of avault.py and what is in each, as its docstring lists them; then the extras."""
    listed = (avault.__doc__ or "").partition("The rooms, in order")[2]
    found = [(name, about) for name, about in re.findall(r"^    ([a-z_/]+)  +(\S.*)$", listed, re.MULTILINE)]
    for path in sorted((ROOT / "src" / "avault_extras").glob("*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found.append((str(path.relative_to(ROOT)), about.split("\n")[0].rstrip(".")))
    return found


def rooms_block() -> str:
    """The rooms of each folder, the lowest folder first, and what it is for."""
    names = [name for name, _ in rooms()]
    folders = amalgamate.FOLDERS | {"src/avault_extras": "what needs another package: a module beside the file for each"}
    text = ""
    for folder, about in folders.items():
        inside = [name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == folder]
        title = f"`{folder}/`" if folder else "At the bottom"
        text += textwrap.fill(f"- **{title}**: {about}. {', '.join(inside)}", 140, subsequent_indent="  ") + "\n"
    return text


def presets_block() -> str:
    """The table of services that `avault guard --preset` knows."""
    rows = [
        f"| `{name}` | {' '.join(f'`{each}`' for each in hosts)} | `{header}` |\n"
        for name, (hosts, header, _) in avault.SERVICES.items()
    ]
    return "| service | hosts | header |\n|---|---|---|\n" + "".join(rows)


def refresh(text: str, bench: str | None = None, **tables: str) -> str:
    """A document with its blocks as they should be; the benchmarks' only if their table is given."""
    measured = {
        "bench": bench,
        "signatures": None,
        "custodians": None,
        "replica": None,
        "reboot": None,
        "proxy": None,
        "proxy-memory": None,
        **tables,
    }

    def replace(match: re.Match[str]) -> str:
        if match[2] in measured:
            table = measured[match[2]]
            inner = match[3] if table is None else table.strip() + "\n"
        elif match[2] == "rooms":
            inner = rooms_block()
        elif match[2] == "presets":
            inner = presets_block()
        else:
            inner = help_block(match[2].removeprefix("help: avault").strip())
        return match[1] + inner + match[4]

    return BLOCK.sub(replace, text)


def main(argv: list[str]) -> int:
    if set(argv) - {"--write", "--bench"}:
        print(__doc__, file=sys.stderr)
        return 2
    bench = None
    if "--bench" in argv:
        bench = subprocess.run(
            [sys.executable, str(ROOT / "tests/tools/bench.py")], check=True, capture_output=True, text=True
        ).stdout
    stale = 0
    for document in documents():
        text = read(document)
        fresh = refresh(text, bench)
        if fresh != text:
            stale += 1
            print(f"{document}: {'written' if '--write' in argv else 'stale'}")
            if "--write" in argv:
                (ROOT / document).write_text(fresh, encoding="utf-8")
    return 1 if stale and "--write" not in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
