"""Requests that a client signs for AWS with placeholders: at the API they are signed by the key. Judged by botocore."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import avault

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")
pytest.importorskip("botocore", reason="needs botocore")

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.session
from api_server import Api
from test_proxy_traps import TOKEN, Running, get, proxy_broker, refused, send_newer

sigv4 = proxy_broker.proxy_gate.proxy_filling.proxy_sigv4
ID, SECRET, SESSION = "AKIAABCDEFGHIJKLMNOP", "wJa1rXUtnFEMI/K7MDENG+bPxRfiCYzzzzzzzzzz", "FwoGZXIvYXdzE/session+token=="
VALUES = {"aws/ID": ID, "aws/SECRET": SECRET, "aws/SESSION": SESSION}
MADE = {name: avault.make_placeholder(value) for name, value in VALUES.items()}


class Signing(Running):
    """A session with the three parts of a key of AWS."""

    def list_secrets(self, places: tuple[str, ...]) -> list[dict[str, Any]]:
        self.values = dict(VALUES)
        hosts = [f"{place}api.localhost:{self.api.port}" for place in places]
        told = {name: [hosts] for name in VALUES} | {"aws/SECRET": [[f"sign@api.localhost:{self.api.port}"]]}
        return [{"name": name, "placeholder": MADE[name], "hosts": told[name]} for name in VALUES]

    async def ask_one(self, fields: dict[str, Any]) -> str:
        """As the keyholder: what signs is in no place of a request, and all else signs nothing."""
        if (fields["name"] == "aws/SECRET") is not (fields["in"] == ["sign"]):
            self.asked.append(fields)
            raise avault.Denied("not there")
        return await super().ask_one(fields)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, api: Api) -> Iterator[Signing]:
    running = Signing(tmp_path_factory.mktemp("s"), api, places=("", "body@"))
    yield running
    running.end()


@pytest.fixture
def proxy(shared: Signing) -> Signing:
    shared.forget()
    shared.values.update(VALUES)
    return shared


def make_client(proxy: Signing, service: str, access: str = MADE["aws/ID"], secret: str = MADE["aws/SECRET"], **more: Any) -> Any:
    session = botocore.session.Session()
    session.set_credentials(access, secret, more.pop("session", None))
    config = botocore.config.Config(
        proxies={"https": f"http://avault:{TOKEN}@127.0.0.1:{proxy.port}"},
        retries={"max_attempts": 0},
        s3={"addressing_style": "path", **more},
    )
    url = f"https://api.localhost:{proxy.api.port}"
    return session.create_client(service, "eu-central-1", endpoint_url=url, verify=str(proxy.bundle), config=config)


def call(client: Any, name: str, **fields: Any) -> None:
    """Whatever the API answers, which is nothing of that service."""
    try:
        getattr(client, name)(**fields)
    except (botocore.exceptions.ClientError, botocore.parsers.ResponseParserError):
        pass


def judge(head: bytes, body: bytes, service: str, secret: str = SECRET, access: str = ID) -> None:
    """What arrived has the signature that botocore makes of it with the key, and only with that."""
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split()
    fields = [tuple(line.split(": ", 1)) for line in lines]
    said = next(value for name, value in fields if name.lower() == "authorization")
    names = said.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    host = next(value for name, value in fields if name.lower() == "host")
    request = botocore.awsrequest.AWSRequest(method, f"https://{host}{target}", data=body)
    for name, value in fields:
        if name.lower() in names:
            request.headers.add_header(name, value)
    request.context["timestamp"] = request.headers["X-Amz-Date"]
    kind = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    for key, is_right in ((secret, True), (MADE["aws/SECRET"], False)):
        auth = kind(botocore.credentials.Credentials(access, key), service, "eu-central-1")
        signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        assert (f"Signature={signature}" in said) is is_right, said
    assert f"Credential={access}/" in said and not any(made.encode() in head for made in MADE.values())


CALLS = {
    "a body whose hash is in no header": ("dynamodb", "get_item", {"TableName": "t", "Key": {"k": {"S": "v"}}}),
    "a form": ("sns", "list_topics", {}),
    "a hash in the header": ("s3", "get_object", {"Bucket": "b", "Key": "a/b c+d/é~.txt"}),
    "a query": ("s3", "list_objects_v2", {"Bucket": "b", "Prefix": "a b/&=+é", "Delimiter": "/", "StartAfter": "~"}),
    "a path that is encoded twice": ("lambda", "get_function", {"FunctionName": "arn:aws:lambda:eu-central-1:1:function:a"}),
    "chunks that nobody signs": ("s3", "put_object", {"Bucket": "b", "Key": "k", "Body": b"x" * 70_000}),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("is_for_a_time", [False, True])
def test_what_botocore_sends(proxy: Signing, name: str, is_for_a_time: bool) -> None:
    service, method, fields = CALLS[name]
    session = MADE["aws/SESSION"] if is_for_a_time else None
    call(make_client(proxy, service, session=session), method, **fields)
    judge(proxy.api.heads[-1], proxy.api.bodies[-1], service)
    head = proxy.api.heads[-1]
    assert (f"X-Amz-Security-Token: {SESSION}".encode() in head) is is_for_a_time
    assert SECRET.encode() not in head and {each["name"] for each in proxy.asked} >= {"aws/ID", "aws/SECRET"}
    assert all(each["in"] == ["sign" if each["name"] == "aws/SECRET" else "header"] for each in proxy.asked)


def test_a_large_file_is_not_held(proxy: Signing) -> None:
    call(make_client(proxy, "s3"), "put_object", Bucket="b", Key="k", Body=io.BytesIO(b"y" * (3 << 20)))
    judge(proxy.api.heads[-1], b"", "s3")


def test_a_keys_id_that_is_no_secret(proxy: Signing) -> None:
    call(make_client(proxy, "sns", access="AKIDPLAIN"), "list_topics")
    judge(proxy.api.heads[-1], proxy.api.bodies[-1], "sns", access="AKIDPLAIN")
    assert [each["name"] for each in proxy.asked] == ["aws/SECRET"]


def test_who_signs_with_a_key_of_its_own_does_so(proxy: Signing) -> None:
    call(make_client(proxy, "sns", access="AKIDOWN", secret="own"), "list_topics")
    judge(proxy.api.heads[-1], proxy.api.bodies[-1], "sns", secret="own", access="AKIDOWN")
    assert not proxy.asked


def test_a_keys_id_without_its_secret(proxy: Signing) -> None:
    call(make_client(proxy, "sns", secret="own"), "list_topics")
    assert "signed by no placeholder" in proxy.refused[-1]["why"] and not proxy.api.heads and not proxy.asked


NOW = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def by_hand(access: str = MADE["aws/ID"], names: str = "host;x-amz-date", date: str = NOW, service: str = "s3") -> bytes:
    scope = f"{date[:8]}/eu-central-1/{service}/aws4_request"
    said = f"Credential={access}/{scope}, SignedHeaders={names}, Signature={'0' * 64}"
    return f"Authorization: AWS4-HMAC-SHA256 {said}".encode()


DATE = f"X-Amz-Date: {NOW}".encode()
LATER = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + 3600))


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([by_hand(), DATE], "signed by no placeholder"),
        ([by_hand()], "X-Amz-Date"),
        ([by_hand(), b"X-Amz-Date: 20300102T000000Z"], "X-Amz-Date"),
        ([by_hand(), DATE, DATE], "X-Amz-Date"),
        ([by_hand(names="x-amz-date"), DATE], "the request's host"),
        ([by_hand(names="host"), DATE], "not over x-amz-date"),
        ([by_hand(), DATE, b"X-Amz-Content-SHA256: UNSIGNED-PAYLOAD"], "not over x-amz-content-sha256"),
        ([by_hand(names="host;x-amz-content-sha256;x-amz-date"), DATE, b"X-Amz-Content-SHA256:"], "not understood"),
        ([by_hand(date=LATER), f"X-Amz-Date: {LATER}".encode()], "of another time"),
        ([by_hand(date="20260101T000000Z"), b"X-Amz-Date: 20260101T000000Z"], "of another time"),
        ([by_hand(service="sts"), DATE], "gives out credentials"),
        ([by_hand(service="iam"), DATE], "gives out credentials"),
    ],
)
def test_a_signature_by_hand(proxy: Signing, lines: list[bytes], why: str) -> None:
    """Over the wrong text it is nobody's."""
    refused(proxy, proxy.send(get("/", *lines)), why)


