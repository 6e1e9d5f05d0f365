"""The custodian `openbao`, by its real helper against a real OpenBao; what that cannot be made to do, by a stub."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import documents as d
import openbao_server
import peers
import pytest
from canary import Canary, record
from errands import BOUND, SECRET, do_errand_here, send_errand
from harness import Machine
from openbao_server import OpenBao, make_certificate
from peers import Relay
from ports import free_port

import avault

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("forks"),
    pytest.mark.skipif(bool(openbao_server.MISSING), reason=openbao_server.MISSING or "it is there"),
]

DOCUMENT = d.read("references/custody.md")
TRANSIT, KV = re.findall(r"<!-- policy: (?:transit|kv) -->\n```hcl\n(.*?)```", DOCUMENT, re.DOTALL)
KIND = avault.find_kind("openbao")
OTHER = BOUND.replace("here", "there")


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("bao")) as bao:
        yield bao.set_up()


class Custodian:
    """One of the kind openbao: its settings, as they are settled, and what it is asked."""

    def __init__(self, place: Path, **told: str) -> None:
        self.place, self.number = place, 0
        self.settings = self.settle({name.replace("_", "-"): value for name, value in told.items()})

    def settle(self, told: dict[str, str]) -> dict[str, str]:
        answer = send_errand("settle", "openbao", told, directory=str(self.place))
        assert answer["outcome"] == "ok", answer
        return dict(answer["value"])

    def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        return self.look(action, send_errand(action, "openbao", self.settings | fields.pop("settings", {}), **fields))

    def ask_here(self, action: str, url: str) -> dict[str, Any]:
        """What comes of it at another address, without the helper."""
        return self.look(action, do_errand_here(action, KIND, self.settings | {"address": url}, kept="x"))

    def look(self, action: str, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer that carries nothing that it should not."""
        if answer["outcome"] != "ok":
            record(f"{action} of openbao", json.dumps(answer))
            assert SECRET not in str(answer) and "detail" in answer
        return answer

    def set(self, secret: str = SECRET, **fields: Any) -> str:
        answer = self.ask("set", secret=secret, **fields)
        assert answer["outcome"] == "ok", answer
        return str(answer["value"])


def keep(path: Path, text: str) -> str:
    """A file with a credential."""
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def transit(bao: OpenBao, tmp_path: Path) -> Custodian:
    token = keep(tmp_path / "token", bao.token(TRANSIT))
    return Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), token_file=token)


@pytest.fixture
def kv(bao: OpenBao, tmp_path: Path) -> Custodian:
    token = keep(tmp_path / "kv-token", bao.token(KV))
    path = f"avault/{time.monotonic_ns()}"  # the server is all tests'
    return Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), token_file=token, engine="kv", path=path)


def failed(answer: dict[str, Any], outcome: str, detail: str) -> None:
    """An answer is that outcome, and says that."""
    assert (answer["outcome"], answer.get("detail")) == (outcome, detail)


# transit


def test_transit_wraps_and_unwraps(transit: Custodian, bao: OpenBao) -> None:
    kept = transit.set()
    assert kept.startswith("vault:v1:") and SECRET not in kept
    assert transit.ask("get", kept=kept) == {"outcome": "ok", "value": SECRET}
    assert transit.ask("probe", kept=kept) == {"outcome": "ok", "value": f"{bao.url} lets us use transit/decrypt/avault"}
    assert transit.ask("delete", kept=kept) == {"outcome": "ok", "value": None}


