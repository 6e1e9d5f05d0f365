"""Real clients through `avault run --proxy`, before a local API with TLS: the API gets the value, and the client never has it.

Each secret is for the proxy alone, so that no mask hides what the scrubber forgot. What a client printed and left on the disk is
searched: here for the value, and at the end of the run for its mark in any form.
"""

from __future__ import annotations

import base64
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import nostr_sdk
import pytest
from canary import Canary
from harness import Machine, files_with
from test_sandbox import WHY_NONE

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

import real_clients as clients
from service_api import Services

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
BEGINNINGS = {  # a secret that each kind of client uses, and how such keys begin
    "openai/OPENAI_API_KEY": "sk-proj-",
    "anthropic/ANTHROPIC_API_KEY": "sk-ant-api03-",
    "github/GITHUB_TOKEN": "ghp_",
    "npm/NPM_TOKEN": "npm_",
    "pypi/PYPI_TOKEN": "pypi-",
    "crates/CARGO_REGISTRIES_TINY_TOKEN": "",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
]


@pytest.fixture
def vault(lend: Callable[..., Machine], services: Services, canary: Canary) -> Iterator[Machine]:
    """An open vault, whose secrets are for the proxy alone, and for the API alone."""
    machine = lend(prepare, services, canary.mark)
    services.heads.clear()
    services.talks = False
    (machine.top / "project").mkdir()
    machine.top = machine.top / "project"
    yield machine
    machine.top = machine.top.parent


def prepare(machine: Machine, services: Services, mark: str) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=str(services.roots))
    for place in BEGINNINGS:
        machine("set", place, input=value_of(place, mark))
        machine("guard", place, "--only", "proxy", "--host", f"api.localhost:{services.port}")


def value_of(place: str, mark: str) -> str:
    return f"{BEGINNINGS[place]}{mark}{'0123456789abcdefghij'}"


# The clients

SAY = "Say hello"
PYTHON = {  # what prints the answer
    "urllib": """
import urllib.request
print(urllib.request.urlopen(urllib.request.Request(url + "/echo", headers=headers)).read().decode())""",
    "requests": """
import requests
print(requests.get(url + "/echo", headers=headers).text)""",
    "httpx": """
import httpx
print(httpx.get(url + "/echo", headers=headers).text)""",
    "aiohttp": """
import aiohttp, asyncio
async def work():
    async with aiohttp.ClientSession(trust_env=True) as session, session.get(url + "/echo", headers=headers) as answer:
        print(await answer.text())
asyncio.run(work())""",
    "openai": """
import openai
client = openai.OpenAI(base_url=url + "/v1")
messages = [{"role": "user", "content": "Say hello"}]
print(client.chat.completions.create(model="m", messages=messages).choices[0].message.content)
for event in client.chat.completions.create(model="m", messages=messages, stream=True):
    print(event.choices[0].delta.content or "")
print(client.responses.create(model="m", input="Say hello").output_text)""",
    "anthropic": """
import anthropic
client = anthropic.Anthropic(base_url=url)
asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Say hello"}]}
print(client.messages.create(**asked).content[0].text)
with client.messages.stream(**asked) as stream:
    print("".join(stream.text_stream))""",
}
SCRIPT = {  # JavaScript; `load` is require
    "fetch": 'console.log(await (await fetch(url + "/echo", {headers})).text())',
    "https": """
const https = load("node:https")
console.log(await new Promise((done, fail) => https.get(url + "/echo", {headers}, async (answer) => {
  let text = ""; for await (const piece of answer) text += piece; done(text) }).on("error", fail)))""",
    "axios": 'console.log((await load("axios").get(url + "/echo", {headers})).data)',
    "node-fetch": 'console.log(await (await load("node-fetch").default(url + "/echo", {headers})).text())',
    "undici": """
const {EnvHttpProxyAgent, request} = load("undici")
console.log(await (await request(url + "/echo", {headers, dispatcher: new EnvHttpProxyAgent()})).body.text())""",
    "websocket": """
console.log(await new Promise((done, fail) => {
  const socket = new WebSocket(url.replace("https:", "wss:") + "/socket", {headers})
  socket.onmessage = (message) => { socket.close(); done(message.data) }
  socket.onerror = (event) => fail(event.error ?? event.message) }))""",
    "openai": """
const client = new (load("openai").OpenAI)({baseURL: url + "/v1"})
const asked = {model: "m", messages: [{role: "user", content: "Say hello"}]}
console.log((await client.chat.completions.create(asked)).choices[0].message.content)
const stream = await client.chat.completions.create({...asked, stream: true})
for await (const event of stream) console.log(event.choices[0].delta.content)
console.log((await client.responses.create({model: "m", input: "Say hello"})).output_text)""",
    "anthropic": """
const client = new (load("@anthropic-ai/sdk").Anthropic)({baseURL: url})
const asked = {model: "m", max_tokens: 9, messages: [{role: "user", content: "Say hello"}]}
console.log((await client.messages.create(asked)).content[0].text)
console.log(await client.messages.stream(asked).finalText())""",
}
GO = """
package main

import ("fmt"; "io"; "net/http"; "os")

func main() {
	request, _ := http.NewRequest("GET", os.Args[1], nil)
	request.Header.Set("Authorization", "Bearer " + os.Getenv("OPENAI_API_KEY"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil { fmt.Println(err); os.Exit(1) }
	body, _ := io.ReadAll(answer.Body)
	fmt.Println(string(body))
}
"""


