"""What came of a host: the word that people are told, the exit code, and how many they were.

What a host says is a stranger's: it is cut and escaped before it is shown, and nothing in it is
obeyed.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.fleet.reaching import Ended
from avault.hints import EXIT_CODES
from avault.late import Fields, field, regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


NOTE = 300  # characters of what a host says that are shown
MOST_OBJECTS = 1_000
MOST_FAILED = 100  # beginnings of objects that are none: after so many, or so many characters that
MOST_WASTED = 1 << 20  # were read for them, the rest of an output is not looked at
HOST_KEY = 8
NO_ANSWER = 7

CHANGED = "host key changed"
UNKNOWN_KEY = "unknown host key"

REFUSALS = (  # of ssh, exit code 255: what it says, the word for it, and the exit code
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", CHANGED, HOST_KEY),
    ("REVOKED HOST KEY DETECTED", CHANGED, HOST_KEY),
    ("host key is known for", UNKNOWN_KEY, HOST_KEY),
    ("Host key verification failed", UNKNOWN_KEY, HOST_KEY),
    ("Permission denied", "not let in", 5),
    ("Too many authentication failures", "not let in", 5),
    ("Could not resolve hostname", "no such host", 6),
    ("Connection refused", "down", 6),
    ("No route to host", "down", 6),
    ("Network is unreachable", "down", 6),
    ("timed out", "no answer", NO_ANSWER),
    ("not responding", "no answer", NO_ANSWER),
    ("kex_exchange_identification", "shut out", 6),
    ("Not allowed at this time", "shut out", 6),
    ("Bad configuration option", "ssh refuses", 2),
    ("Bad owner or permissions", "ssh refuses", 2),
)
AFTER_LOGIN = regex(  # of ssh, when the connection was cut: something may have been run
    r"not responding|Read from remote host|client_loop:|Connection to \S+ closed by remote host"
)
NOT_DONE = frozenset(  # words of what surely had no effect, also where something was sent
    {word for _, word, _ in REFUSALS} - {"no answer"}
    | {"no avault", "too old", "refused", "locked"}
)
ERROR_WORDS = {  # of avault's errors
    "usage": "too old", "locked": "locked", "not_found": "not there", "denied": "refused",
    "unavailable": "stopped", "timed_out": "no answer", "tampered": "tampered",
}  # fmt: skip
NEXT = {  # what to do about a word
    CHANGED: "find out why, by another way than ssh; then: ssh-keygen -R HOST",
    UNKNOWN_KEY: "log in once by hand and compare it, or have host keys certified",
    "not let in": "to try it: ssh -o BatchMode=yes HOST true",
    "down": "is it on, and does ssh listen there?",
    "no such host": "is the name in ~/.ssh/config, or in DNS?",
    "no answer": "it may be slow: --deadline 60s; or hang: ssh HOST",
    "shut out": "fewer at once: --jobs 4; or raise MaxStartups there",
    "no avault": "install it, or name it in the list: HOST program=~/.local/bin/avault",
    "no vault": "name its directory in the list: HOST vault=DIR",
    "too old": "update avault there",
    "ssh refuses": "mend ~/.ssh/config; try: ssh HOST true",
    "locked": "avault fleet unlock",
    "stopped": "avault fleet unlock",
    "unpaired": "pair it there: avault pair",
    "tampered": "look there: avault doctor",
    "unknown": "the same command again looks first",
    "not enrolled": "avault fleet enroll --only HOST",
    "not approved": "the same again; is the signer app open?",
}


class Outcome(Fields, frozen=True):
    """How it went on a host: `word` and `note` for people, 0 or an exit code, `fields` as JSON."""

    word: str
    code: int = 0
    note: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def read_objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in an output, each from the beginning of a line.

    What else is printed before or between is passed over, so much of it that an honest host is
    understood, and so little that another holds nobody up.
    """
    decoder = json.JSONDecoder()
    place = failed = wasted = 0
    for match in re.finditer(r"(?m)^\{", text):
        if match.start() >= place:
            try:
                one, place = decoder.raw_decode(text, match.start())
            except json.JSONDecodeError as error:
                failed, wasted = failed + 1, wasted + error.pos - match.start()
                if failed > MOST_FAILED or wasted > MOST_WASTED:
                    return
                continue
            except (ValueError, RecursionError):  # of a number, or a depth, that nobody sends
                return
            yield one


