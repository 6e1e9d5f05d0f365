"""What the page for a passkey is: its script and style, its words, and its headers."""

from __future__ import annotations

import base64
import hashlib

SCRIPT = """\
const ask = JSON.parse(document.body.dataset.ask);
const button = document.querySelector("button"), said = document.querySelector("output");
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const text = buffer => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const random = () => crypto.getRandomValues(new Uint8Array(32));

async function make() {
  const made = await navigator.credentials.create({publicKey: {
    rp: {id: "localhost", name: "avault"},
    user: {id: random(), name: ask.label, displayName: ask.label},
    challenge: random(),
    pubKeyCredParams: [-7, -8, -257].map(alg => ({type: "public-key", alg})),
    authenticatorSelection: {residentKey: "preferred", userVerification: "required"},
    timeout: ask.timeout,
    extensions: {prf: {}},
  }});
  return made.getClientExtensionResults().prf?.enabled ? text(made.rawId) : null;
}

async function use(credential) {
  const used = await navigator.credentials.get({publicKey: {
    rpId: "localhost",
    challenge: random(),
    allowCredentials: [{type: "public-key", id: bytes(credential)}],
    userVerification: "required",
    timeout: ask.timeout,
    extensions: {prf: {eval: {first: bytes(ask.salt)}}},
  }});
  return used.getClientExtensionResults().prf?.results?.first;
}

async function answer() {
  if (!window.PublicKeyCredential) return {error: "NoWebAuthn"};
  const credential = ask.credential || await make();
  const made = credential && await use(credential);
  return made ? {credential, made: text(made)} : {error: "NoPrf"};
}

button.addEventListener("click", async () => {
  button.disabled = true;
  const given = await answer().catch(error => ({error: error.name}));
  const body = JSON.stringify({...given, once: ask.once});
  const headers = {"Content-Type": "application/json"};
  const sent = await fetch(location.pathname, {method: "POST", headers, body}).catch(() => null);
  if (!sent?.ok) said.textContent = "It was not taken.";
  else if (given.error) said.textContent = `Nothing was opened: ${given.error}.`;
  else said.textContent = "Done. You can close this page.";
});
"""


STYLE = """\
body { font: 1.1rem/1.5 system-ui, sans-serif }
body { max-width: 34rem; margin: 4rem auto; padding: 0 1rem }
button { font: inherit; padding: .5rem 1.5rem } output { display: block; margin-top: 1rem }
"""


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>avault</title>
<style>{style}</style>
<body data-ask="{ask}">
<h1>avault</h1>
<p>{label}</p>
<p>{purpose}</p>
<p>{sentence}</p>
<button autofocus>{button}</button>
<output></output>
<script>{script}</script>
</html>
"""


WORDS = {  # whether a passkey is to be made: what the person reads, and the button
    True: (
        "A passkey is made for it, and then used once. Go on only if you asked for this.",
        "Make a passkey",
    ),
    False: ("Its passkey opens it. Go on only if you asked for this.", "Use the passkey"),
}


def render_policy() -> str:
    """The Content-Security-Policy: this script and style, an answer to where the page is from."""
    hashes = [
        base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()
        for each in (SCRIPT, STYLE)
    ]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": render_policy(),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
