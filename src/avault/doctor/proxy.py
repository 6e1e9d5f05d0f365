"""Whether the proxy can work here, and what a client does with it, in plain words."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING

from avault.doctor.patient import Finding, bad
from avault.errors import AvaultError, Unavailable, printable
from avault.extras import load_extra
from avault.fronts.proxy_process import need_python
from avault.running.proxy_variables import BUNDLES, INHERITED, proxy_variables
from avault.running.sandbox import find_bubblewrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


MITMPROXY = ((12, 2, 3), (12, 3))  # from which version on, and below which: see pyproject.toml
YAMA = "/proc/sys/kernel/yama/ptrace_scope"
PROBE_URL = "https://probe.avault.test/"
FETCH = "fetch(process.argv.at(-1)).then(r => r.text())"
CALLS = {  # what makes a client ask for an address, where it is named alone
    "curl": ("-sS", "-o", "/dev/null", "{}"),
    "wget": ("-q", "-O", "/dev/null", "{}"),
    "git": ("ls-remote", "{}"),
    "node": ("-e", FETCH, "{}"),
    "bun": ("-e", FETCH, "{}"),
    "deno": ("eval", "await (await fetch(Deno.args[0])).text()", "{}"),
    "python3": ("-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()", "{}"),
}
AROUND = {  # what helps a client that does not ask the proxy
    "node": "node 22.21 or later; or axios, or undici's EnvHttpProxyAgent",
    "python3": "aiohttp wants ClientSession(trust_env=True), urllib3 a ProxyManager",
    "java": "JAVA_TOOL_OPTIONS='-Dhttps.proxyHost=… -Dhttps.proxyPort=…', in a sandbox",
}
TRUST = {  # what helps a client that does not trust the bundle
    "wget": 'wget reads no variable: wget --ca-certificate="$SSL_CERT_FILE" …',
    "java": "JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore=… with a PKCS12 file made of the bundle",
    "node": "it may bring its own authorities: NODE_EXTRA_CA_CERTS is read only at its start",
}
USUAL_AROUND = "in a sandbox it reaches nothing else: avault run --sandbox --proxy -- CMD"
USUAL_TRUST = "which variable clients read: references/proxy.md"


def check_extra() -> Iterator[Finding]:
    """Python, and the packages of the extra."""
    try:
        need_python()
        load_extra("proxy_broker", "proxy")
    except AvaultError as error:
        yield bad(error)
        return
    version = importlib.metadata.version("mitmproxy")
    numbers = tuple(int(each) for each in version.split(".")[:3] if each.isdigit())
    if MITMPROXY[0] <= numbers < MITMPROXY[1]:
        yield Finding("ok", f"mitmproxy {version} is there")
    else:
        hint = "in avault's folder: pip install '.[proxy]'"
        yield Finding("bad", f"mitmproxy {version} is none that was tried", hint)


def check_trust() -> Iterator[Finding]:
    """Whom the proxy trusts; and whether its own authority is kept within bounds."""
    probe = load_extra("proxy_probe", "proxy")
    yield Finding("ok", f"upstreams are trusted by {printable(probe.proxy_engine.find_roots())}")
    if probe.keeps_constraints():
        yield Finding("ok", "TLS here takes a session's authority for its hosts, and for no other")
    else:
        text = "TLS here does not keep a session's authority to its hosts (name constraints)"
        yield Finding("bad", text, "another OpenSSL for this Python")


def check_walls() -> Iterator[Finding]:
    """What keeps a command from going around, and other programs from looking in."""
    try:
        find_bubblewrap()
        yield Finding("ok", "bubblewrap is there, for run --sandbox --proxy")
    except Unavailable as error:
        yield Finding("off", f"{error.message}: a command can go around the proxy", error.hint)
    try:
        with open(YAMA, encoding="ascii") as file:
            is_closed = file.read().strip() != "0"
    except OSError:
        is_closed = False
    if is_closed:
        yield Finding("ok", "programs of this user cannot look into each other (ptrace_scope)")
    else:
        text = "a program of this user can look into the proxy's process while that starts"
        yield Finding("warn", text, "sysctl kernel.yama.ptrace_scope=1")


def check_machine() -> list[Finding]:
    """What can be checked without a client."""
    found: list[Finding] = []
    checks: list[Callable[[], Iterator[Finding]]] = [check_extra, check_trust, check_walls]
    for check in checks:
        try:
            found += check()
        except AvaultError as error:
            if bad(error).text not in [each.text for each in found]:
                found.append(bad(error))
    return found


def name_client(words: list[str]) -> str:
    """The name of a client, as the tables have it."""
    name = os.path.basename(words[0])
    return "python3" if name.startswith("python") else name


def check_client(words: list[str]) -> list[Finding]:
    """What a client does that is given a session's variables; raises Unavailable, OSError."""
    need_python()
    probe = load_extra("proxy_probe", "proxy")
    if len(words) == 1 and name_client(words) in CALLS:
        words = [*words, *CALLS[name_client(words)]]
    words = [each.replace("{}", PROBE_URL) for each in words]

    def environment(port: int, token: str, directory: str) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if name not in INHERITED}
        given = proxy_variables("", "")
        for name in given:
            if name in BUNDLES:
                given[name] = os.path.join(directory, f"{name}.pem")
            elif not given[name]:  # by the name in its address, a client says which it has read
                given[name] = f"http://{name}:{token}@127.0.0.1:{port}"
        return {**kept, **given}

    return [*judge_client(words, probe.examine_client(words, environment, list(BUNDLES)))]


def judge_client(words: list[str], seen: dict[str, Any]) -> Iterator[Finding]:
    """What was seen of a client, in words, with the next step."""
    name, ways, hosts = name_client(words), ", ".join(seen["ways"]), ", ".join(seen["hosts"])
    if seen["code"] is None:
        yield Finding("warn", f"{name} was ended: it took too long")
    if not seen["ways"]:
        text = f"{name} did not ask the proxy: it goes around it, or asked for nothing"
        yield Finding("bad", text, AROUND.get(name, USUAL_AROUND))
        return
    yield Finding("ok", f"{name} asks the proxy, by {printable(ways)}: for {printable(hosts, 500)}")
    if seen["plain"]:
        yield Finding("bad", f"{name} asked in clear, by http://", "only https:// goes through")
    read = f" (it has read {', '.join(seen['looked'])})" if seen["looked"] else ""
    if seen["trusted"]:
        yield Finding("ok", f"{name} trusts the bundle{read}")
    elif seen["mistrust"]:
        said = printable(", ".join(seen["mistrust"]))
        text = f"{name} does not trust the bundle{read}: {said}"
        yield Finding("bad", text, TRUST.get(name, USUAL_TRUST))
    else:
        hint = f"have it ask {{}}, which stands for {PROBE_URL}"
        yield Finding("off", f"whether {name} trusts the bundle was not to be seen", hint)