class Client(NamedTuple):
    """A line of shell that makes requests; the secret that it uses, where that has to arrive, and whether the answer shows."""

    line: str
    place: str = "openai/OPENAI_API_KEY"
    paths: tuple[str, ...] = ("/echo",)
    shows: bool = True


def python(name: str, url: str) -> Client:
    code = f'import os\nurl = "{url}"\nheaders = {{"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}}\n{PYTHON[name]}'
    line = f"{clients.python()} -c {shlex.quote(code)}"
    if name == "anthropic":
        return Client(line, "anthropic/ANTHROPIC_API_KEY", ("/v1/messages",) * 2)
    if name == "openai":
        return Client(line, paths=("/v1/chat/completions", "/v1/chat/completions", "/v1/responses"))
    return Client(line)


def javascript(program: str, options: str, name: str, url: str) -> Client:
    head = f'const url = "{url}", headers = {{authorization: "Bearer " + process.env.OPENAI_API_KEY}}\n'
    if name not in ("fetch", "websocket"):
        load = f'const load = createRequire("{clients.modules("libraries")}/x.js")'
        head = f'import {{createRequire}} from "node:module"\n{load}\n{head}'
    line = f"{program} {options} {shlex.quote(head + SCRIPT[name])}"
    if name == "websocket":
        return Client(line, paths=("/socket",))
    return python(name, url)._replace(line=line) if name in PYTHON else Client(line)


def curl(url: str) -> Client:
    return Client(f'{clients.have("curl")} -sS -H "Authorization: Bearer $OPENAI_API_KEY" {url}/echo')


def wget(url: str) -> Client:
    """Of GnuTLS: it looks at no variable for authorities."""
    trusts = '--ca-certificate="$SSL_CERT_FILE"'
    return Client(f'{clients.have("wget")} -qO- {trusts} --header "Authorization: Bearer $OPENAI_API_KEY" {url}/echo')


def gh(url: str) -> Client:
    host = url.removeprefix("https://")
    line = f'GH_HOST={host} GH_ENTERPRISE_TOKEN="$GITHUB_TOKEN" {clients.have("gh")} api {url}/echo'
    return Client(line, "github/GITHUB_TOKEN")


def cargo(url: str) -> Client:
    line = f"""export CARGO_HOME="$HOME/cargo" CARGO_REGISTRIES_TINY_INDEX=sparse+{url}/cargo/
        {clients.have("cargo")} owner --list tiny --registry tiny"""
    return Client(line, "crates/CARGO_REGISTRIES_TINY_TOKEN", ("/cargo/api/v1/crates/tiny/owners",))