def test_what_is_settled(bao: OpenBao, transit: Custodian, kv: Custodian, tmp_path: Path) -> None:
    """Complete, absolute, and nothing that has no use."""
    common = {"address": bao.url, "login": "token", "token-file": str(tmp_path / "token"), "ca-file": str(bao.ca)}
    assert transit.settings == {**common, "engine": "transit", "mount": "transit", "key": "avault"}
    assert transit.settle(transit.settings) == transit.settings
    told = {"address": bao.url + "/", "engine": "kv", "token-file": "token", "mount": "/team/kv/", "ca-file": str(bao.ca)}
    wanted = {**common, "engine": "kv", "mount": "team/kv", "path": "avault/avault1-AAAAAAAAAAAAAAAA/here"}
    assert kv.settle(told) == wanted


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"address": "http://example.org:8200"}, "address has to begin with https://, as it is not on this machine"),
        ({"address": "http://127.0.0.1.example.org"}, "address has to begin with https://, as it is not on this machine"),
        ({"address": "ftp://localhost"}, "address has to begin with https://, as it is not on this machine"),
        ({"address": "https://user:pass@localhost"}, "address is not an address like https://HOST:PORT"),
        ({"address": "https://localhost/ui"}, "address is not an address like https://HOST:PORT"),
        ({"address": "https://localhost:99999"}, "address is not an address like https://HOST:PORT"),
        ({"address": ""}, "address has to be told"),
        ({"engine": "ssh"}, "engine is one of: transit, kv"),
        ({"login": "ldap"}, "login is one of: token, approle, kubernetes, jwt"),
        ({"login": "approle", "token-file": ""}, "login=approle needs role-id"),
        ({"token-file": ""}, "no file {}/home/.vault-token"),
        ({"shoe-size": "44"}, "shoe-size has no use with engine=transit and login=token"),
        ({"role": "x"}, "role has no use with engine=transit and login=token"),
        ({"path": "x"}, "path has no use with engine=transit and login=token"),
        ({"key": "../x"}, "key may hold letters, digits, . _ - and /"),
        ({"mount": "transit?x=y"}, "mount may hold letters, digits, . _ - and /"),
        ({"namespace": "a b"}, "namespace may hold letters, digits, . _ - and /"),
        ({"token-file": "nowhere"}, "no file {}/nowhere"),
        ({"token-file": "two"}, "{}/two does not hold a token: one line without spaces"),
        ({"token-file": "open"}, "everybody can read {}/open"),
        ({"ca-file": "two"}, "{}/two holds no certificates"),
    ],
    ids=str,
)
def test_what_is_not_settled(told: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "token", "s.x")
    keep(tmp_path / "two", "one two")
    Path(keep(tmp_path / "open", "s.x")).chmod(0o644)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    told = {"address": "https://localhost:8200", "token-file": "token", **told}
    answer = do_errand_here("settle", KIND, told, directory=str(tmp_path))
    assert answer["outcome"] in ("usage", "not_found", "error") and answer["detail"] == says.format(tmp_path)


def test_what_is_wrapped_is_of_one_vault(transit: Custodian) -> None:
    kept, changed = transit.set(), "the wrapped key was changed, or is of another vault, custodian or transit key"
    failed(transit.ask("get", kept=kept, bound=OTHER), "tampered", changed)
    failed(transit.ask("get", kept=kept[:-6] + "AAAAA="), "tampered", changed)
    failed(transit.ask("get", kept="junk"), "tampered", changed)
    failed(transit.ask("get", kept=None), "tampered", changed)


def test_another_transit_key_opens_nothing(transit: Custodian, bao: OpenBao) -> None:
    bao.need("POST", "transit/keys/other", {})
    root = {"token-file": keep(transit.place / "root", bao.root)}
    changed = "the wrapped key was changed, or is of another vault, custodian or transit key"
    failed(transit.ask("get", kept=transit.set(), settings={"key": "other", **root}), "tampered", changed)


def test_a_key_that_is_not_there_is_not_made(transit: Custodian, bao: OpenBao) -> None:
    """`encrypt` of one that may create makes it: a name that was mistyped."""
    settings = {"key": "mistyped", "token-file": keep(transit.place / "root", bao.root)}
    failed(transit.ask("set", secret=SECRET, settings=settings), "not_found", f"{bao.url} has no transit key mistyped")
    assert bao("GET", "transit/keys/mistyped")[0] == 404
    kept = transit.set()
    failed(transit.ask("get", kept=kept, settings=settings), "not_found", f"{bao.url} has no transit key mistyped")


def test_a_derived_key(transit: Custodian, bao: OpenBao) -> None:
    bao.need("POST", "transit/keys/derived", {"derived": True})
    root = {"key": "derived", "token-file": keep(transit.place / "root", bao.root)}
    kept = transit.set(settings=root)
    assert transit.ask("get", kept=kept, settings=root)["value"] == SECRET
    assert transit.ask("get", kept=kept, settings=root, bound=OTHER)["outcome"] == "tampered"


