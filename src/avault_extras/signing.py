"""Keys that sign, by the package cryptography: made, taken in, and used.

It runs in the process that signs, and decides nothing: what is to be signed was let through before
(see daemon/signing in src/avault).
"""

from __future__ import annotations

import warnings
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

import avault
from avault import LEAST_RSA, MOST_RSA, SshReader, Usage, pack_signature, ssh_string

CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "nistp384": (ec.SECP384R1(), hashes.SHA384()),
    "nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
RSA_HASHES: dict[str, hashes.HashAlgorithm] = {
    "rsa-sha2-256": hashes.SHA256(),
    "rsa-sha2-512": hashes.SHA512(),
}
MADE_RSA = 3072  # bits
SHA2_512 = 4  # SSH_AGENT_RSA_SHA2_512 of the agent protocol

INSTEAD = {  # what a file begins with that is not taken, and what to do
    b"PuTTY-User-Key-File": ("a key of PuTTY's", "puttygen KEY.ppk -O private-openssh -o KEY"),
    b"-----BEGIN DSA": (
        "a DSA key, which nothing accepts any more",
        "avault key generate ed25519 GROUP/KEY",
    ),
    b"-----BEGIN DH": ("no key that signs", "name the file of a private key"),
    b"ssh-": ("a public key", "name the file of the private one, without .pub"),
    b"ecdsa-": ("a public key", "name the file of the private one, without .pub"),
    b"sk-": (
        "the public key of a security key",
        "that one signs by itself: keep it in ssh's own agent",
    ),
}


def make_key(kind: str) -> str:
    """A new key of a kind, as it is kept; raises Usage."""
    makers: dict[str, Any] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, MADE_RSA),
    }
    if kind not in makers:
        raise Usage("no such kind of key", f"one of: {', '.join(makers)}")
    return keep(makers[kind]())


def keep(key: Any) -> str:
    """A private key as it is kept: OpenSSH's form, without a passphrase; raises Usage."""
    if isinstance(key, rsa.RSAPrivateKey):
        if not LEAST_RSA <= key.key_size <= MOST_RSA:
            raise Usage(f"an RSA key of {key.key_size} bits", f"it needs {LEAST_RSA} to {MOST_RSA}")
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in [curve.name for curve, _ in CURVES.values()]:
            raise Usage("SSH has no keys on this curve", "it has P-256, P-384 and P-521")
    elif not isinstance(key, ed25519.Ed25519PrivateKey):
        raise Usage("no key that SSH signs with", "one of: ed25519, ecdsa, rsa")
    form = serialization.PrivateFormat.OpenSSH
    clear = serialization.NoEncryption()
    return str(key.private_bytes(serialization.Encoding.PEM, form, clear).decode())


def take_key(data: bytes, passphrase: str | None) -> str:
    """The key in a file, as it is kept. Raises Usage; NeedsPassphrase where it is asked for one."""
    avault.check_key_file(data)
    for begins, (what, instead) in INSTEAD.items():
        if data.lstrip().startswith(begins):
            raise Usage(f"that is {what}", instead)
    if data.lstrip().startswith((b"{", b"[")):
        return keep(avault.load_extra("jwk_keys", "sign").take_jwk(data))
    is_openssh = b"BEGIN OPENSSH" in data
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    secret = passphrase.encode() if passphrase and not is_openssh else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # numbers of whatever length are held against each other only once they are short
            key = load(data, secret, unsafe_skip_rsa_key_validation=True)
            value = keep(key)
            if isinstance(key, rsa.RSAPrivateKey):
                key.private_numbers().private_key()
    except TypeError:  # that is how cryptography says so
        if is_openssh:  # it would need bcrypt, and with that another package here
            raise Usage(
                "a key with a passphrase, in OpenSSH's own form, is not opened here",
                "take the passphrase off a copy: ssh-keygen -p -f COPY",
            ) from None
        if secret:
            return str(take_key(data, None))
        raise avault.NeedsPassphrase from None
    except UnsupportedAlgorithm as error:
        if b"sk-" in data or "sk-" in str(error):
            raise Usage(
                "a key in a security key signs by itself", "keep it in ssh's own agent"
            ) from None
        raise Usage("no key that SSH signs with", "one of: ed25519, ecdsa, rsa") from None
    except ValueError as error:
        if secret and (
            "checksum" in str(error) or "password" in str(error).lower() or "padding" in str(error)
        ):
            raise avault.Denied("the passphrase is not the key's", "try again") from None
        raise Usage("that is no private key", "as ssh-keygen or openssl writes one") from None
    if is_openssh:
        check_halves(data.decode(errors="replace"), key)
    return value