def uv(url: str) -> Client:
    program = clients.python("python-programs")
    host = url.removeprefix("https://")
    line = f"{program.replace('/python', '/uv')} pip install -q --no-cache --no-config --target work --python {program}"
    line = f'{line} -i "https://__token__:$PYPI_TOKEN@{host}/simple/" tiny && ls work/tiny.py'
    return Client(line, "pypi/PYPI_TOKEN", ("/simple/tiny/",), shows=False)


def git(url: str) -> Client:
    clients.have("git")
    host = url.removeprefix("https://")
    line = f"""export GIT_TERMINAL_PROMPT=0 GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
        git clone "https://x-access-token:$GITHUB_TOKEN@{host}/git/tiny.git" work && cd work &&
        git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one && git push origin HEAD:refs/heads/pushed"""
    paths = ("/git/tiny.git/info/refs", "/git/tiny.git/git-receive-pack")
    return Client(line, "github/GITHUB_TOKEN", paths, shows=False)


def pip(url: str) -> Client:
    host = url.removeprefix("https://")
    line = f"{clients.python()} -m pip download --no-deps --no-cache-dir --isolated"
    line = f'{line} -i "https://__token__:$PYPI_TOKEN@{host}/simple/" tiny && ls tiny-1.0-py3-none-any.whl'
    return Client(line, "pypi/PYPI_TOKEN", ("/simple/tiny/",), shows=False)


def npm(url: str) -> Client:
    host = url.removeprefix("https:")
    program = shlex.join(clients.peers.npm())
    line = f"""export npm_config_registry={url}/npm/
        printf '%s\\n' '{host}/npm/:_authToken=${{NPM_TOKEN}}' 'registry={url}/npm/' >.npmrc; echo '{{}}' >package.json
        {program} view tiny description && {program} install --no-audit tiny && ls node_modules/tiny"""
    return Client(line, "npm/NPM_TOKEN", ("/npm/tiny", "/npm/tiny/-/tiny-1.0.0.tgz"))


def go(url: str) -> Client:
    line = f"export GOFLAGS=-mod=mod GOCACHE=$HOME/go GOPROXY=off; {clients.have('go')} run main.go {url}/echo"
    return Client(f"cat >main.go <<'END'\n{GO}\nEND\n{line}")


def claude(url: str) -> Client:
    """Claude Code, as references/never-has-its-keys.md starts it."""
    return Client(f"{QUIET} ANTHROPIC_BASE_URL={url} {clients.program('claude')} -p '{SAY}'",
                  "anthropic/ANTHROPIC_API_KEY", ("/v1/messages",))  # fmt: skip


def codex(url: str) -> Client:
    return Client(f"""CODEX_API_KEY="$OPENAI_API_KEY" {clients.program("codex")} exec --skip-git-repo-check """
                  f"""-c openai_base_url='"{url}/v1"' '{SAY}' </dev/null""", paths=("/v1/responses",))  # fmt: skip


QUIET = "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1"
CLIENTS: dict[str, Callable[[str], Client]] = {
    "curl": curl,
    "git": git,
    "pip": pip,
    "npm": npm,
    "go": go,
    "claude": claude,
    "codex": codex,
    "codex by WebSocket": codex,
    "wget": wget,
    "gh": gh,
    "cargo": cargo,
    "uv": uv,
    **{f"python {name}": (lambda url, name=name: python(name, url)) for name in PYTHON},  # type: ignore[misc]
    **{
        f"node24 {name}": (lambda url, name=name: javascript(clients.node24(), "--input-type=module -e", name, url))  # type: ignore[misc]
        for name in SCRIPT
    },
    **{
        f"node22 {name}": (lambda url, name=name: javascript(clients.program("node22"), "--input-type=module -e", name, url))  # type: ignore[misc]
        for name in ("fetch", "openai")
    },
    "deno websocket": lambda url: javascript(clients.program("deno"), "eval", "websocket", url),
    "deno": lambda url: javascript(clients.program("deno"), "eval", "fetch", url),
    "bun": lambda url: javascript(clients.program("bun"), "-e", "fetch", url),
}