@pytest.mark.parametrize("name", ["X-Amz-Expires", "x-amz-signature", "X%2DAmz-Algorithm", "%2558-Amz-Credential", "X-Amz-Date"])
def test_a_presigned_address_signed_in_the_header_is_refused(proxy: Signing, name: str) -> None:
    """Its signature would be good for a week, without the proxy."""
    url = f"https://api.localhost:{proxy.api.port}/b/k?a=1&{name}=604800"
    refused(proxy, proxy.send(signed("GET", url, {}, b"")), "presigned address")


def test_the_signature_does_not_come_back(proxy: Signing) -> None:
    request = signed("GET", f"https://api.localhost:{proxy.api.port}/echo", {}, b"")
    client = request.partition(b"Signature=")[2][:64]
    answer = proxy.send(request)
    there = proxy.api.heads[-1].partition(b"Signature=")[2][:64]
    assert len(there) == 64 and there != client and there not in answer and client in answer


@pytest.mark.parametrize("header", ["X-Api-Key", "X-Amz-Security-Token"])
def test_a_secret_that_signs_is_in_no_header(proxy: Signing, header: str) -> None:
    """The API would have it in its answer, in whatever form: of what was signed it shows the bytes."""
    request = signed("GET", f"https://api.localhost:{proxy.api.port}/", {header: MADE["aws/SECRET"]}, b"")
    answer = proxy.send(request)
    assert b" 403 " in answer.split(b"\r\n")[0] and not proxy.api.heads
    assert all("header" in each["in"] for each in proxy.asked)