def test_a_key_that_does_not_bind(transit: Custodian, bao: OpenBao) -> None:
    bao.need("POST", "transit/keys/rsa", {"type": "rsa-2048"})
    root = {"key": "rsa", "token-file": keep(transit.place / "root", bao.root)}
    says = f"{bao.url} refuses what is asked at transit/encrypt/rsa: status 400"
    failed(transit.ask("set", secret=SECRET, settings=root), "error", says)


@pytest.mark.parametrize(("engine", "mount", "wanted"), [("transit", "secret", "transit"), ("kv", "old", "kv of version 2")])
def test_another_engine_is_there(engine: str, mount: str, wanted: str, bao: OpenBao, tmp_path: Path) -> None:
    bao("POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
    token = keep(tmp_path / "token", bao.root)
    custodian = Custodian(tmp_path, address=bao.plain, token_file=token, engine=engine, mount=mount)
    failed(custodian.ask("set", secret=SECRET), "error", f"the engine {mount} of {bao.plain} is not {wanted}")
    assert bao("LIST", "old")[0] == 404, "nothing was written"


# KV version 2


def test_kv_keeps_and_forgets(kv: Custodian, bao: OpenBao) -> None:
    assert kv.set() == "1"
    path = kv.settings["path"]
    held = bao.need("GET", f"secret/data/{path}")["data"]["data"]
    assert held == {"unlock_key": SECRET, "bound": BOUND, "label": "avault: unlock key of test (/vault)"}
    assert kv.ask("get", kept="1") == {"outcome": "ok", "value": SECRET}
    assert kv.ask("probe", kept="1") == {"outcome": "ok", "value": f"{bao.url} lets us use secret/data/{path}"}
    assert kv.ask("delete", kept="1")["outcome"] == "ok"
    assert bao("GET", f"secret/metadata/{path}")[0] == 404
    failed(kv.ask("get", kept="1"), "not_found", f"version 1 of secret/data/{path} of {bao.url} is gone")
    failed(kv.ask("delete", kept="1"), "not_found", f"secret/data/{path} of {bao.url} is gone")


def test_kv_keeps_the_old_one_until_the_new_one_counts(kv: Custodian, bao: OpenBao) -> None:
    """A crash between the two leaves the vault's file with the old version, which still opens the vault."""
    first, second = kv.set(), kv.set("6a" * 32)
    assert (first, second) == ("1", "2")
    assert kv.ask("get", kept=first)["value"] == SECRET
    assert kv.ask("get", kept=second)["value"] == "6a" * 32
    assert kv.ask("delete", kept=first)["outcome"] == "ok"
    failed(kv.ask("get", kept=first), "not_found", f"version 1 of {where(kv)} of {bao.url} is destroyed")
    assert kv.ask("get", kept=second)["value"] == "6a" * 32


def where(kv: Custodian) -> str:
    return f"secret/data/{kv.settings['path']}"


def test_kv_says_what_was_deleted(kv: Custodian, bao: OpenBao) -> None:
    """Not that there is nothing: a read of a deleted version has status 404 too, and can be undone."""
    kept, says = kv.set(), f"version 1 of {where(kv)} of {bao.url} is deleted"
    bao.need("DELETE", where(kv))
    failed(kv.ask("get", kept=kept), "not_found", says)
    failed(kv.ask("probe", kept=kept), "not_found", says)
    bao.need("POST", where(kv).replace("data", "undelete"), {"versions": [1]})
    assert kv.ask("get", kept=kept)["value"] == SECRET
    bao.need("DELETE", where(kv))
    assert kv.set() == "2", "after a deleted one"
    bao.need("DELETE", where(kv))
    assert kv.ask("delete", kept="2")["outcome"] == "ok"
    assert bao("GET", where(kv).replace("data", "metadata"))[0] == 404


def test_kv_leaves_what_is_anothers(kv: Custodian, bao: OpenBao) -> None:
    says = f"{where(kv)} of {bao.url} is not this vault's, or another custodian's"
    kept = kv.set()
    for action, secret in (("get", None), ("set", SECRET), ("delete", None)):
        failed(kv.ask(action, kept=kept, secret=secret, bound=OTHER), "tampered", says)
    bao.need("POST", where(kv), {"data": {"password": "x"}})
    for action, secret in (("set", SECRET), ("delete", None)):
        failed(kv.ask(action, kept=kept, secret=secret), "tampered", says)
    assert kv.ask("get", kept=kept)["value"] == SECRET, "ours is below it"
    for odd in (None, "", "0", "-1", "1?x", "01"):
        failed(kv.ask("get", kept=odd), "tampered", "the vault's file does not say which version is ours")


def test_kv_is_not_written_over_who_was_faster(bao: OpenBao, tmp_path: Path) -> None:
    """Between our look and our write somebody writes: a stub in front of the server does."""
    token, path = keep(tmp_path / "token", bao.root), f"avault/{time.monotonic_ns()}"

    def before(method: str, asked: str) -> None:
        if method == "POST" and asked == f"/v1/secret/data/{path}":
            bao.need("POST", f"secret/data/{path}", {"data": {"password": "theirs"}})

    with forward(bao, before) as url:
        custodian = Custodian(tmp_path, address=url, token_file=token, engine="kv", path=path)
        says = f"secret/data/{path} of {url} was written by another meanwhile"
        failed(custodian.ask("set", secret=SECRET), "error", says)
    assert bao.need("GET", f"secret/data/{path}")["data"]["data"] == {"password": "theirs"}


# Tokens and logins


def test_a_wrong_token(transit: Custodian, bao: OpenBao) -> None:
    kept, path = transit.set(), transit.settings["token-file"]
    says = f"{bao.url} does not take the token in {path}, or it may not use transit/decrypt/avault"
    bao.need("POST", "auth/token/revoke", {"token": Path(path).read_text().strip()})
    failed(transit.ask("get", kept=kept), "denied", says)
    keep(Path(path), "s.wrong")
    failed(transit.ask("get", kept=kept), "denied", says)
    Path(path).unlink()
    failed(transit.ask("get", kept=kept), "not_found", f"no file {path}")


def test_a_policy_that_denies(transit: Custodian, kv: Custodian, bao: OpenBao) -> None:
    kept, token = transit.set(), bao.token('path "transit/keys/avault" { capabilities = ["read"] }')
    for custodian in (transit, kv):
        keep(Path(custodian.settings["token-file"]), token)
    for action, place in (("get", "decrypt"), ("probe", "decrypt"), ("set", "encrypt")):
        says = f"the policy of {bao.url} does not let us use transit/{place}/avault"
        failed(transit.ask(action, kept=kept, secret=SECRET), "denied", says)
    for action in ("get", "probe", "set", "delete"):
        failed(kv.ask(action, kept="1", secret=SECRET), "denied", f"the policy of {bao.url} does not let us use {where(kv)}")


def test_a_token_that_cannot_look_at_itself(transit: Custodian, bao: OpenBao) -> None:
    keep(Path(transit.settings["token-file"]), bao.token(TRANSIT, no_default_policy=True))
    assert transit.ask("get", kept=transit.set())["value"] == SECRET


def test_a_token_is_renewed_when_it_gets_short(transit: Custodian, bao: OpenBao) -> None:
    def life() -> int:
        return int(bao.need("GET", "auth/token/lookup-self", token=token)["data"]["ttl"])

    token = bao.token(TRANSIT, ttl="1000s")
    bao.need("POST", "auth/token/renew-self", {"increment": "300s"}, token=token)
    assert life() <= 300
    kept = transit.set()
    keep(Path(transit.settings["token-file"]), token)
    assert transit.ask("get", kept=kept)["value"] == SECRET
    assert life() > 900, "less than half was left"
    bao.need("POST", "auth/token/renew-self", {"increment": "700s"}, token=token)
    assert transit.ask("get", kept=kept)["value"] == SECRET
    assert life() <= 700, "more than half was left"
    last = bao.token(TRANSIT, ttl="1000s", renewable=False)
    keep(Path(transit.settings["token-file"]), last)
    assert transit.ask("get", kept=kept)["value"] == SECRET


def count_tokens(bao: OpenBao) -> int:
    return len(bao.need("LIST", "auth/token/accessors")["data"]["keys"])


def test_approle(bao: OpenBao, tmp_path: Path) -> None:
    bao("POST", "sys/auth/machines", {"type": "approle"})
    bao.need("PUT", "sys/policies/acl/avault", {"policy": TRANSIT})
    bao.need("POST", "auth/machines/role/web", {"token_policies": ["avault"], "token_ttl": "5m"})
    role = bao.need("GET", "auth/machines/role/web/role-id")["data"]["role_id"]
    made = bao.need("POST", "auth/machines/role/web/secret-id", {})["data"]
    told = {"login": "approle", "login_mount": "machines", "role_id": role}
    file = keep(tmp_path / "secret-id", made["secret_id"])
    custodian = Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), secret_id_file=file, **told)
    before = count_tokens(bao)
    kept = custodian.set()
    assert custodian.ask("get", kept=kept)["value"] == SECRET
    assert custodian.ask("probe", kept=kept)["outcome"] == "ok"
    assert count_tokens(bao) == before, "each was revoked"
    refused = f"{bao.url} refuses the login at auth/machines/login"
    bao.need("POST", "auth/machines/role/web/secret-id-accessor/destroy", {"secret_id_accessor": made["secret_id_accessor"]})
    failed(custodian.ask("get", kept=kept), "denied", refused)
    failed(custodian.ask("get", kept=kept, settings={"role-id": "wrong"}), "denied", refused)
    nowhere = f"{bao.url} refuses the login at auth/nowhere/login"  # it does not say what is mounted
    failed(custodian.ask("get", kept=kept, settings={"login-mount": "nowhere"}), "denied", nowhere)
    bao.need("POST", "auth/machines/role/web", {"bind_secret_id": False, "secret_id_bound_cidrs": "127.0.0.0/8,::1/128"})
    alone = Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), **told)
    assert alone.ask("get", kept=kept)["value"] == SECRET, "with the role id alone"


