"""What others have written is read in a time that grows as it does, however it is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import avault

SIZE = 1 << 17  # characters: what grows with their square takes half a minute of them, or more
LIMIT = 4.0  # seconds of this process


def looks(text: str) -> Any:
    return [*avault.TOKEN_FORMS.finditer(text)]


def tokens(form: str) -> Callable[[str], Any]:
    return lambda text: [*avault.find_tokens(form, text)]


def settings(text: str) -> Any:
    return [*avault.settings(text, "#")]


# who reads it, what it begins with, what comes again and again, what it ends with
WORST: dict[str, tuple[Callable[[str], Any], str, str, str]] = {
    "schemes": (looks, "", "a-", ""),
    "users": (looks, "", "a://", ""),
    "passwords": (looks, "", "a://b:", ""),
    "one password": (looks, "a://b:", "c", ""),
    "headers of a JWT": (looks, "", "-eyJaaaaaaaa", ""),
    "one payload of a JWT": (looks, "-eyJaaaaaaaa" * 200 + ".eyJ", "a", ""),
    "keys without a digit": (looks, "", "-sk-", ""),
    "blanks of a .env file": (avault.parse_dotenv, "A=b", " ", "c"),
    "references of a .env file": (avault.parse_dotenv, "A=", "${", ""),
    "references of .npmrc": (avault.read_npmrc, "//a/:_authToken=", "${", ""),
    "words of fish": (avault.parse_fish, "\n", "set a \\\n", ""),
    "blanks of a manifest": (avault.read_kubernetes, "kind: a", "\t", "b"),
    "blocks of a manifest": (avault.read_kubernetes, "kind: a\nb:\n", "- |\n  a\n", ""),
    "braces of a shell": (avault.parse_shell, "A=", "{,", ""),
    "pieces of a word": (avault.parse_shell, "A=", "'b'c", ""),
    "a section without an end": (settings, "[", " ", ""),
    "a password with a backslash": (avault.read_pgpass, "", "a", "\\"),
    "comments before YAML": (lambda text: avault.form_of("x", text), "", "#\r\n", "!"),
    "lines before AWS": (lambda text: avault.form_of("x", text), "[a]\n", "\n", ""),
    "comments of JSON": (tokens("json"), "", "/* ", ""),
    "strings of TOML": (tokens("toml"), "", '"""\\', ""),
    "blanks in a template": (tokens("dotenv"), "A=b", " ", "c"),
    "documents": (tokens("shell"), "", "<<a\n", ""),
    "documents in one line": (tokens("shell"), "", "<<a", ""),
    "documents in one line, and an end": (tokens("shell"), "", "<<a", "\na\n"),
    "documents after the end": (tokens("shell"), "a\n", "<<a", ""),
    "one document": (tokens("shell"), "<<", "a", "\n"),
    "comments of XML": (tokens("xml"), "", "<!--", ""),
    "instructions of XML": (tokens("xml"), "", "<?", ""),
    "tags": (tokens("xml"), "", '<a"', ""),
    "paths": (lambda text: avault.fits_path(text, "/*/b/*/b/*/b/*/c"), "", "/b", ""),
    "what git says": (lambda text: avault.reason(text.encode()), "", "a://", ""),
}


@pytest.mark.parametrize("case", WORST)
def test_the_worst_is_read_in_its_own_time(case: str) -> None:
    read, begin, again, end = WORST[case]
    text = begin + again * (SIZE // len(again)) + end
    started = time.process_time()
    try:
        read(text)
    except avault.Usage:
        pass
    assert time.process_time() - started < LIMIT


@pytest.mark.parametrize(
    ("path", "glob", "fits"),
    [
        ("/a", "/a", True),
        ("/a", "/b", False),
        ("/a/b", "/*", True),
        ("/", "/*", True),
        ("/a/b/c", "/a/*/c", True),
        ("/a/c", "/a/*/c", False),
        ("/a/c", "/a/*c", True),
        ("/aa", "/a*a", True),
        ("/a", "/a*a", False),
        ("/a/x/b/y/c", "/a/*/b/*/c", True),
        ("/a/b/b/c", "/a/*/b/*/c", False),
        ("/abab", "/*ab*ab", True),
        ("/abaxb", "/*ab*ab", False),
        ("/a\nb", "/*b", True),
        ("/x", "*", True),
        ("/x", "**", True),
    ],
)
def test_what_a_path_with_stars_is(path: str, glob: str, fits: bool) -> None:
    assert avault.fits_path(path, glob) is fits


def test_what_is_found_is_found_as_before() -> None:
    payload = "eyJ" + "b" * 3000
    for text in (
        f"x-eyJhbGciOiJIUzI1NiJ9.{payload}.ccccccccc",
        "see postgres+psycopg://me:pw@db, and",
        "sk-" + "a" * 90 + "1" * 20,
    ):
        assert looks(text), text
    assert not looks("sk-" + "a" * 60) and not looks("https://example.com:8443/x@y")
    shell = "a=$((1<<2))\ncat <<-END\n\t'one'\n\tEND\nb='two'\n"
    kinds = [(each.kind, shell[each.start : each.end]) for each in avault.find_tokens("shell", shell)]
    assert kinds == [("document", "<<-END\n\t'one'\n\tEND"), ("single", "'two'")]
    shell = "cat <<'END-OF-X'\nhi\nEND-OF-X\nB='avault://g/K'\n"
    assert [shell[each.start : each.end] for each in avault.find_tokens("shell", shell)] == ["'END-OF-X'", "'avault://g/K'"]
    fish = "# log in, then set the user's token\nset -gx API_TOKEN abc\n# that's all\n"
    assert [each.name for each in avault.parse_fish(fish)] == ["API_TOKEN"]
    fish = "echo 'a\n# it'; set -gx G 5\nset -gx K 'it\n# x'; set -gx L 1\n"
    assert [each.name for each in avault.parse_fish(fish)] == ["G", "K", "L"]


@pytest.mark.parametrize("template", ['x="$(echo \\\n  avault://g/K)"', 'x="`echo \\\n  avault://g/K`"', "echo \\avault://g/K"])
def test_a_value_that_a_shell_would_run_is_refused_there(template: str) -> None:
    """In quotes a command may go on over lines; and what a backslash stands before is not in quotes."""
    with pytest.raises(avault.Usage, match="mean something to a shell"):
        avault.fill(template.encode(), "shell", {"g/K": ("a;echo b", "")}, "here")
    assert (
        avault.fill(template.encode(), "shell", {"g/K": ("plain", "")}, "here")
        == template.replace("avault://g/K", "plain").encode()
    )
    assert avault.reason(b"fatal: unable to access 'https://me:pw@x@host/a': no.") == "unable to access 'https://host/a': no"
