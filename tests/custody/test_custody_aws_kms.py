"""The custodian `aws-kms`, by its real helper against moto's KMS; what moto does not do, by botocore's stub.

moto decrypts with a key that is disabled, and takes no notice of a dry run: such answers are stubbed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documents as d
import peers
import pytest
from canary import Canary, record
from errands import BOUND, SECRET, do_errand_here, send_errand
from harness import Machine, wait_until
from peers import Relay
from ports import free_port

import avault

boto3 = pytest.importorskip("boto3", reason="no boto3: the extra aws-kms is not installed")
pytest.importorskip("moto", reason="no moto: an AWS KMS for the tests")
import botocore.exceptions as wrong  # noqa: E402
from botocore.stub import Stubber  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

OTHER = BOUND.replace("here", "there")
REGION = "eu-central-1"
ARN = f"arn:aws:kms:{REGION}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CHANGED = "the wrapped key was changed, or is of another vault, custodian or KMS key"
NO_KEY = "KMS has no such key"
NO_CREDENTIALS = "there are no credentials for AWS: no profile in ~/.aws, and no role of this machine"
KEPT = json.dumps({"key": ARN, "blob": base64.b64encode(b"wrapped").decode()})
KIND: Any = avault.find_kind("aws-kms")


@contextlib.contextmanager
def serve_moto(directory: Path) -> Iterator[str]:
    """The address of moto's server, which is ended at the end; what it says lies in the directory."""
    log = open(directory / "log", "wb")
    url = f"http://127.0.0.1:{free_port()}"
    words = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def answers() -> bool:
        assert process.poll() is None, "moto ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/moto-api/", timeout=30):
            return True
        return False

    try:
        wait_until(answers)
        yield url
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of moto's server."""
    with serve_moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's, and no role of a machine: that is asked for at 169.254.169.254."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def put_profile(key: str = "AKIAEXAMPLEEXAMPLE00", secret: str = "x" * 40, name: str = "default", region: str = "") -> None:
    """A profile in ~/.aws."""
    directory = Path.home() / ".aws"
    directory.mkdir(exist_ok=True)
    with open(directory / "credentials", "a") as file:
        file.write(
            f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n" + f"region = {region}\n" * bool(region)
        )


@pytest.fixture
def kms(moto: str) -> Any:
    """A client of moto's KMS, as its administrator; and our profile."""
    put_profile()
    return boto3.client("kms", region_name=REGION, endpoint_url=moto)


@pytest.fixture
def key(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["Arn"])


def ask(action: str, settings: dict[str, str], **fields: Any) -> dict[str, Any]:
    """The helper's answer, which says nothing that it should not."""
    answer = send_errand(action, "aws-kms", settings, **fields)
    if answer["outcome"] != "ok":
        record(f"{action} of aws-kms", json.dumps(answer))
        assert SECRET not in str(answer) and BOUND not in str(answer)
    return answer


def failed(answer: dict[str, Any], outcome: str, detail: str) -> None:
    """An answer is that outcome, and says that."""
    assert (answer["outcome"], answer.get("detail")) == (outcome, detail)


# By the helper, against moto


def test_kms_wraps_and_unwraps(kms: Any, key: str, moto: str) -> None:
    kms.create_alias(AliasName=f"alias/{key[-12:]}", TargetKeyId=key)
    told = {"key": f"alias/{key[-12:]}", "region": REGION, "endpoint": moto}
    settings = ask("settle", told)["value"]
    assert settings == told
    kept = ask("set", settings, secret=SECRET)["value"]
    held = json.loads(kept)
    assert held["key"] == key and SECRET not in kept and SECRET.encode() not in base64.b64decode(held["blob"])
    assert ask("get", settings, kept=kept) == {"outcome": "ok", "value": SECRET}
    for there in (kept, None):
        assert ask("probe", settings, kept=there) == {"outcome": "ok", "value": "KMS lets us use the key"}
    assert ask("delete", settings, kept=kept) == {"outcome": "ok", "value": None}
    # the key that it was, whatever the alias means by now
    kms.update_alias(AliasName=told["key"], TargetKeyId=kms.create_key()["KeyMetadata"]["Arn"])
    assert ask("get", settings, kept=kept)["value"] == SECRET


def test_what_is_wrapped_is_of_one_vault(key: str, moto: str) -> None:
    settings = {"key": key, "region": REGION, "endpoint": moto}
    kept = ask("set", settings, secret=SECRET)["value"]
    failed(ask("get", settings, kept=kept, bound=OTHER), "tampered", CHANGED)
    blob = base64.b64decode(json.loads(kept)["blob"])
    changed = json.dumps({"key": key, "blob": base64.b64encode(blob[:-1] + bytes([blob[-1] ^ 1])).decode()})
    failed(ask("get", settings, kept=changed), "tampered", CHANGED)