class Signer:
    """Who signs JWTs."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self.key = ec.generate_private_key(ec.SECP256R1())

    def public(self) -> str:
        from cryptography.hazmat.primitives import serialization

        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()

    def sign(self, **claims: Any) -> str:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        def part(data: bytes) -> str:
            return base64.urlsafe_b64encode(data).decode().rstrip("=")

        now = int(time.time())
        body = {"iat": now, "nbf": now - 60, "exp": now + 600, **claims}
        text = part(b'{"alg":"ES256","typ":"JWT"}') + "." + part(json.dumps(body).encode())
        pair = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return text + "." + part(b"".join(number.to_bytes(32, "big") for number in pair))


def test_jwt(bao: OpenBao, tmp_path: Path) -> None:
    signer, role = (
        Signer(),
        {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["avault"], "token_policies": ["avault"]},
    )
    bao("POST", "sys/auth/jwt", {"type": "jwt"})
    bao.need("PUT", "sys/policies/acl/avault", {"policy": TRANSIT})
    bao.need("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [signer.public()]})
    bao.need("POST", "auth/jwt/role/web", role)
    file = tmp_path / "jwt"
    keep(file, signer.sign(sub="web", aud="avault"))
    file.chmod(0o644)  # as others write them
    custodian = Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), login="jwt", role="web", jwt_file="jwt")
    kept = custodian.set()
    assert custodian.ask("get", kept=kept)["value"] == SECRET
    refused = f"{bao.url} refuses the login at auth/jwt/login"
    wrong = [
        signer.sign(sub="web", aud="other"),
        signer.sign(sub="web", aud="avault", exp=1),
        Signer().sign(sub="web", aud="avault"),
    ]
    for text in (*wrong, "not.a.jwt"):
        keep(file, text)
        failed(custodian.ask("get", kept=kept), "denied", refused)


def test_kubernetes(bao: OpenBao, tmp_path: Path) -> None:
    """A real OpenBao asks a stub of Kubernetes whether the service account's token is good."""
    good = Signer().sign(sub="system:serviceaccount:agents:web", **{
        "iss": "https://kubernetes.default.svc", "aud": ["https://kubernetes.default.svc"],
        "kubernetes.io": {"namespace": "agents", "serviceaccount": {"name": "web", "uid": "1"}},
    })  # fmt: skip
    user = {"username": "system:serviceaccount:agents:web", "uid": "1", "groups": ["system:serviceaccounts"]}

    def review(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        token = json.loads(body)["spec"]["token"]
        good_one = {"authenticated": True, "user": user, "audiences": ["https://kubernetes.default.svc"]}
        status = good_one if token == good else {"authenticated": False, "error": "no"}
        found = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
        return 201, {"Content-Type": "application/json"}, json.dumps(found).encode()

    bao("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
    bao.need("PUT", "sys/policies/acl/avault", {"policy": TRANSIT})
    file = keep(tmp_path / "service-account", good)
    with stub(review) as kubernetes:
        settings = {"kubernetes_host": kubernetes, "token_reviewer_jwt": good, "disable_local_ca_jwt": True}
        settings["kubernetes_ca_cert"] = bao.ca.read_text()
        bao.need("POST", "auth/kubernetes/config", settings)
        bound = {"bound_service_account_names": ["web"], "bound_service_account_namespaces": ["agents"]}
        bao.need("POST", "auth/kubernetes/role/web", {**bound, "token_policies": ["avault"]})
        custodian = Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), login="kubernetes", role="web", jwt_file=file)
        kept = custodian.set()
        assert custodian.ask("get", kept=kept)["value"] == SECRET
        refused = f"{bao.url} refuses the login at auth/kubernetes/login"
        keep(Path(file), Signer().sign(sub="system:serviceaccount:agents:web"))
        failed(custodian.ask("get", kept=kept), "denied", refused)
        keep(Path(file), good)
        failed(custodian.ask("get", kept=kept, settings={"role": "db"}), "denied", refused)
    answer = custodian.ask("get", kept=kept)
    assert answer["outcome"] in ("denied", "unavailable"), "Kubernetes is gone"


