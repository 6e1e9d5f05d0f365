"""The documents are true: what they name exists, what they quote is said, and avault.py keeps the shape that it promises."""

import inspect
import re
import subprocess
from collections import Counter
from pathlib import Path

import click
import documents as d
import figures
import pytest
from harness import AVAULT

import avault

DOCUMENTS = d.documents()
COMMANDS = sorted(d.commands())
TEXT = d.SOURCE.read_text(encoding="utf-8")
LINES = TEXT.splitlines()

BANNERS = {match[1]: line for line in LINES if (match := re.fullmatch(r"# -{3,} (.+) ----", line))}


# Commands and options


def check_calls(text: str) -> list[str]:
    wrong = []
    for name, options in d.calls(text):
        if name in d.INTERNAL:
            continue
        group = any(each.startswith(f"{name} ") for each in (*d.commands(), *d.INTERNAL))
        if name in {each.split()[0] for each in d.INTERNAL} - {each.split()[0] for each in d.commands()}:
            continue
        if group and not options - d.EVERYWHERE:
            continue
        if name and name not in d.commands():
            wrong.append(f"no command: avault {name}")
        else:
            known = d.names(d.commands()[name].params) | d.EVERYWHERE if name else {*d.EVERYWHERE, "--version"}
            wrong += [f"avault {name} has no {option}" for option in sorted(options - known)]
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_a_document_names(document: str) -> None:
    assert not [wrong for piece in d.code(d.read(document)) for wrong in check_calls(piece)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_that_a_document_names(document: str) -> None:
    """A span that is an option alone, as `--force`: some command must have it."""
    known = {name for command in d.commands().values() for name in d.names(command.params)} | d.EVERYWHERE | {"--version"}
    spans = re.findall(r"(?<!`)`(--?[a-z][a-z-]*)[^`\n]*`(?!`)", d.read(document))
    assert not sorted(set(spans) - known)


def test_commands_that_avault_itself_names() -> None:
    """Hints say what to type next; that must work."""
    assert not [f"{wrong} ({text[:60]!r})" for text in d.constants() for wrong in check_calls(text)]


def test_the_reader_of_calls() -> None:
    """The reader above must see what it is for, or the tests above say nothing."""
    assert d.calls("$ pass show x | avault set openai/API_KEY --note 'a | b'") == [("set", {"--note"})]
    assert d.calls('vars=$(avault export --shell --wait) && eval "$vars"') == [("export", {"--shell", "--wait"})]
    assert d.calls("avault: hint: pair it with: avault pair --replace") == [("pair", {"--replace"})]
    assert d.calls(".venv/bin/avault --dir /x daemon start -b; avault nonsense --x=1") == [
        ("daemon start", {"--dir", "-b"}),
        ("nonsense", {"--x"}),
    ]
    assert d.calls("pip install avault-nostr; avault COMMAND --help; the avault of x; avault.py; avault-keys") == []


# Help


ARGUMENTS = {
    "settings": "SETTING=VALUE",
    "names": "NAME",
    "words": "CMD",
    "word": "KEY",
    "groups": "GROUP",
    "paths": "PATH",
    "shell": "bash|zsh|fish",
    "checks": "CHECK",
}  # how a usage writes them
EXAMPLE = re.compile(r"^  .*$", re.MULTILINE)  # check_calls knows which of its words are avault's
OTHERS = re.compile(r"\b(?:git|openclaw) [a-z][^.;:,]*")


def usage(name: str) -> str:
    """The usage part of a command's help, up to the empty line."""
    return (d.commands()[name].help or "").partition("\n\n")[0]


def options_in(text: str) -> Counter[str]:
    return Counter(re.findall(r"(?<![\w-])--?[a-z][a-z-]*(?![\w-])", text))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_exactly_the_options(name: str) -> None:
    command = d.commands()[name]
    listed = options_in(usage(name))
    own = [each for each in command.params if isinstance(each, click.Option) and not set(each.opts) & d.EVERYWHERE]
    for parameter in own:
        assert any(listed[alias] for alias in parameter.opts), f"{parameter.opts} is not in the usage"
    known = {alias for parameter in own for alias in parameter.opts} | d.EVERYWHERE
    assert not sorted(set(listed) - known), "in the usage, but no option"
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            shown = ARGUMENTS.get(parameter.name or "", (parameter.name or "").upper())
            assert re.search(rf"\b{re.escape(shown)}\b", usage(name)), "an argument that the usage does not have"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_only_what_there_is(name: str) -> None:
    """An option in the prose is the command's own, unless the sentence names another command."""
    prose = inspect.cleandoc(d.commands()[name].help or "").partition("\n\n")[2]
    assert not check_calls(prose)
    prose = OTHERS.sub("", EXAMPLE.sub("", prose))
    others = {option for other, _ in d.calls(prose) if other in d.commands() for option in d.names(d.commands()[other].params)}
    known = d.names(d.commands()[name].params) | d.EVERYWHERE | others
    assert not sorted(set(options_in(prose)) - known)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_the_command(name: str) -> None:
    same = {"daemon status": "status"}.get(name, name)  # one command under two names
    assert usage(name).startswith(f"usage: avault {same}")
    assert all(len(line) <= 100 for line in (d.commands()[name].help or "").split("\n"))


def test_help_page_names_every_command() -> None:
    lines = re.findall(r"^  ([a-z|-]+(?: [a-z|-]+)*?)(?=  |$)", avault.HELP, re.MULTILINE)
    heads = [f"{line[: -len(last)]}{each}" for line in lines for last in line.split()[-1:] for each in last.split("|")]
    also = {name for name, _ in d.calls(avault.HELP)} | set(re.findall(r"\(also: avault ([a-z ]+)\)", avault.HELP))
    assert {*heads, *also} == set(COMMANDS)
    assert len(heads) == len(set(heads))


def test_table_of_commands_names_every_command() -> None:
    first = re.findall(r"^\| (`avault .*?) \| ", d.read("references/commands.md"), re.MULTILINE)
    named = [name for cell in first for piece in d.code(cell) for name, _ in d.calls(piece)]
    assert sorted({name.split()[0] if name.startswith("help ") else name for name in named}) == COMMANDS
    assert len(set(named)) == len(named)


def test_table_of_variables_names_every_variable() -> None:
    """Those that avault reads, and those that it sets for the command of --notify."""
    read = {text for text in d.constants() if re.fullmatch(r"AVAULT_[A-Z]+|NOSTR_NSEC|WORKSPACE|XDG_[A-Z_]+", text)}
    read.remove("AVAULT_COMMAND")  # a name in the installed command, not in the environment
    assert read == set(re.findall(r"`\$?((?:AVAULT_|NOSTR_|XDG_)[A-Z_]+|WORKSPACE)`", d.read("references/commands.md")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_help_blocks_are_the_real_help(document: str) -> None:
    text = d.read(document)
    for match in d.BLOCK.finditer(text):
        if match[2].startswith("help"):
            words = match[2].removeprefix("help: avault").strip()
            assert match[3] == d.help_block(words), "stale: python tests/tools/documents.py --write"
    kinds = rf"(help|{d.BLOCKS})\b"
    opened, closed = re.findall(f"<!-- {kinds}", text), re.findall(f"<!-- /{kinds}", text)
    assert opened == closed and len(opened) == len(list(d.BLOCK.finditer(text))), "a block that does not end, or is not known"


@pytest.mark.slow
def test_blocks_are_written() -> None:
    text = "a\n<!-- help: avault has -->\nold\n<!-- /help -->\nb\n<!-- bench -->\nold\n<!-- /bench -->\n"
    fresh = d.refresh(text, "| new |")
    assert d.real_help("has") in fresh and "old" not in fresh and "<!-- bench -->\n| new |\n<!-- /bench -->" in fresh
    assert d.refresh(fresh) == fresh


def test_map_of_the_rooms() -> None:
    """It has the rooms that there are, and the ways that it describes go through them."""
    text, rooms = d.read("references/architecture.md"), {name for name, _ in d.rooms()}
    [block] = [match[3] for match in d.BLOCK.finditer(text) if match[2] == "rooms"]
    assert block == d.rooms_block(), "stale: python tests/tools/documents.py --write"
    source = d.ROOT / "src" / "avault"
    files = {path.relative_to(source).with_suffix("").as_posix() for path in source.rglob("*.py")} - {"__init__"}
    assert {name for name in rooms if not name.endswith(".py")} == files
    named = {span for span in re.findall("`([a-z_]+/[a-z_]+)`", text) if not (d.ROOT / span).exists()}
    assert len(named) > 10 and named <= rooms


def test_bench_block_is_a_table() -> None:
    text = d.read("references/performance.md")
    blocks = [match[3] for match in d.BLOCK.finditer(text) if match[2] == "bench"]
    assert len(blocks) == 1 and blocks[0].count("\n|") > 8, "python tests/tools/documents.py --write --bench"


def test_figures_of_signatures() -> None:
    """A row for each kind of key, and one for ssh-keygen."""
    [block] = [match[3] for match in d.BLOCK.finditer(d.read("references/performance.md")) if match[2] == "signatures"]
    kinds = ("ed25519", "ecdsa-p256", "rsa", "Nostr", "Ethereum", "Solana", "ssh-keygen")
    rows = [line for line in block.splitlines() if line.startswith(("| a ", "| `"))]
    said = "python tests/tools/bench.py --signatures --write"
    assert len(rows) == 7 and all(any(kind in row for row in rows) for kind in kinds), said


def test_figures_of_the_proxy() -> None:
    """A row for each way and each protocol."""
    [block] = [match[3] for match in d.BLOCK.finditer(d.read("references/performance.md")) if match[2] == "proxy"]
    rows = re.findall(r"^\| HTTP/(1\.1|2), (.*?) \|", block, re.MULTILINE)
    assert len(rows) == 8 and {protocol for protocol, _ in rows} == {"1.1", "2"}, "python tests/tools/bench_proxy.py --write"


TESTS = {path.relative_to(d.ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (d.ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_a_document_names(document: str) -> None:
    """Each that is said to show something is there."""
    text = d.read(document)
    there = {name for content in TESTS.values() for name in re.findall(r"^(?:async )?def (test_\w+)\(", content, re.MULTILINE)}
    assert not set(re.findall(r"`(test_\w+)`", text)) - there
    assert not [path for path in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (d.ROOT / path).exists()]
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert not [name for path, name in named if not re.search(rf"^(async )?def {name}\(", TESTS.get(path, ""), re.MULTILINE)]
    ends = re.findall(r"`…(_\w+)`", text)
    assert all(any(name.endswith(end) for name in there) for end in ends)


def test_tables_of_custodians() -> None:
    """A row for each kind: what it is worth, and how long it takes, or why that was not measured."""
    text, kinds = d.read("references/custody.md"), {*avault.KINDS, *avault.EXTRA_KINDS}
    worth = text.partition("\n## Which one\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in worth.splitlines() if line.startswith("| ")]
    assert {name for row in rows for name in re.findall("`([a-z0-9-]+)`", row[0])} == {"phone", *kinds}
    assert {len(row) for row in rows} == {5} and all(cell.strip("| ") for row in rows for cell in row)
    [block] = [match[3] for match in d.BLOCK.finditer(text) if match[2] == "custodians"]
    measured = set(re.findall(r"^\| `([a-z0-9-]+)`, .* ms ", block, re.MULTILINE))
    _, _, missing = block.partition("\nNot measured: ")
    assert measured | set(re.findall("`([a-z0-9-]+)`, ", missing)) == kinds, "python tests/tools/bench_custody.py --write"


# Exit codes

WORDS = {
    "AvaultError": "error",
    "Usage": "usage",
    "Locked": "locked",
    "NotFound": "not found",
    "Denied": "denied",
    "Unavailable": "no daemon",
    "TimedOut": "nobody answered",
    "Tampered": "damaged",
}
CLASSES = {each.__name__: each for each in (avault.AvaultError, *avault.ERRORS)}


def test_error_classes_have_codes_of_their_own() -> None:
    assert set(CLASSES) == set(WORDS)
    assert len({each.exit_code for each in CLASSES.values()}) == len({each.code for each in CLASSES.values()}) == len(CLASSES)


@pytest.mark.parametrize("document", ["HELP", *DOCUMENTS])
def test_exit_codes(document: str) -> None:
    """Where a document lists the exit codes, in a line or in a table, it lists all of them, and rightly."""
    text = avault.HELP if document == "HELP" else d.read(document)
    flat = " ".join(text.split())
    found = re.findall(r"[Ee]xit codes: (0 done.*?)(?: avault COMMAND|\.(?: |$))", flat)
    lists = [dict(re.findall(r"(\d) ([^,.]+)", each)) for each in found]
    for table in re.findall(r"^\| *(?:exit )?code *\|[^\n]*\n\|[-| ]*\n((?:\|[^\n]*\n?)+)", text, re.MULTILINE):
        rows = dict(re.findall(r"^\| *`?(\d+)`? *\| *(.*?) *\|?$", table, re.MULTILINE))
        if rows:
            lists.append(rows)
            for number, row in rows.items():
                named = [CLASSES[name].exit_code for name in re.findall(r"`(\w+)`", row) if name in CLASSES]
                assert all(code == int(number) for code in named)
    assert lists or document not in ("HELP", "references/commands.md")
    for each in lists:
        assert set(map(int, each)) == {0, *(kind.exit_code for kind in CLASSES.values())}
        if document in ("HELP", "references/commands.md"):
            for name, words in WORDS.items():
                assert words in each[str(CLASSES[name].exit_code)].lower(), name


def test_protocol_names_every_error() -> None:
    text = d.read("references/protocol.md")
    assert not [each.code for each in CLASSES.values() if f"`{each.code}`" not in text]


# Messages


@pytest.mark.parametrize("document", DOCUMENTS)
def test_messages_that_a_document_quotes(document: str) -> None:
    assert not [message for message in d.messages(d.read(document)) if not d.is_said(message)]


def test_headings_of_troubleshooting() -> None:
    """There a heading that begins with code is a message, word for word, with … for what is filled in."""
    quoted = [heading for heading in d.headings(d.read("references/troubleshooting.md")) if heading.startswith("`")]
    assert len(quoted) > 20
    messages = [span for heading in quoted for span in re.findall(r"`([^`]+)`", heading)]
    known = set(d.constants())
    foreign = {"bad interpreter", "cannot execute: required file not found"}  # the shell's
    assert not [message for message in messages if message not in known | foreign and not message.startswith("State: ")]


def test_the_reader_of_messages() -> None:
    assert d.is_said("the vault is locked") and d.is_said("no daemon is running for /home/x/clawd/.avault")
    assert not d.is_said("the vault is loked") and not d.is_said("no demon is running for /home/x")


# Links and words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents(document: str) -> None:
    here = (d.ROOT / document).parent
    wrong = []
    for link in d.links(d.read(document)):
        name, _, fragment = link.partition("#")
        target = (here / name) if name else d.ROOT / document
        if not target.exists():
            wrong.append(link)
        elif fragment and target.suffix == ".md":
            anchors = [d.anchor(heading) for heading in d.headings(target.read_text(encoding="utf-8"))]
            if fragment not in anchors:
                wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("document", ["avault.py", *DOCUMENTS])
def test_references_that_are_named_exist(document: str) -> None:
    named = set(re.findall(r"references/[a-z0-9-]+\.md", d.read(document)))
    assert not sorted(name for name in named if not (d.ROOT / name).exists())


@pytest.mark.parametrize("document", ["avault.py", "CHANGELOG.md", "pyproject.toml", *DOCUMENTS])
def test_words(document: str) -> None:
    """NIP-44 v2 is ChaCha20 with HMAC-SHA256."""
    assert not re.findall(r"xchacha\S*|poly-?1305", d.read(document), re.IGNORECASE)


INSTALLERS = re.compile(
    r"""\b(?:pip3?|pipx|uvx?|poetry|pdm|rye|conda|mamba)\b[^\n;&|"]*?[ \t]['"]?avault(?![\w./*-])"""
    r"""|^\s*(?:-\s*)?(?:package|formula)\s*[:=]\s*['"]?avault(?![\w./-])|^name = "avault"|\bavault\[[a-z]+\]|\bavault\s?==""",
    re.MULTILINE,
)


def test_no_installer_is_told_avault() -> None:
    """On PyPI that is a stranger's code, of a higher version than ours. Ours is avault-nostr, installed from its folder."""
    told = ["pip install -U avault", "uv tool install 'avault[mcp]'", "uvx avault demo", "package: avault", 'name = "avault"',
            "pipx install avault", "avault[keychain]", "python -m pip install avault==0.1.0"]  # fmt: skip
    fine = ["pip install .", "uv run avault.py", "pip install 'avault-nostr[mcp]'", "name: avault", "package: avault-nostr",
            "pip install avault_nostr-*.whl", ".venv/bin/pip install -q . && .venv/bin/avault demo"]  # fmt: skip
    assert [bool(INSTALLERS.search(text)) for text in told + fine] == [True] * len(told) + [False] * len(fine)
    files = {path for pattern in TEXTS for path in d.ROOT.glob(pattern) if path.is_file()} - {Path(__file__)}
    assert {d.ROOT / name for name in ("pyproject.toml", "SKILL.md", "avault.py", "references/mcp.md")} <= files
    wrong = [f"{path}: {found[0]}" for path in files for found in INSTALLERS.finditer(path.read_text(encoding="utf-8"))]
    assert not wrong


TEXTS = ("*.md", "*.py", "*.toml", "scripts/a*", "scripts/*.py", "references/*.*", "hooks/*/*.*", "tests/*.py", "tests/*/*.py",
         "tests/*/*/*.py", ".ci/run", ".github/*/*.yml")  # fmt: skip


def test_version() -> None:
    newest = re.search(r"\b\d+\.\d+\.\d+\b", d.read("CHANGELOG.md"))
    assert newest
    printed = subprocess.run([AVAULT, "--version"], check=True, capture_output=True, text=True).stdout
    assert printed == f"avault {newest[0]}\n"


# The shape of avault.py


def test_rooms_are_those_of_the_docstring() -> None:
    listed = re.findall(r"^    ([a-z_/]+)  +\S", (avault.__doc__ or "").partition("The rooms")[2], re.MULTILINE)
    assert listed == list(BANNERS)
    assert {len(line) for line in BANNERS.values()} == {len("# " + "-" * 76)}


# The figures of proofs.md


def test_every_figure_has_a_test_that_holds_to_it() -> None:
    for name, (_, _, test) in figures.table().items():
        text = (d.SOURCE.parent / "tests" / "proof" / test.strip("`")).read_text()
        named = [re.sub(r"\\{.*?}", ".+", re.escape(each)) for each in re.findall(r'"([^"\n]+)"', text)]  # of an f-string, any
        assert any(re.fullmatch(each, name) for each in named), name
