"""avault inject: values into a template, written as the form around them wants it."""

from __future__ import annotations

import bisect
import json
import os
import re
import shlex
import stat
import sys

from avault.errors import AvaultError, Denied, NotFound, Usage, printable
from avault.plain import write_all
from avault.running.looking import Secrets
from avault.running.secrets import find_references, resolve, reveal
from avault.running.templates import (
    TEMPLATE_FORMS,
    TEMPLATE_REFERENCE,
    find_tokens,
    find_yaml,
    form_of_name,
    form_of_text,
)
from avault.running.writing import BREAKERS, WRITERS, Breaks
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.vault.files import write_file


def fill(template: bytes, form: str | None, secrets: Secrets, where: str) -> bytes:
    """A template with values for its references, written as its form wants it.

    Raises Usage for one that would break it.
    """
    text = template.decode("utf-8", "surrogateescape")
    form = form or form_of_text(text)
    if form == "text" or (form is None and TEMPLATE_REFERENCE.fullmatch(text.strip())):
        return resolve(template, secrets)
    places = list(find_yaml(text) if form == "yaml" else find_tokens(form, text) if form else ())
    starts = [place.start for place in places]
    writer = WRITERS.get(form or "")

    def write(found: re.Match[str]) -> str:
        value = secrets[found[1]][0]
        index = bisect.bisect_right(starts, found.start()) - 1
        while (
            index > 0 and places[index].kind == "attribute" and places[index].end <= found.start()
        ):
            index -= 1  # to the tag that it is in
        place = places[index] if index >= 0 and found.start() < places[index].end else None
        try:
            if writer:
                return writer(text, *found.span(), place, value)
            if BREAKERS.search(value):
                raise Breaks("it has characters that may mean something there")
            return value
        except Breaks as reason:
            line = text.count("\n", 0, found.start()) + 1
            hint = (
                "--for text puts it there as it is"
                if writer
                else "say what the template is: --for json, yaml, toml, dotenv, shell, xml, text"
            )
            raise Usage(
                f"{where}, line {line}: {found[1]} would break it: {reason}", hint
            ) from None

    return TEMPLATE_REFERENCE.sub(write, text).encode("utf-8", "surrogateescape")


@command(
    "inject",
    option("-i", "--input", "source"),
    option("-o", "--output", "target"),
    option("--for", "form"),
)
def cmd_inject(terminal: Terminal, source: str | None, target: str | None, form: str | None) -> int:
    """usage: avault inject [-i TEMPLATE] [-o FILE] [--for json|yaml|toml|dotenv|shell|xml|text]

    Replaces avault://GROUP/KEY in a template by its value, written as it must be
    where it stands: escaped in a JSON string, indented in a YAML block, quoted
    for a shell. What the template is tells its name (config.json.tmpl), else
    FILE's, else its first bytes, else --for. Where nothing tells it, or where no
    writing helps, a value that could break the file is refused; --for text puts
    values there as they are. The rest stays as it is, byte for byte.

    From stdin to stdout if not told otherwise. FILE is written whole or not at
    all, for its owner alone (0600), and never through a symlink. If a reference
    is to what is not there, nothing is written.

      avault inject -i config.tmpl.json -o config.json
      echo 'machine api.example.com password avault://api/TOKEN' | avault inject -o ~/.netrc
    """
    if form not in (None, *TEMPLATE_FORMS):
        raise Usage(f"no form {printable(form)!r}", f"one of: {', '.join(TEMPLATE_FORMS)}")
    path = None if target is None else os.path.abspath(os.path.expanduser(target))
    if path is not None:
        refuse_target(path, source)
    template, where = read_template(source)
    places = sorted(find_references(template, where))
    secrets = reveal(terminal, "inject", only=places) if places else {}
    data = fill(template, form or form_of_name(source) or form_of_name(path), secrets, where)
    if path is None:
        put_bytes(data)
        return 0
    write_file(path, data)
    if terminal.want_json:
        put(json.dumps({"file": path, "references": places}, indent=2, ensure_ascii=False) + "\n")
    elif sys.stderr.isatty():
        say(f"wrote {printable(path)}, with {len(places)} secrets")
    return 0


def refuse_target(path: str, source: str | None) -> None:
    """Refuse to write over the template, through a symlink, or in place of what is no file.

    Raises Denied, NotFound.
    """
    if not os.path.isdir(os.path.dirname(path)):
        raise NotFound(
            f"no directory {printable(os.path.dirname(path))}",
            f"mkdir -p {shlex.quote(printable(os.path.dirname(path)))}",
        )
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return  # not there; or writing will say what is wrong
    if stat.S_ISLNK(kind):
        raise Denied(
            f"{printable(path)} is a symlink",
            f"name the file itself: {printable(os.path.realpath(path))}",
        )
    if not stat.S_ISREG(kind):
        raise Denied(
            f"{printable(path)} is not a regular file", "without -o the output goes to stdout"
        )
    template = os.path.expanduser(source or "-")
    if os.path.exists(template) and os.path.samefile(template, path):
        raise Denied(
            f"{printable(path)} is the template",
            "give the output another name; a template may go into git, its output may not",
        )


def read_template(source: str | None) -> tuple[bytes, str]:
    """The template, and what to call it; raises NotFound, AvaultError."""
    path: int | str = 0 if source in (None, "-") else os.path.expanduser(str(source))
    name = "stdin" if path == 0 else printable(source)
    try:
        with open(path, "rb", closefd=path != 0) as file:
            return file.read(), name
    except FileNotFoundError:
        raise NotFound(f"no file {name}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {name}: {error.strerror}") from None


def put_bytes(data: bytes) -> None:
    """Write data that may be no text to stdout; raises AvaultError."""
    try:
        write_all(1, data)
    except BrokenPipeError:
        sys.exit(141)  # as `put` does
    except OSError as error:
        raise AvaultError(f"cannot write the output: {error.strerror}") from None