def check_halves(text: str, key: Any) -> None:
    """Raise Usage where the public half that a file says is not that of the key in it."""
    begin, end = avault.OPENSSH
    known = avault.read_signing_key(text[text.find(begin) : text.rfind(end) + len(end)])
    if not known:
        raise Usage("that is no private key", "as ssh-keygen or openssl writes one")
    if derive_public(key) != known.blob:
        raise Usage("its public half is another key's", "make a new one: avault key generate")


class Keys:
    """The keys that this process was given, loaded: each by what its private value is named."""

    def __init__(self) -> None:
        self.loaded: dict[str, tuple[Any, bytes]] = {}  # each with its public half

    def take(self, value: str) -> None:
        """Have one, as it is kept; raises Usage, also where its public half is not its own."""
        known = avault.read_signing_key(value)
        try:
            key = serialization.load_ssh_private_key(value.encode(), None) if known else None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not known or not key:
            raise Usage("that is no key that signs", "see which there are: avault list")
        public = derive_public(key)
        if public != known.blob:
            raise Usage("that has the public half of another key", "so it signs nothing: delete it")
        self.loaded[known.identity] = key, public

    def forget(self, identities: list[str]) -> None:
        """Have these no more."""
        for each in identities:
            self.loaded.pop(each, None)

    def public(self, identity: str) -> bytes:
        """The public half of one, by its private one; raises Usage."""
        if identity not in self.loaded:
            raise Usage("there is no such key here", "try again")
        return self.loaded[identity][1]

    def sign(self, identity: str, payload: bytes, flags: int) -> bytes:
        """A signature by one of them, as SSH has it; never by SHA-1."""
        key, public = self.loaded[identity]
        named = SshReader(public).text()
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return bytes(pack_signature(named, key.sign(payload)))
        if isinstance(key, rsa.RSAPrivateKey):
            algorithm = "rsa-sha2-512" if flags & SHA2_512 else "rsa-sha2-256"
            made = key.sign(payload, padding.PKCS1v15(), RSA_HASHES[algorithm])
            return bytes(pack_signature(algorithm, made))
        _, digest = CURVES[named.removeprefix("ecdsa-sha2-")]
        r, s = map(avault.pack_number, decode_dss_signature(key.sign(payload, ec.ECDSA(digest))))
        return bytes(pack_signature(named, ssh_string(r) + ssh_string(s)))


def derive_public(key: Any) -> bytes:
    """The public half of a private key, as SSH has it."""
    form = serialization.PublicFormat.OpenSSH
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, form)
    return bytes(avault.decode_base64(line.split()[1].decode(), avault.LONGEST_BIND))


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether a signature is a host key's over the data; else that it is not."""
    try:
        reader = SshReader(signature)
        algorithm, made = reader.text(), reader.string()
        reader.end()
        key = serialization.load_ssh_public_key(
            b"%s %s" % (SshReader(public).string(), avault.encode_base64(public).encode())
        )
        if not avault.fits_key(algorithm, public):
            return False
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(made, data)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(made, data, padding.PKCS1v15(), RSA_HASHES[algorithm])
        elif isinstance(key, ec.EllipticCurvePublicKey):
            numbers = SshReader(made)
            r, s = (int.from_bytes(numbers.string(), "big", signed=True) for _ in range(2))
            numbers.end()
            key.verify(
                encode_dss_signature(r, s),
                data,
                ec.ECDSA(CURVES[algorithm.removeprefix("ecdsa-sha2-")][1]),
            )
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm, KeyError):
        return False
    return True