def test_a_secret_that_signs_is_no_keys_id(proxy: Signing) -> None:
    call(make_client(proxy, "sns", access=MADE["aws/SECRET"].replace("/", "_")), "list_topics")
    call(make_client(proxy, "sns", access=MADE["aws/SESSION"], secret=MADE["aws/SESSION"]), "list_topics")
    assert not any(SECRET.encode() in head for head in proxy.api.heads) and not proxy.asked


def test_only_what_may_be_ours_is_waited_for(proxy: Signing) -> None:
    filling = proxy.gate.filling
    length = f"Content-Length: {8 << 20}".encode()
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: HOST", length, by_hand(), DATE, b"", b""])
    socks = []
    for _ in range(9):
        tls = proxy.greet()
        tls.sendall(head.replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
        socks.append(tls)
    assert wait_for(lambda: any("too many bodies" in each["why"] for each in proxy.refused))
    assert len(filling.held) == 8
    for tls in socks:
        tls.close()
    assert wait_for(lambda: not filling.held)


def wait_for(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    return is_so()


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-Http-Method", "X-Method-Override"])
def test_a_header_that_says_another_method(proxy: Signing, header: str) -> None:
    request = signed("POST", f"https://api.localhost:{proxy.api.port}/", {header: "DELETE"}, b"{}")
    refused(proxy, proxy.send(request), "another method, or path")


@pytest.mark.parametrize("kind", ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"])
def test_signed_pieces_are_refused(proxy: Signing, kind: str) -> None:
    request = signed("PUT", f"https://api.localhost:{proxy.api.port}/b/k", {"X-Amz-Content-SHA256": kind}, b"x")
    refused(proxy, proxy.send(request), "each piece is signed")


def test_a_body_too_long_to_be_held(proxy: Signing) -> None:
    request = signed("POST", f"https://api.localhost:{proxy.api.port}/", {"Content-Length": str(9 << 20)}, b"")
    assert proxy.send(request) == b"" and "too long to be signed anew" in proxy.refused[-1]["why"] and not proxy.api.heads


def test_a_header_that_is_signed_and_does_not_go_on(proxy: Signing) -> None:
    request = signed("GET", f"https://api.localhost:{proxy.api.port}/", {"X-Hop": "5", "Connection": "X-Hop"}, b"")
    answer = proxy.send(request)
    assert b"the header x-hop is signed, and does not go through" in answer, answer
    assert not proxy.api.heads


def test_a_presigned_address_is_refused(proxy: Signing) -> None:
    """Its id is in the query, where no rule has it."""
    url = make_client(proxy, "s3", signature_version="s3v4").generate_presigned_url(
        "get_object", Params={"Bucket": "b", "Key": "k"}
    )
    refused(proxy, proxy.send(get(url.partition(str(proxy.api.port))[2])), "aws/ID", "query")


def test_what_the_keyholder_refuses_is_not_signed(proxy: Signing) -> None:
    proxy.values["aws/SECRET"] = avault.Denied("aws/SECRET may not be used by POST")
    call(make_client(proxy, "sns"), "list_topics")
    assert proxy.asked and not proxy.api.heads


def test_by_http_2(proxy: Signing, tmp_path: Path) -> None:
    newer = Api(tmp_path, is_newer=True, certificate=proxy.api.server)
    for name, sets in proxy.gate.sets.items():
        sets[0] |= {f"{'sign@' if name == 'aws/SECRET' else ''}api.localhost:{newer.port}"}
    body = b'{"a": 1}'
    head = signed("POST", f"https://api.localhost:{newer.port}/x", {"Accept-Encoding": "gzip"}, body).partition(b"\r\n\r\n")[0]
    lines = [tuple(each.split(": ", 1)) for each in head.decode().split("\r\n")[1:]]
    kept = [(name.lower(), value) for name, value in lines if name.lower() not in ("host", "content-length")]
    status, _ = send_newer(proxy, newer, *kept, sent=body, path="/x")
    assert status in ("403", "") and not newer.heads and "of none" in proxy.refused[-1]["why"]  # it says no length
    status, _ = send_newer(proxy, newer, *kept, ("content-length", str(len(body))), sent=body, path="/x")
    assert status == "200" and newer.bodies == [body]
    found = [each.partition(": ") for each in newer.heads[0].decode().splitlines() if not each.startswith(":")]
    arrived = "\r\n".join(["POST /x HTTP/1.1", f"Host: api.localhost:{newer.port}", *(f"{a}: {b}" for a, _, b in found)])
    judge(arrived.encode(), body, "execute-api")
    newer.close()


def signed(method: str, url: str, fields: dict[str, str], body: bytes) -> bytes:
    """A request that is signed with placeholders, as bytes; also headers that botocore itself would not sign."""
    request = botocore.awsrequest.AWSRequest(method, url, headers={"Host": url.split("/")[2], **fields}, data=body)
    auth = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials(MADE["aws/ID"], MADE["aws/SECRET"]), "execute-api", "eu-central-1"
    )
    auth.add_auth(request)
    if body:
        request.headers["Content-Length"] = str(len(body))
    path = "/" + url.split("/", 3)[3]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def test_hashes() -> None:
    assert sigv4.hash_payload(b"") == hashlib.sha256(b"").hexdigest()
