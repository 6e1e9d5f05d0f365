"""A private key as JSON (JWK): taken where it is one that signs, and its own; else refused, with why."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_signing import Office, encode, office

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

from ssh_data import sshsig

made = avault.load_extra("signing", "sign")
__all__ = ["office"]
ED25519 = {  # RFC 8037, appendix A.1
    "kty": "OKP",
    "crv": "Ed25519",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}
P256 = {  # RFC 7515, appendix A.3
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
}
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (SEC 2, 2.4.2)


def plain(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=")


def url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def take(said: Any) -> str:
    return str(made.take_key((said if isinstance(said, str) else json.dumps(said)).encode(), None))


def test_the_keys_of_the_rfcs_are_taken() -> None:
    """And kept as SSH has them; what a JWK says besides changes nothing."""
    more = {"kid": "one", "use": "sig", "key_ops": ["sign", "verify"], "ext": True, "unknown": [1]}
    known = avault.read_signing_key(take({**ED25519, **more, "alg": "EdDSA"}))
    assert known and known.kind == "ed25519" and known.blob.endswith(plain(ED25519["x"]))
    known = avault.read_signing_key(take({**P256, **more, "alg": "ES256"}))
    assert known and known.kind == "ecdsa-p256" and known.blob.endswith(plain(P256["x"]) + plain(P256["y"]))
    spaced = avault.read_signing_key(take(f"\n  {json.dumps(ED25519, indent=4)}\n"))
    assert spaced and spaced.blob.endswith(plain(ED25519["x"]))


async def test_one_signs_files_and_is_given_to_nobody(office: Office) -> None:
    file = {"file": json.dumps(P256), "passphrase": None}
    answer = await office.serve("key", file, action="import", group="ops", key="JWK", namespaces=["file"])
    assert answer["kind"] == "ecdsa-p256" and answer["guard"]["words"].startswith("only ssh, ")
    public = base64.b64decode(answer["public"].split()[1])
    payload = sshsig(b"file", b"a release")
    signature = await office.sign(payload, "sshsig", group="ops", key="JWK")
    assert made.verify(public, signature, payload)
    with pytest.raises(avault.Denied):
        await office.serve("get", group="ops", key="JWK", format="text")
    with pytest.raises(avault.Usage, match="as is ssh or sshsig"):  # of a JWT there is no more known than its digest
        await office.serve("sign", **{"as": "jwt", "payload": encode(b"a.b"), "group": "ops", "key": "JWK"})


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({**ED25519, "crv": "X25519"}, "a JWK of another kind"),
        ({**P256, "crv": "secp256k1"}, "a JWK of another kind"),
        ({**P256, "crv": ["P-256"]}, "a JWK of another kind"),
        ({"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"}, "a JWK of another kind"),
        ({"kty": "oct", "k": "AQAB"}, "a JWK of another kind"),
        ({**ED25519, "kty": "EC"}, "a JWK of another kind"),
        ({name: each for name, each in P256.items() if name != "d"}, "a public key"),
        ({"keys": [P256]}, "this JSON is no JWK"),
        ([P256], "this JSON is no JWK"),
        ([*range(64)], "this JSON is no JWK"),
        ({"version": 3, "crypto": {}}, "this JSON is no JWK"),
        ({**P256, "use": "enc"}, "does not sign"),
        ({**P256, "alg": "ECDH-ES"}, "does not sign"),
        ({**P256, "alg": ["ES256"]}, "does not sign"),
        ({**P256, "key_ops": ["deriveBits"]}, "does not sign"),
        ({**P256, "key_ops": "sign"}, "does not sign"),
        ({**ED25519, "x": url(bytes(32))}, "another key's"),
        ({**P256, "x": P256["y"], "y": P256["x"]}, "another key's"),
        ({**P256, "d": ED25519["d"]}, "another key's"),
        ({**P256, "d": url(bytes(32))}, "none of its curve's"),
        ({**P256, "d": url(ORDER.to_bytes(32, "big"))}, "none of its curve's"),
        ({**P256, "d": P256["d"] + "="}, "d is not 32 bytes"),
        ({**P256, "d": P256["d"].replace("-", "+")}, "d is not 32 bytes"),
        ({**P256, "d": url(plain(P256["d"]) + b"\0")}, "d is not 32 bytes"),
        ({**P256, "d": 7}, "d is not 32 bytes"),
        ({**P256, "y": None}, "y is not 32 bytes"),
        ({**ED25519, "x": ED25519["x"][:-1] + "p"}, "x is not 32 bytes"),
        (json.dumps(ED25519).replace("}", ', "d": "AAAA"}'), "no private key"),
        ("{" * 9_000, "no private key"),
        ("{}", "this JSON is no JWK"),
    ],
)  # fmt: skip
def test_what_is_no_key_that_signs_is_refused(said: Any, says: str) -> None:
    with pytest.raises(avault.Usage, match=says) as refused:
        take(said)
    told = f"{refused.value} {refused.value.hint}"
    assert not any(each["d"] in told for each in (ED25519, P256)), "an error has nothing of a key"


@given(st.sampled_from([ED25519, P256]), st.data())
def test_a_changed_one_is_that_or_is_refused(said: dict[str, str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(said)))
    at = data.draw(st.integers(0, len(said[name]) - 1))
    changed = {**said, name: said[name][:at] + data.draw(st.characters(codec="ascii")) + said[name][at + 1 :]}
    if changed != said:
        with pytest.raises(avault.Usage):
            take(changed)


@given(st.text(max_size=200))
def test_no_other_text_is_one(text: str) -> None:
    with pytest.raises(avault.AvaultError):
        take("{" + text)
