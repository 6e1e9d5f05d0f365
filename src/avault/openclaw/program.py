"""OpenClaw's command line, which is asked for what it knows best: paths, findings, hooks.

It answers for where things are and what they mean. It takes seconds, as all of OpenClaw starts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, printable
from avault.late import regex
from avault.vault.files import read_file

if TYPE_CHECKING:
    from typing import Any


class OpenClaw:
    """The `openclaw` on the PATH."""

    def __init__(self) -> None:
        self.path = shutil.which("openclaw")
        if not self.path:
            raise Unavailable("there is no openclaw on the PATH", "npm install -g openclaw")
        self._config: dict[str, Any] | None = None
        self._config_path = ""

    def run(self, *words: str, codes: tuple[int, ...] = (0,), stdin: str = "") -> str:
        """What a command prints; raises AvaultError with the end of what it complains about."""
        done = subprocess.run(
            [str(self.path), *words], check=False, input=stdin, capture_output=True, text=True
        )
        if done.returncode not in codes:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [
                f"exit code {done.returncode}"
            ]
            said = " ".join(line.strip() for line in lines if line.strip())
            raise AvaultError(
                f"openclaw {' '.join(words[:2])} failed: {printable(said, 400)}",
                "openclaw doctor may say more",
            )
        return done.stdout

    def ask(self, *words: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """The JSON object that a command prints, whatever else it says before."""
        output = self.run(*words, "--json", codes=codes)
        try:
            return dict(json.loads(output[output.index("{") :]))
        except ValueError:
            raise AvaultError(
                f"openclaw {' '.join(words[:2])} printed no JSON", "avault knows OpenClaw 2026.9.6"
            ) from None

    @property
    def config_path(self) -> str:
        """Where openclaw.json is, by OpenClaw's own rules."""
        if not self._config_path:
            self._config_path = os.path.expanduser(
                self.run("config", "file").strip().splitlines()[-1]
            )
        return self._config_path

    @property
    def config(self) -> dict[str, Any]:
        """openclaw.json as it stands there: JSON5, without what it includes or inherits."""
        if self._config is None:
            text = (
                read_file(self.config_path, 16 << 20).decode("utf-8-sig", "replace")
                if os.path.exists(self.config_path)
                else "{}"
            )
            self._config = read_json5(text)
        return self._config

    def forget(self) -> None:
        """Read openclaw.json anew when it is wanted next."""
        self._config = None

    def value(self, *segments: str) -> Any:
        """What stands in openclaw.json under these keys; None for nothing."""
        return reach(self.config, list(segments))


JSON5_TOKEN = regex(
    r"""(?sx)(?P<space>(?:\s|//[^\n\r\u2028\u2029]*|/\*.*?\*/)+) | (?P<mark>[][{},:]) |
        (?P<string>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*') | (?P<word>[^][\s{},:"'/]+)""",
)
JSON5_ESCAPE = regex(r"(?s)\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(\r\n|.))")
JSON5_ESCAPED = {
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "0": "\0",
} | dict.fromkeys("\n\r\u2028\u2029", "")


def read_json5(text: str) -> dict[str, Any]:
    """The object that a JSON5 text (spec.json5.org) holds; raises AvaultError.

    Numbers that JSON does not have come as None, as nobody here needs them.
    """

    def unescape(found: re.Match[str]) -> str:
        if found[1] or found[2]:
            return chr(int(found[1] or found[2], 16))
        return "" if found[3] == "\r\n" else JSON5_ESCAPED.get(found[3], found[3])

    words: list[str] = []
    raw, position = "", 0
    while position < len(text):
        token = JSON5_TOKEN.match(text, position)
        if not token:
            raise refuse_config()
        position = token.end()
        if token["mark"]:
            if token[0] in "]}" and words and words[-1] == ",":
                words.pop()
            if token[0] == ":" and words and words[-1][0] != '"':
                words[-1] = json.dumps(raw)
            words.append(token[0])
        elif token["string"]:
            exact = (
                JSON5_ESCAPE.sub(unescape, token[0][1:-1])
                .encode("utf-16", "surrogatepass")
                .decode("utf-16", "replace")
            )
            words.append(json.dumps(exact))
        elif token["word"]:
            raw = token[0]
            words.append(
                raw
                if re.fullmatch(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", raw)
                else "null"
            )
    try:
        content = json.loads("".join(words))
    except (ValueError, RecursionError):
        raise refuse_config() from None
    if not isinstance(content, dict):
        raise refuse_config()
    return content


def refuse_config() -> AvaultError:
    """openclaw.json is not what it should be; nothing of it is repeated."""
    return AvaultError(
        "openclaw.json cannot be read", "see what OpenClaw says: openclaw config validate"
    )


def parse_path(path: str) -> list[str]:
    """The keys of a path as OpenClaw writes it: `models.providers.openai.headers["x-api-key"]`."""
    parts = re.findall(r'\[("(?:[^"\\]|\\.)*"|\d+)\]|([^.\[]+)', path)
    return [plain or str(json.loads(quoted)) for quoted, plain in parts]


def reach(content: Any, segments: list[str]) -> Any:
    """What `content` has under these keys; None for nothing."""
    for segment in segments:
        if isinstance(content, list) and segment.isdigit() and int(segment) < len(content):
            content = content[int(segment)]
        elif isinstance(content, dict):
            content = content.get(segment)
        else:
            return None
    return content