def test_another_key_opens_nothing(kms: Any, key: str, moto: str) -> None:
    settings, other = {"key": key, "region": REGION, "endpoint": moto}, kms.create_key()["KeyMetadata"]["Arn"]
    blob = json.loads(ask("set", settings, secret=SECRET)["value"])["blob"]
    says = "a policy of AWS does not let us use the key"  # so moto; AWS has an error of its own for it, see below
    failed(ask("get", settings, kept=json.dumps({"key": other, "blob": blob})), "denied", says)
    nobody = key[:-12] + "0" * 12
    failed(ask("get", settings, kept=json.dumps({"key": nobody, "blob": blob})), "not_found", NO_KEY)
    failed(ask("set", settings | {"key": "alias/nobody"}, secret=SECRET), "not_found", NO_KEY)


def test_iam_says_no(kms: Any, key: str, moto: str) -> None:
    """moto's answer is one of XML to a client of JSON: there is no code, but its status."""
    settings = {"key": key, "region": REGION, "endpoint": moto}
    kept = ask("set", settings, secret=SECRET)["value"]
    iam = boto3.client("iam", region_name=REGION, endpoint_url=moto)
    iam.create_user(UserName="web")
    made = iam.create_access_key(UserName="web")["AccessKey"]
    put_profile(made["AccessKeyId"], made["SecretAccessKey"], "web")

    def enforce(after: str) -> None:
        request = urllib.request.Request(f"{moto}/moto-api/reset-auth", after.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=30).close()

    enforce("0")
    try:
        says = "a policy of AWS does not let us use the key"
        failed(ask("get", settings | {"profile": "web"}, kept=kept), "denied", says)
        answer = ask("get", settings, kept=kept)  # a key that is nobody's
        assert answer["outcome"] == "denied", answer
    finally:
        enforce("inf")
    assert ask("get", settings | {"profile": "web"}, kept=kept)["value"] == SECRET


def test_nobody_is_there(moto: str) -> None:
    put_profile()
    settings = {"key": ARN, "region": REGION, "endpoint": f"http://127.0.0.1:{free_port()}"}
    for action in ("get", "probe", "set"):
        failed(ask(action, settings, kept=KEPT, secret=SECRET), "unavailable", "KMS cannot be reached")
    tls = ask("get", settings | {"endpoint": moto.replace("http", "https")}, kept=KEPT)
    assert tls["outcome"] == "unavailable"


def test_a_server_that_hangs() -> None:
    put_profile()
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel takes connections; nobody answers
        settings = {"key": ARN, "region": REGION, "endpoint": f"http://127.0.0.1:{server.getsockname()[1]}"}
        start = time.monotonic()
        failed(ask("get", settings, kept=KEPT, limit=10), "unavailable", "KMS does not answer in 8 s")
        assert time.monotonic() - start < 40
        # its own timeouts, twice five seconds, come before the end of a usual errand
        failed(ask("get", settings, kept=KEPT, limit=60), "unavailable", "KMS cannot be reached")


def test_no_credentials(moto: str) -> None:
    settings = {"key": ARN, "region": REGION, "endpoint": moto}
    failed(ask("get", settings, kept=KEPT), "unavailable", NO_CREDENTIALS)
    failed(ask("get", settings | {"profile": "nobody"}, kept=KEPT), "unavailable", NO_CREDENTIALS)


def test_only_its_own_setting_moves_it(key: str, moto: str) -> None:
    """An address in the environment, or in ~/.aws, is not taken."""
    with (Path.home() / ".aws" / "config").open("w") as file:
        file.write(f"[default]\nendpoint_url = {moto}\n")
    elsewhere = {"key": key, "region": REGION, "endpoint": f"http://127.0.0.1:{free_port()}"}
    failed(ask("get", elsewhere, kept=KEPT, env={"AWS_ENDPOINT_URL_KMS": moto}), "unavailable", "KMS cannot be reached")
    errand = avault.Errand({"settings": {"key": key, "region": REGION}, "name": "here", "bound": BOUND, "limit": 1.0,
                            "account": "x", "label": "x"}, avault.Prompt(None))  # fmt: skip
    assert KIND(errand).client().meta.endpoint_url == f"https://kms.{REGION}.amazonaws.com"


# What is settled