def run(vault: Machine, client: Client, *words: str, code: int | None = 0) -> str:
    """What a client prints; its environment and its answer are in files too, as agents leave them."""
    home = vault.top / "home"
    home.mkdir(exist_ok=True)
    script = f"env >environment; ({client.line}\n) >answer 2>errors; code=$?; cat answer errors; exit $code"
    away = ("env", "NO_PROXY=", "no_proxy=", f"HOME={home}", f"CODEX_HOME={home}")
    done = vault("run", "--proxy", *words, "--", *away, "sh", "-c", script, code=None)
    assert code is None or done.returncode == code, (done.stdout[-3000:], done.stderr[-2000:])
    return done.stdout


def placeholder(vault: Machine, client: Client) -> str:
    """What the client has in place of its key."""
    name = client.place.partition("/")[2]
    [line] = [line for line in (vault.top / "environment").read_text().splitlines() if line.startswith(f"{name}=")]
    return line.partition("=")[2]


def holds_nothing(vault: Machine, printed: str, value: str) -> None:
    """No file that the client left has the value, nor what it printed; nor was a mask needed for that."""
    pair = base64.b64encode(f":{value}".encode())[2:-4]
    assert value not in printed and "<avault:" not in printed
    assert not files_with(value, vault.top) and not files_with(pair.decode(), vault.top)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client(vault: Machine, services: Services, canary: Canary, name: str) -> None:
    """The API gets the value, the client has a placeholder, and what the API says of the value is the placeholder again."""
    if name == "git":
        subprocess.run(["git", "init", "-q", "--bare", services.repositories / "tiny.git"], check=True)
        subprocess.run(["git", "-C", services.repositories / "tiny.git", "config", "http.receivepack", "true"], check=True)
    services.talks = name == "codex by WebSocket"
    client = CLIENTS[name](services.url)
    value = value_of(client.place, canary.mark)
    printed = run(vault, client)
    arrived = services.found(value)
    for path in {*client.paths}:
        assert arrived.count(path) >= client.paths.count(path), (arrived, printed)
    if services.talks:  # nor did it fall back
        assert not any(head.startswith(b"POST") for head in services.heads)
    instead = placeholder(vault, client)
    assert instead.startswith(BEGINNINGS[client.place]) and instead != value and len(instead) == len(value)
    holds_nothing(vault, printed, value)
    if client.shows:
        assert instead in printed, printed
    assert not services.found(instead)


# In a sandbox, which has no other way out


def bound(*paths: str) -> list[str]:
    return [word for path in paths for word in ("--bind-ro", path)]


SANDBOXED = {"curl": curl, "claude": claude, "codex": codex, "python openai": CLIENTS["python openai"]}
LEAVES = """
(avault get {place}; echo avault: $?; curl -sS --noproxy '*' -m 5 {url}/around; echo curl: $?
ls -A {vault} {state} {runtime}; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline) >tried 2>&1"""


@pytest.mark.skipif(bool(WHY_NONE), reason=WHY_NONE)
@pytest.mark.parametrize("name", SANDBOXED)
def test_a_client_in_a_sandbox(vault: Machine, services: Services, canary: Canary, name: str) -> None:
    """It works there as well, and there `avault get` fails, and so does what goes around the proxy."""
    client = SANDBOXED[name](services.url)
    value = value_of(client.place, canary.mark)
    places = [str(clients.peers.CACHE)]
    tries = LEAVES.format(place=client.place, url=services.url, vault=vault.vault, state=vault.state, runtime=vault.runtime)
    printed = run(vault, client._replace(line=f"{tries}\n{client.line}"), "--sandbox", *bound(*places))
    assert {*client.paths} <= {*services.found(value)}
    instead = placeholder(vault, client)
    assert instead in printed and instead != value
    holds_nothing(vault, printed, value)
    tried = (vault.top / "tried").read_text(errors="replace")
    assert "avault: 4" in tried and "this is a sandbox" in tried and "curl: 0" not in tried and "curl: " in tried
    assert tried.count("No such file or directory") == 3
    assert not any(b"/around" in head for head in services.heads)