def test_a_namespace(bao: OpenBao, tmp_path: Path) -> None:
    bao("POST", "sys/namespaces/team", {})
    bao("POST", "sys/mounts/transit", {"type": "transit"}, Namespace="team")
    bao.need("POST", "transit/keys/avault", {}, Namespace="team")
    token = keep(tmp_path / "token", bao.root)
    custodian = Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), token_file=token, namespace="team/")
    kept = custodian.set()
    assert custodian.ask("get", kept=kept)["value"] == SECRET
    assert custodian.ask("probe", kept=kept)["outcome"] == "ok"
    assert custodian.ask("get", kept=kept, settings={"namespace": ""})["outcome"] == "tampered", "another's key"
    nowhere = f"{bao.url} has nothing at transit/decrypt/avault"
    failed(custodian.ask("get", kept=kept, settings={"namespace": "nobody"}), "not_found", nowhere)


# The way there


def test_sealed(tmp_path: Path) -> None:
    """Not initialised, sealed, unsealed, sealed again."""
    with OpenBao(tmp_path) as bao:
        says = f"{bao.url} is sealed"
        custodian = Custodian(tmp_path, address=bao.url, ca_file=str(bao.ca), token_file=keep(tmp_path / "token", "s.none"))
        failed(custodian.ask("get", kept="x"), "unavailable", says)
        bao.set_up()
        keep(tmp_path / "token", bao.root)
        kept = custodian.set()
        bao.seal()
        for action in ("get", "probe", "set"):
            failed(custodian.ask(action, kept=kept, secret=SECRET), "unavailable", says)
        bao.unseal()
        assert custodian.ask("get", kept=kept)["value"] == SECRET
    failed(custodian.ask("get", kept=kept), "unavailable", f"{bao.url} cannot be asked: Connection refused")