def test_the_region() -> None:
    put_profile(region="sa-east-1")
    assert do_errand_here("settle", KIND, {"key": ARN})["value"] == {"key": ARN, "region": REGION}
    found = do_errand_here("settle", KIND, {"key": "alias/avault", "endpoint": "https://kms.example.org/"})["value"]
    assert found == {"key": "alias/avault", "region": "sa-east-1", "endpoint": "https://kms.example.org"}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "key is a KMS key's id, its ARN, or alias/NAME"),
        ({"key": "avault"}, "key is a KMS key's id, its ARN, or alias/NAME"),
        ({"key": ARN.replace("kms", "s3")}, "key is a KMS key's id, its ARN, or alias/NAME"),
        ({"key": "alias/avault"}, "region has to be told, as eu-central-1"),
        ({"key": "alias/avault", "region": "x.example.org/"}, "region has to be told, as eu-central-1"),
        ({"key": ARN, "kye": "x"}, "aws-kms has no setting kye"),
        ({"key": ARN, "region": "us-east-1"}, "the key is in the region eu-central-1"),
        ({"key": ARN, "endpoint": "http://kms.example.org"}, "endpoint has to begin with https://, as it is not on this machine"),
    ],
    ids=str,
)
def test_what_is_not_settled(told: dict[str, str], says: str) -> None:
    failed(do_errand_here("settle", KIND, told), "usage", says)


@pytest.mark.parametrize("kept", [None, "", "{}", "[1]", '{"key": 5}', '{"key": "x", "blob": "%"}'])
def test_what_the_file_has_was_changed(kept: str | None) -> None:
    answer = do_errand_here("get", KIND, {"key": ARN, "region": REGION}, kept=kept)
    failed(answer, "tampered", "what the vault's file has of KMS was changed")