def find_objects(text: str) -> list[dict[str, Any]]:
    """The first of them, as many as any answer has."""
    return list(itertools.islice(read_objects(text), MOST_OBJECTS))


def find_error(objects: Iterable[dict[str, Any]]) -> dict[str, str] | None:
    """The first error that avault told as JSON, as text; None for none."""
    for each in objects:
        error = each.get("error")
        if each.get("ok") is False and isinstance(error, dict) and error.get("code"):
            return {name: shorten(error.get(name) or "") for name in ("code", "message", "hint")}
    return None


def shorten(text: object) -> str:
    """What a host said, on one line, as it can be shown."""
    return printable(" ".join(str(text).split()), NOTE)


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return shorten(lines[-1]) if lines else ""


def judge_error(error: dict[str, str]) -> Outcome:
    """The outcome where avault refused."""
    code = EXIT_CODES.get(error["code"], 1)
    word = ERROR_WORDS.get(error["code"], "failed")
    return Outcome(word, code, error["message"], {"error": error})


def judge_asking(error: dict[str, str]) -> Outcome:
    """The same, of what asks the phone: that nobody approved in time is no host's silence."""
    if error["code"] == "timed_out":
        return Outcome("not approved", NO_ANSWER, error["message"], {"error": error})
    return judge_error(error)


def judge_transport(ended: Ended, has_written: bool = False) -> Outcome | None:
    """The outcome where no avault answered; None where one may have.

    `has_written`: what was sent may have had an effect. Then only what ssh says before it has
    logged in is a failure; else nobody knows.
    """
    said = last_line(ended.err).removeprefix("ssh: ")
    if ended.code is None or ended.code < 0:
        why = "the deadline is over" if ended.code is None else f"ssh was ended ({ended.code})"
        if has_written:
            return Outcome("unknown", NO_ANSWER, f"{why}; it may have been done: look")
        return Outcome("no answer", NO_ANSWER, f"{why}; the last it said: {said}" if said else why)
    if ended.code == 255:
        is_cut = bool(AFTER_LOGIN.search(ended.err))
        is_inside = ended.begun and not is_cut  # what ended was the command, or the connection
        for text, word, code in REFUSALS:
            if text in ended.err and not is_inside and not (has_written and is_cut):
                return Outcome(word, code, "" if code == HOST_KEY else said)
        if has_written and (ended.begun or is_cut or "Connection closed by" not in ended.err):
            return Outcome(
                "unknown", NO_ANSWER, f"{said or 'cut off'}; it may have been done: look"
            )
        return Outcome("down", 6, said or "ssh ended without a word")
    if ended.code in (126, 127) or (ended.code and "ommand not found" in ended.err):
        return Outcome("no avault", 6, said)
    return None


def judge_answer(ended: Ended, has_written: bool = False) -> Outcome | None:
    """The same, also where avault refused; None where it did what it was told."""
    if failed := judge_transport(ended, has_written):
        return failed
    if error := find_error(find_objects(ended.out)):
        return judge_error(error)
    if ended.code == 2:
        return Outcome("too old", 2, last_line(ended.err))
    if ended.code:
        return Outcome("failed", 1, last_line(ended.err) or f"exit code {ended.code}")
    return None


def strange(ended: Ended) -> Outcome:
    """The outcome where what came is not what avault says."""
    said = last_line(ended.out) or last_line(ended.err)
    return Outcome("no sense", 1, f"not avault's answer: {said}" if said else "it said nothing")


def judge_all(outcomes: Iterable[Outcome]) -> int:
    """The exit code for all hosts.

    0: all did it. 8: a host key, or tampering. All failures alike: that code. Else 1.
    """
    codes = {outcome.code for outcome in outcomes} - {0}
    if HOST_KEY in codes:
        return HOST_KEY
    return codes.pop() if len(codes) == 1 else bool(codes)


def count_words(outcomes: Iterable[Outcome]) -> str:
    """How many of each: `3 down, 1 too old`; the most first."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.word] = counts.get(outcome.word, 0) + 1
    order = sorted(counts, key=lambda word: -counts[word])
    words = {word: word.replace("has ", "have ") if counts[word] > 1 else word for word in order}
    return ", ".join(f"{counts[word]} {words[word]}" for word in order)
