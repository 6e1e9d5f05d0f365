"""OpenSSH's form of a private key, without a passphrase (PROTOCOL.key): read strictly and whole.

What is another size than a key's is none: no program has to do the arithmetic to find that out.
"""

from __future__ import annotations

from avault.ssh_wire import SshReader, decode_base64

OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
OPENSSH_MAGIC = b"openssh-key-v1\0"
LONGEST_KEY = 16_384  # characters; RSA of 8192 bits takes half of that
LEAST_RSA, MOST_RSA = 2048, 8192  # bits
POINTS = {"nistp256": 65, "nistp384": 97, "nistp521": 133}  # bytes of one, not compressed


def read_armor(value: str) -> SshReader:
    """What stands in a file of OpenSSH's form, behind its name; raises ValueError for others."""
    text, (begin, end) = value.strip(), OPENSSH
    if text.startswith(begin) and text.endswith(end):
        body = "".join(text[len(begin) : -len(end)].split())
        reader = SshReader(decode_base64(body, LONGEST_KEY))
        if reader.take(len(OPENSSH_MAGIC)) == OPENSSH_MAGIC:
            return reader
    raise ValueError("not OpenSSH's form")


def read_public_half(value: str) -> bytes:
    """The public key that a private one says is its own; raises ValueError where it is no key.

    That it is, shows where the private half is used.
    """
    if len(value.strip()) > LONGEST_KEY:
        raise ValueError("not OpenSSH's form")
    reader = read_armor(value)
    cipher, derivation, options = reader.text(), reader.text(), reader.string()
    if (cipher, derivation, options, reader.number()) != ("none", "none", b"", 1):
        raise ValueError("it has a passphrase, or is more than one")
    public, private = reader.string(), reader.string()
    reader.end()
    check_public_key(public)
    check_private_half(SshReader(private), public)
    return public


def check_public_key(public: bytes) -> None:
    """Raise ValueError where it is no public key of a kind that signs (RFC 4253, 5656, 8709)."""
    reader = SshReader(public)
    named = reader.text()
    kind, _, curve = named.rpartition("-")
    if named == "ssh-ed25519":
        is_sound = len(reader.string()) == 32
    elif named == "ssh-rsa":
        exponent, modulus = reader.mpint(), reader.mpint()
        is_sound = LEAST_RSA <= modulus.bit_length() <= MOST_RSA and exponent.bit_length() <= 64
    elif kind == "ecdsa-sha2" and curve in POINTS:
        is_named = reader.text() == curve
        point = reader.string()
        is_sound = is_named and len(point) == POINTS[curve] and point[0] == 4
    else:
        is_sound = False
    reader.end()
    if not is_sound:
        raise ValueError("not a key that signs")


def check_private_half(reader: SshReader, public: bytes) -> None:
    """Raise ValueError where it is not one of the same kind, size and public half."""
    of = SshReader(public)
    if reader.number() != reader.number() or reader.string() != of.string():
        raise ValueError("not a key that signs")
    named = SshReader(public).text()
    if named == "ssh-rsa":
        exponent, modulus = of.mpint(), of.mpint()
        is_same = (reader.mpint(), reader.mpint()) == (modulus, exponent)
        is_sound = all(reader.mpint() < modulus for _ in range(4))  # d, iqmp, p, q
    elif named == "ssh-ed25519":
        point = of.string()
        is_same = reader.string() == point
        seed = reader.string()
        is_sound = len(seed) == 64 and seed[32:] == point
    else:
        curve, point = of.string(), of.string()
        is_same = (reader.string(), reader.string()) == (curve, point)
        is_sound = reader.mpint().bit_length() <= 8 * len(point) // 2
    reader.string()  # a comment
    rest = reader.data[reader.at :]
    if not (is_same and is_sound and rest == bytes(range(1, len(rest) + 1))):
        raise ValueError("its halves are not of one key")
