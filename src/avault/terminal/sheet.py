"""A sheet of paper that keeps a secret: a page to print, with its text as a QR code and in pieces.

The page is one file. It runs nothing, asks for nothing from elsewhere, and is not translated.
"""

from __future__ import annotations

import base64
import html
import io
import re

STYLE = """
@page { margin: 12mm }
* { box-sizing: border-box }
body { font: 10.5pt/1.4 sans-serif; color: #000; background: #fff; max-width: 180mm;
     margin: 0 auto }
h1 { font-size: 18pt; line-height: 1.2; margin: 0 0 4mm }
p { margin: 0 0 2mm }
code { font: bold 1em monospace; overflow-wrap: anywhere }
table { border-collapse: collapse }
th { text-align: left; vertical-align: top; padding: 0 5mm 1mm 0; white-space: nowrap }
td { padding: 0 0 1mm; overflow-wrap: anywhere }
.top { display: flex; gap: 6mm; justify-content: space-between; align-items: flex-start }
img { width: 60mm; height: 60mm; flex: none; image-rendering: pixelated }
ol { columns: 3; column-gap: 6mm; margin: 5mm 0; padding: 3mm 0 3mm 11mm; border: solid #000;
     border-width: 1px 0; font: 13pt/1.5 monospace }
li { break-inside: avoid }
li::marker { font: 9pt sans-serif }
.blank { display: flex; gap: 6mm; margin-top: 9mm }
.blank span { flex: 1; border-top: 1px solid #000 }
@media screen { body { padding: 12mm 4mm } }
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en" translate="no">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="google" content="notranslate">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<div class="top">
<table>
{facts}
</table>
<img alt="the text below, as a QR code" src="data:image/png;base64,{code}">
</div>
<ol>
{pieces}
</ol>
{lines}
<div class="blank"><span>kept by</span><span>kept at</span></div>
</body>
</html>
"""


def cut_text(text: str, size: int = 4) -> list[str]:
    """A text without words, as an nsec, in pieces that a person can copy."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def draw_code(text: str) -> bytes:
    """A QR code as a PNG; a quarter of it may be soiled."""
    import qrcode

    code = qrcode.QRCode(border=4, error_correction=qrcode.constants.ERROR_CORRECT_Q)
    code.add_data(text)
    picture = io.BytesIO()
    code.make_image().save(picture, "PNG")
    return picture.getvalue()


def render_sheet(
    title: str, facts: dict[str, str], text: str, pieces: list[str], lines: list[str]
) -> bytes:
    """One page of A4 or Letter, as HTML.

    `facts` say whose it is, each with its name; `text` is what the QR code holds, and `pieces` the
    same for the eye, numbered; `lines` say what to do with it, a command between backticks.
    """

    def write(line: str) -> str:
        return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(line))

    rows = [f"<tr><th>{html.escape(name)}<td>{write(fact)}" for name, fact in facts.items()]
    return PAGE.format(
        title=html.escape(title),
        style=STYLE,
        facts="\n".join(rows),
        code=base64.b64encode(draw_code(text)).decode(),
        pieces="\n".join(f"<li>{html.escape(piece)}" for piece in pieces),
        lines="\n".join(f"<p>{write(line)}" for line in lines),
    ).encode()