def test_a_certificate_that_is_not_trusted(transit: Custodian, bao: OpenBao, tmp_path: Path) -> None:
    kept, other = transit.set(), str(make_certificate(tmp_path, "other"))
    for settings in ({"ca-file": other}, {"ca-file": ""}):  # another's, and the system's
        answer = transit.ask("get", kept=kept, settings=settings)
        assert answer["outcome"] == "unavailable"
        assert answer["detail"].startswith(f"{bao.url} cannot be asked: its certificate is not trusted: self")
    port = bao.url.rpartition(":")[2]
    named = transit.ask("get", kept=kept, settings={"address": f"https://127.0.0.2:{port}"})
    assert named["outcome"] == "unavailable", "refused, or of another name"


def test_plain_http_where_tls_is_spoken(transit: Custodian, bao: OpenBao) -> None:
    url = bao.url.replace("https", "http")
    answer = transit.ask("get", kept=transit.set(), settings={"address": url})
    failed(answer, "error", f"what answers at {url} is no OpenBao, and no Vault")
    url = bao.plain.replace("http", "https")
    assert transit.ask("get", kept="x", settings={"address": url})["outcome"] == "unavailable"


def test_nobody_is_there(transit: Custodian) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for action in ("get", "probe", "set"):
        answer = transit.ask(action, kept="x", secret=SECRET, settings={"address": url})
        failed(answer, "unavailable", f"{url} cannot be asked: Connection refused")
    answer = transit.ask("get", kept="x", settings={"address": "https://nowhere.invalid"})
    assert answer["outcome"] == "unavailable", answer