# Each error of KMS, as botocore stubs it


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """The client that the custodian makes, with answers that are told."""
    client = boto3.client("kms", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
    monkeypatch.setattr(KIND, "client", lambda self: client)
    with Stubber(client) as stubber:
        yield stubber


def get_here() -> dict[str, Any]:
    return do_errand_here("get", KIND, {"key": ARN, "region": REGION}, kept=KEPT)


CODES = [
    ("InvalidCiphertextException", 400, "tampered", CHANGED),
    ("IncorrectKeyException", 400, "tampered", CHANGED),
    ("InvalidKeyUsageException", 400, "error", "the KMS key is not one that encrypts"),
    ("NotFoundException", 400, "not_found", NO_KEY),
    ("AccessDeniedException", 400, "denied", "a policy of AWS does not let us use the key"),
    ("403", 403, "denied", "a policy of AWS does not let us use the key"),
    ("SomethingNewException", 403, "denied", "a policy of AWS does not let us use the key"),
    ("DisabledException", 400, "denied", "the KMS key is disabled"),
    ("KMSInvalidStateException", 400, "denied", "the KMS key cannot be used in its state"),
    ("UnrecognizedClientException", 400, "denied", "AWS does not take these credentials"),
    ("ExpiredTokenException", 400, "denied", "AWS does not take these credentials"),
    ("InvalidSignatureException", 400, "denied", "AWS does not take these credentials"),
    ("ThrottlingException", 400, "unavailable", "AWS is asked too often"),
    ("LimitExceededException", 400, "unavailable", "AWS is asked too often"),
    ("KMSInternalException", 500, "unavailable", "KMS does not work"),
    ("DependencyTimeoutException", 503, "unavailable", "KMS does not work"),
    ("KeyUnavailableException", 500, "unavailable", "KMS does not work"),
    ("SomethingNewException", 503, "unavailable", "KMS does not work"),
    ("InvalidGrantTokenException", 400, "error", "KMS failed: InvalidGrantTokenException"),
    ("odd\x1b[31m code", 400, "error", "KMS failed: an unknown error"),
]


@pytest.mark.parametrize(("code", "status", "outcome", "says"), CODES)
def test_codes(code: str, status: int, outcome: str, says: str, stubbed: Stubber) -> None:
    stubbed.add_client_error("decrypt", code, f"no {SECRET}", status, expected_params={
        "KeyId": ARN, "CiphertextBlob": b"wrapped", "EncryptionContext": {"avault": BOUND}
    })  # fmt: skip
    failed(get_here(), outcome, says)


def test_each_code_of_kms_has_a_meaning() -> None:
    """Of those that botocore knows for what we ask."""
    model = boto3.client("kms", region_name=REGION).meta.service_model
    known = {shape.name for name in ("Encrypt", "Decrypt") for shape in model.operation_model(name).error_shapes}
    without = {"DryRunOperationException", "InvalidGrantTokenException"}  # the one is no error, and we send no grants
    assert known - without <= {code for code, *_ in CODES}


EXCEPTIONS = [
    (wrong.NoCredentialsError(), "unavailable", NO_CREDENTIALS),
    (wrong.PartialCredentialsError(provider="x", cred_var="y"), "unavailable", NO_CREDENTIALS),
    (wrong.CredentialRetrievalError(provider="x", error_msg="y"), "unavailable", NO_CREDENTIALS),
    (wrong.SSOTokenLoadError(error_msg="x"), "unavailable", NO_CREDENTIALS),
    (wrong.UnauthorizedSSOTokenError(), "denied", "AWS does not take these credentials"),
    (wrong.ConnectTimeoutError(endpoint_url="x"), "unavailable", "KMS cannot be reached"),
    (wrong.ReadTimeoutError(endpoint_url="x"), "unavailable", "KMS cannot be reached"),
    (wrong.EndpointConnectionError(endpoint_url="x"), "unavailable", "KMS cannot be reached"),
    (wrong.SSLError(endpoint_url="x", error="y"), "unavailable", "the certificate of KMS is not trusted"),
    (ValueError(f"has {SECRET}"), "error", "KMS failed: ValueError"),
]


@pytest.mark.parametrize(("error", "outcome", "says"), EXCEPTIONS, ids=lambda value: type(value).__name__)
def test_exceptions(error: Exception, outcome: str, says: str, stubbed: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_it(**_: object) -> None:
        raise error

    monkeypatch.setattr(stubbed.client, "decrypt", raise_it)
    failed(get_here(), outcome, says)


def test_a_dry_run(stubbed: Stubber) -> None:
    """It never succeeds: an exception says that it would have."""
    told = {"KeyId": ARN, "CiphertextBlob": b"wrapped", "EncryptionContext": {"avault": BOUND}, "DryRun": True}
    stubbed.add_client_error("decrypt", "DryRunOperationException", http_status_code=412, expected_params=told)
    answer = do_errand_here("probe", KIND, {"key": ARN, "region": REGION}, kept=KEPT)
    assert answer == {"outcome": "ok", "value": "KMS lets us use the key"}
    stubbed.add_client_error("decrypt", "DisabledException", http_status_code=400, expected_params=told)
    failed(do_errand_here("probe", KIND, {"key": ARN, "region": REGION}, kept=KEPT), "denied", "the KMS key is disabled")


def test_a_kms_that_gives_back_something_else(stubbed: Stubber) -> None:
    stubbed.add_response("encrypt", {"CiphertextBlob": b"wrapped", "KeyId": ARN})
    stubbed.add_response("decrypt", {"Plaintext": b"x", "KeyId": ARN})
    answer = do_errand_here("set", KIND, {"key": ARN, "region": REGION})
    failed(answer, "error", "KMS did not give back what was encrypted")


def test_the_limits() -> None:
    """botocore's own would hold a boot for minutes."""
    errand = avault.Errand({"settings": {"key": ARN, "region": REGION}, "name": "here", "bound": BOUND, "limit": 1.0,
                            "account": "x", "label": "x"}, avault.Prompt(None))  # fmt: skip
    config = KIND(errand).client().meta.config
    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (3, 5, 2)


def test_the_policy_of_the_document() -> None:
    """It is JSON, and lets us use what we ask for."""
    found = re.search(r"<!-- policy: aws-kms -->\n```json\n(.*?)```", d.read("references/custody.md"), re.DOTALL)
    assert found
    (statement,) = json.loads(found[1])["Statement"]
    assert statement["Action"] == ["kms:Encrypt", "kms:Decrypt"]
    ((name, pattern),) = statement["Condition"]["StringLike"].items()
    assert name == "kms:EncryptionContext:avault" and BOUND.startswith(pattern.removesuffix("*"))


def test_kms_opens_a_vault(key: str, moto: str, machine: Machine, relay: Relay, canary: Canary) -> None:
    """After a restart nobody is asked; where KMS says no, the phone is."""
    with peers.rogue([relay.url]) as phone:
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
        machine("set", "openai/API_KEY", input=canary.value)
        done = machine("custody", "add", "aws-kms", f"key={key}", f"endpoint={moto}", "--yes")
        assert "aws-kms opens this vault from now on, and asks nobody" in done.stderr
        asked = machine.reboot(phone)
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
        machine("lock")
        (Path.home() / ".aws" / "credentials").unlink()
        machine("unlock")
        assert len(phone.requests("nip44_decrypt")) == asked + 1
        assert NO_CREDENTIALS in machine("custody", "test", "aws-kms", code=6).stderr
        machine("custody", "remove", "aws-kms", "--yes")


def test_the_operator_is_told_which_key() -> None:
    """By its name in KMS. A key of another kind says nothing of where it is."""
    about = {"custodian": "aws-kms", "kind": "aws-kms", "settings": {"key": "alias/fleet", "region": REGION}}
    assert avault.describe_custodian(about) == "aws-kms at alias/fleet"
    about = {
        "custodian": "two",
        "kind": "quorum",
        "settings": {"of": "aws-kms,systemd", "aws-kms.key": ARN, "aws-kms.region": REGION},
    }
    assert avault.describe_custodian(about) == f"two (quorum) at aws-kms,systemd, {ARN}"
    assert avault.describe_custodian({"custodian": "systemd", "kind": "systemd", "settings": {"key": "host"}}) == "systemd"
