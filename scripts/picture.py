"""For the README, not part of avault: its picture, drawn from what `avault demo` shows.

    python scripts/picture.py            writes references/demo.svg
    python scripts/picture.py --check    ends with 1 if that is not what it would write

The words are those of the demo in references/screens.md, which a test holds against the real one.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

REFERENCES = Path(__file__).resolve().parent.parent / "references"
SCREENS, PICTURE = REFERENCES / "screens.md", REFERENCES / "demo.svg"

TERMINAL = (  # how the lines begin that the terminal shows, in their order
    "$ echo sk-demo",
    "$ avault lock",
    "$ avault get",
    "avault: error: ",
    "avault: hint: ",
    "$ avault unlock",
    "avault: asking the phone",
    "avault: unlocked",
    "$ vars=",
    "the shell has",
)
PHONE = "clawd@demo asks: "  # what the phone shows meanwhile
SOMEBODY = ("USER@HOST", "alice@db1")  # whoever runs the demo

COLUMNS, WIDTH, LINE = 68, 7.8, 20  # of the terminal; of a letter and of a line, in pixels
PHONE_COLUMNS = 28
MARGIN, HEAD = 20, 36
COLOURS = {"$": "#f0f6fc", "avault: error": "#ff7b72", "avault: hint": "#d2a8ff", "avault: asking": "#e3b341"}
STYLE = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:13px"


def demo() -> list[str]:
    """The lines of the demo, as the document has them."""
    found = re.search(r"<!-- screen: demo -->\n```\n(.*?)```", SCREENS.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise ValueError(f"{SCREENS} has no demo")
    return found[1].splitlines()


def chosen(lines: list[str]) -> tuple[list[str], str]:
    """What the terminal shows, and the sentence on the phone that answers it; raises ValueError where the demo lacks a line."""
    rest, shown, asked = iter(lines), [], ""
    for beginning in TERMINAL:
        for line in rest:
            if line.startswith(PHONE):
                asked = line.removeprefix(PHONE).replace(*SOMEBODY)
            if line.startswith(beginning):
                shown.append(line)
                break
        else:
            raise ValueError(f"the demo has no {beginning!r} there")
    if not asked:
        raise ValueError("the demo's phone does not ask")
    return shown, asked


def text(x: float, y: float, words: str, colour: str, extra: str = "") -> str:
    """A line of text as wide as its letters, whatever font there is."""
    width = f'textLength="{len(words) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" xml:space="preserve" {width} {extra}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, colour: str, round_by: int, extra: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_by}" fill="{colour}" {extra}/>'


def terminal(lines: list[str], height: float) -> Iterator[str]:
    """The window on the left; a line too long is broken, as a terminal would."""
    yield box(0, 0, COLUMNS * WIDTH + 2 * MARGIN, height, "#0d1117", 10)
    for number, colour in enumerate(("#ff5f56", "#ffbd2e", "#27c93f")):
        yield f'<circle cx="{MARGIN + 18 * number}" cy="18" r="6" fill="{colour}"/>'
    y = HEAD + LINE
    for line in lines:
        colour = next((COLOURS[each] for each in COLOURS if line.startswith(each)), "#7ee787")
        for piece in textwrap.wrap(line, COLUMNS):
            yield text(MARGIN, y, piece, colour)
            y += LINE


def phone(sentence: str, height: float) -> Iterator[str]:
    """The phone on the right, with the sentence and two buttons."""
    left, width = COLUMNS * WIDTH + 3 * MARGIN, PHONE_COLUMNS * WIDTH + 2 * MARGIN
    yield box(left, 0, width, height, "#f6f8fa", 24, 'stroke="#57606a" stroke-width="4"')
    yield text(left + MARGIN, HEAD, "Signer app", "#57606a")
    yield text(left + MARGIN, HEAD + 2 * LINE, PHONE.strip(), "#57606a")
    y = HEAD + 3.5 * LINE
    for piece in textwrap.wrap(sentence, PHONE_COLUMNS):
        yield text(left + MARGIN, y, piece, "#1f2328")
        y += LINE
    for number, (label, colour) in enumerate((("Reject", "#cf222e"), ("Approve", "#1a7f37"))):
        x, wide = left + MARGIN + number * (width - MARGIN) / 2, (width - 3 * MARGIN) / 2
        yield box(x, height - 60, wide, 34, colour, 8)
        yield text(x + (wide - len(label) * WIDTH) / 2, height - 38, label, "#ffffff")


def picture() -> str:
    """The SVG; the same demo gives the same bytes."""
    lines, sentence = chosen(demo())
    count = sum(len(textwrap.wrap(line, COLUMNS)) for line in lines)
    width, height = (COLUMNS + PHONE_COLUMNS) * WIDTH + 5 * MARGIN + 4, HEAD + count * LINE + MARGIN
    title = escape(f"A terminal: {' / '.join(lines)} — and a phone that asks: {sentence}")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width:g} {height + 4:g}" width="{width:g}" style="{STYLE}">'
    return "\n".join([head, f"<title>{title}</title>", *terminal(lines, height), *phone(sentence, height), "</svg>\n"])


def main() -> int:
    fresh = picture()
    if sys.argv[1:] == ["--check"]:
        return int(not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != fresh)
    PICTURE.write_text(fresh, encoding="utf-8")
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