@contextlib.contextmanager
def deaf(drip: bytes = b"") -> Iterator[str]:
    """A server that takes connections and says nothing; or `drip` again and again, a byte at a time."""
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                clients.append(client)
                threading.Thread(target=speak, args=(client,)).start()

    def speak(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for byte in drip * 10_000:
                client.sendall(bytes([byte]))
                if over.wait(0.1):
                    return

    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        worker = threading.Thread(target=serve)
        worker.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(server.getsockname()).close()
        worker.join()
    for client in clients:
        client.close()


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_server_that_hangs(drip: bytes, transit: Custodian) -> None:
    with deaf(drip) as url:
        start = time.monotonic()
        failed(transit.ask("get", kept="x", settings={"address": url}, limit=10), "unavailable", f"{url} does not answer in 8 s")
        assert time.monotonic() - start < 40


Serve = Callable[[str, str, bytes], tuple[int, dict[str, str], bytes]]


@contextlib.contextmanager
def stub(serve: Serve) -> Iterator[str]:
    """A server that answers as it is told."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, data = serve(self.command, self.path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        worker = threading.Thread(target=server.serve_forever)
        worker.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            worker.join()


@contextlib.contextmanager
def forward(bao: OpenBao, before: Callable[[str, str], None]) -> Iterator[str]:
    """A server that hands each request on to the real one, as root, after something else."""

    def serve(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        before(method, path)
        status, found = bao(method, path.removeprefix("/v1/"), json.loads(body) if body else None)
        return status, {}, json.dumps(found).encode()

    with stub(serve) as url:
        yield url


def test_nobody_goes_where_a_redirect_leads(transit: Custodian, bao: OpenBao) -> None:
    asked: list[str] = []

    def other(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        asked.append(path)
        return 200, {}, b"{}"

    with stub(other) as elsewhere:
        for status in (301, 302, 307, 308):
            with stub(lambda *_, status=status: (status, {"Location": elsewhere + "/v1/x"}, b"")) as url:  # type: ignore[misc]
                answer = transit.ask_here("get", url)
                failed(answer, "unavailable", f"{url} sends us to another address")
    assert not asked


@pytest.mark.parametrize(
    ("status", "body", "outcome", "says"),
    [
        (500, b'{"errors":["internal"]}', "unavailable", "{} does not work: status 500"),
        (502, b"<html>", "unavailable", "{} does not work: status 502"),
        (503, b'{"errors":["x"]}', "unavailable", "{} does not work: status 503"),
        (429, b'{"errors":["quota"]}', "unavailable", "{} is asked too often"),
        (200, b"<html>", "error", "what answers at {} is no OpenBao, and no Vault"),
        (200, b"[1]", "error", "what answers at {} is no OpenBao, and no Vault"),
        (200, b"[" * 100_000, "error", "what answers at {} is no OpenBao, and no Vault"),
        (200, b'{"data": 5}', "error", "what answers at {} is no OpenBao, and no Vault"),
        (200, b'{"data": {"plaintext": "/w=="}}', "error", "what answers at {} is no OpenBao, and no Vault"),
        (200, b" " * 2_000_000, "error", "the answer of {} is too large"),
        (418, b'{"errors": 7}', "error", "{} refuses what is asked at transit/decrypt/avault: status 418"),
        (204, b"", "error", "what answers at {} is no OpenBao, and no Vault"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else str(value),
)
def test_odd_answers(status: int, body: bytes, outcome: str, says: str, transit: Custodian) -> None:
    with stub(lambda *_: (status, {}, body)) as url:
        failed(transit.ask_here("get", url), outcome, says.format(url))


def test_a_server_that_does_not_bind(transit: Custodian) -> None:
    """An old one leaves out what it does not know, and decrypts for whoever asks."""

    def old(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        data = {"ciphertext": "vault:v1:x"} if "/encrypt/" in path else {"plaintext": base64.b64encode(SECRET.encode()).decode()}
        return 200, {}, json.dumps({"data": data if method == "POST" else {}}).encode()

    with stub(old) as url:
        answer = transit.ask_here("set", url)
        failed(answer, "error", f"{url} does not bind what it wraps")


@pytest.mark.parametrize("engine", ["transit", "kv"])
def test_a_server_that_does_not_keep(engine: str, transit: Custodian, kv: Custodian) -> None:
    def forgetful(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        held = {"ciphertext": "x", "plaintext": "eA==", "version": 1, "data": {"bound": BOUND, "unlock_key": "x"}}
        return 200, {}, json.dumps({"data": {} if "sys/" in path or "auth/" in path else held}).encode()

    custodian, does = {"transit": (transit, "give back what was wrapped"), "kv": (kv, "keep what was written")}[engine]
    with stub(forgetful) as url:
        failed(custodian.ask_here("set", url), "error", f"{url} did not {does}")


def test_a_login_that_cannot_be_ended(transit: Custodian) -> None:
    """The answer is there all the same, before the time is over."""
    over = threading.Event()

    def hang(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("revoke-self"):
            over.wait(60)
        plain = base64.b64encode(SECRET.encode()).decode()
        return 200, {}, json.dumps({"auth": {"client_token": "s.x"}, "data": {"plaintext": plain}}).encode()

    login = {"login": "approle", "role-id": "x", "login-mount": "approle"}
    with stub(hang) as url:
        transit.settings |= login
        assert transit.ask_here("get", url) == {"outcome": "ok", "value": SECRET}
        over.set()


def test_no_token_for_a_login(transit: Custodian) -> None:
    """As where a second factor is wanted."""
    transit.settings |= {"login": "approle", "role-id": "x", "login-mount": "approle"}
    for auth in (None, {}, {"client_token": ""}, {"client_token": "a\r\nX: y"}, {"mfa_requirement": {}}):
        with stub(lambda *_, auth=auth: (200, {}, json.dumps({"auth": auth}).encode())) as url:  # type: ignore[misc]
            failed(transit.ask_here("get", url), "denied", f"{url} gives no token for the login at auth/approle/login")


def test_what_the_server_says_is_not_repeated(transit: Custodian) -> None:
    """It may carry what was sent: here, all of it."""
    token = Path(transit.settings["token-file"]).read_text().strip()

    def echo(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return 403 if "auth/" in path else 400, {}, json.dumps({"errors": [token, body.decode()]}).encode()

    with stub(echo) as url:
        for action in ("get", "set", "probe"):
            answer = transit.ask_here(action, url)
            assert answer["outcome"] in ("error", "tampered") and token not in str(answer) and encoded(SECRET) not in str(answer)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# With a vault


@pytest.mark.parametrize("engine", ["transit", "kv"])
def test_openbao_opens_a_vault(engine: str, bao: OpenBao, machine: Machine, relay: Relay, canary: Canary, tmp_path: Path) -> None:
    """After a restart nobody is asked; where the server hangs up, the phone is; taken away, the server has nothing."""
    token = keep(tmp_path / "token", bao.token({"transit": TRANSIT, "kv": KV}[engine]))
    with peers.rogue([relay.url]) as phone:
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
        machine("set", "openai/API_KEY", input=canary.value)
        told = (f"address={bao.url}", f"engine={engine}", f"token_file={token}", f"ca_file={bao.ca}")
        assert (
            "openbao opens this vault from now on, and asks nobody" in machine("custody", "add", "openbao", *told, "--yes").stderr
        )
        asked = machine.reboot(phone)
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
        machine("lock")
        keep(Path(token), "s.revoked")
        machine("unlock")
        assert len(phone.requests("nip44_decrypt")) == asked + 1
        answer = machine("custody", "test", "openbao", code=5)
        assert f"{bao.url} does not take the token in {token}" in answer.stderr
        keep(Path(token), bao.root)
        machine("custody", "remove", "openbao", "--yes")
        if engine == "kv":
            kept = bao("LIST", "secret/metadata/avault")[1].get("data", {}).get("keys", [])
            assert not [key for key in kept if key.startswith("avault1-")]
