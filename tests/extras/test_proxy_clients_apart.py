"""Clients that take more than a variable: what signs its requests, what cannot have a token, and what looks at nothing."""

from __future__ import annotations

import shlex
import sys

import pytest
from canary import Canary
from harness import Machine
from test_sandbox import WHY_NONE

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

import real_clients as clients
from service_api import Services
from test_proxy_clients import Client, bound, holds_nothing, placeholder, run, value_of, vault  # noqa: F401

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
]
ID, PLACE = "AKIAABCDEFGHIJKLMNOP", "aws/AWS_SECRET_ACCESS_KEY"
REGION = f"AWS_ACCESS_KEY_ID={ID} AWS_DEFAULT_REGION=eu-central-1"
BOTO = "import boto3, sys; print(boto3.client('dynamodb', endpoint_url=sys.argv[1]).list_tables()['TableNames'])"


@pytest.mark.parametrize("name", ["aws", "boto3"])
def test_amazons_clients(vault: Machine, services: Services, canary: Canary, name: str) -> None:  # noqa: F811
    """They sign with a placeholder, and what arrives is signed by the key, as botocore judges it."""
    pytest.importorskip("botocore", reason="needs botocore")
    from test_proxy_aws import judge

    value = f"wJa1rXUt{canary.mark}bPxRfiCYzzzzzzz"
    vault("set", PLACE, input=value)
    vault("guard", PLACE, "--only", "proxy", "--host", f"api.localhost:{services.port}", "--in", "sign")
    python = clients.python("python-programs")
    line = f"{REGION} {python} -c {shlex.quote(BOTO)} {services.url}"
    if name == "aws":
        line = f"{REGION} {python} {python.replace('/python', '/aws')} dynamodb list-tables --endpoint-url {services.url}"
    printed = run(vault, Client(line, PLACE))
    assert "tiny" in printed
    judge(services.heads[-1], services.bodies[-1], "dynamodb", value, ID)
    holds_nothing(vault, printed, value)


JAVA = """
import java.net.*;
public class Main {
  public static void main(String[] said) throws Exception {
    HttpURLConnection it = (HttpURLConnection) new URL(said[0] + "/echo").openConnection();
    it.setRequestProperty("Authorization", "Bearer " + System.getenv("OPENAI_API_KEY"));
    System.out.println(new String(it.getInputStream().readAllBytes()));
  }
}"""


@pytest.mark.skipif(bool(WHY_NONE), reason=WHY_NONE)
def test_java_in_a_sandbox(vault: Machine, services: Services, canary: Canary) -> None:  # noqa: F811
    """It can send no token, and wants authorities in a file of its own form; in the sandbox there is no token."""
    java, keytool = clients.have("java"), clients.have("keytool")
    line = f"""cat >Main.java <<'END'\n{JAVA}\nEND
        awk '/BEGIN/ {{ one = "" }} {{ one = one $0 "\\n" }} END {{ printf "%s", one }}' "$SSL_CERT_FILE" >own.pem
        {keytool} -importcert -noprompt -file own.pem -keystore trust.p12 -storetype PKCS12 -storepass changeit
        proxy=${{HTTPS_PROXY#http://}}; proxy=${{proxy%/}}
        {java} -Dhttps.proxyHost=${{proxy%:*}} -Dhttps.proxyPort=${{proxy#*:}} -Djavax.net.ssl.trustStore=trust.p12 \\
            -Djavax.net.ssl.trustStorePassword=changeit Main.java {services.url}"""
    client, value = Client(line), value_of("openai/OPENAI_API_KEY", canary.mark)
    printed = run(vault, client, "--sandbox")
    assert services.found(value) == ["/echo"] and placeholder(vault, client) in printed
    holds_nothing(vault, printed, value)


UNAWARE = {
    "urllib3": "import urllib3; print(urllib3.PoolManager().request('GET', url + '/echo', retries=False).status)",
    "aiohttp": """
import aiohttp, asyncio
async def work():
    async with aiohttp.ClientSession() as session, session.get(url + "/echo") as answer:
        print(answer.status)
asyncio.run(work())""",
}


@pytest.mark.skipif(bool(WHY_NONE), reason=WHY_NONE)
def test_what_looks_at_no_variable_reaches_nothing_in_a_sandbox(vault: Machine, services: Services) -> None:  # noqa: F811
    lines = [f"{clients.python()} -c {shlex.quote(f'url = {services.url!r}{chr(10)}{code}')}" for code in UNAWARE.values()]
    lines.append('echo "$HTTPS_PROXY" >proxied; false')
    client = Client("\n".join(f"{line}; echo ended $?" for line in lines))
    places = [str(clients.peers.CACHE), sys.prefix, sys.base_prefix]
    printed = run(vault, client, "--sandbox", *bound(*places))
    assert printed.count("ended 1") == 3 and not services.heads, printed
    assert "@" not in (vault.top / "proxied").read_text()  # no token: nobody else is in there
