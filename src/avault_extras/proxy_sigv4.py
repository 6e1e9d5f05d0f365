"""Requests that are signed for AWS (Signature Version 4) with placeholders, and signed anew.

The caller signs with placeholders in the place of its key's id and of its secret. Whose placeholder
it was, is found by making that signature again: so what is signed is read here as it was there.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import posixpath
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_plus

from avault import ISSUERS as ISSUERS_OF_KEYS
from avault import Denied

if TYPE_CHECKING:
    from collections.abc import Iterator

    Fields = tuple[tuple[bytes, bytes], ...]

ALGORITHM = b"AWS4-HMAC-SHA256"
PAYLOAD = "x-amz-content-sha256"  # the header that says a body's hash, or that it is not signed
SESSION = "x-amz-security-token"  # the header of credentials for a time
LONGEST_SIGNED = 8 << 20  # bytes of a body that is held, as its hash is in no header
FORM = re.compile(
    rb"AWS4-HMAC-SHA256 +Credential=([^\s/,=]{1,4096})/([0-9]{8})/([a-z0-9-]{1,40})"
    rb"/([a-z0-9-]{1,60})/aws4_request, ?SignedHeaders=([a-z0-9;_.-]{1,2000})"
    rb", ?Signature=([0-9a-f]{64})"
)
UNRESERVED = "-_.~"
HASHES = re.compile("[0-9a-f]{64}|UNSIGNED-PAYLOAD|STREAMING-UNSIGNED-PAYLOAD-TRAILER")
PRESIGNED = "x-amz-"  # how the names begin in the query that make a signature one for days
ISSUERS = ("s3express", *ISSUERS_OF_KEYS)  # services whose answers may be keys, good without us
OFF = 15 * 60  # seconds that a date may be off: for so long AWS takes a signature


class SignedRequest:
    """A request as it came: `method`, `target` and `fields`, with its signature taken apart."""

    def __init__(self, method: str, target: bytes, fields: Fields, found: re.Match[bytes]) -> None:
        self.method, self.target, self.fields = method, target, fields
        access, date, region, service, names, signature = (each.decode() for each in found.groups())
        self.access, self.signature = access, signature
        self.scope = [date, region, service, "aws4_request"]
        self.names = names.split(";")
        if service in ISSUERS:
            said = f"no key signs for {service} here, which gives out credentials"
            raise Denied(said, "they would be good without us")
        _, _, query = target.decode("latin-1").partition("?")
        parts = (unquote_plus(unquote_plus(each)).strip() for each in re.split("[&;]", query))
        if any(each.lower().startswith(PRESIGNED) for each in parts):
            raise Denied(
                "the query of a signed request says X-Amz-…, as that of a presigned address does",
                "for days it would be good without us; sign in the header alone",
            )
        times = read_field(fields, "x-amz-date")
        if len(times) != 1 or not re.fullmatch(date + "T[0-9]{6}Z", times[0]):
            raise Denied(
                "the signed request says no X-Amz-Date, or more than one, or of another day"
            )
        if "host" not in self.names or self.names != sorted({*self.names}):
            raise Denied("the signature is not over the request's host", "sign it, as AWS asks")
        self.time = times[0]
        if abs(read_time(self.time) - time.time()) > OFF:
            raise Denied("the signed request is of another time", "is this machine's clock right?")
        hashes = read_field(fields, PAYLOAD)
        if len(hashes) > 1:
            raise Denied("the signed request says two hashes of its body")
        self.payload = hashes[0] if hashes else None
        for each in ("x-amz-date", *([PAYLOAD] if hashes else [])):
            if each not in self.names:
                raise Denied(f"the signature is not over {each}", "sign it, as AWS asks")
        if self.payload and self.payload.startswith(
            ("STREAMING-AWS4-HMAC", "STREAMING-AWS4-ECDSA")
        ):
            raise Denied(
                "a body in which each piece is signed cannot be signed anew",
                "have the client sign the whole body, or none of it (UNSIGNED-PAYLOAD)",
            )
        if self.payload is not None and not HASHES.fullmatch(self.payload):
            raise Denied(f"what the header {PAYLOAD} says is not understood")

    def find_signer(self, texts: dict[str, str], payload: str) -> tuple[str, int] | None:
        """Whose placeholder signed it, and by which reading of path and query; None for nobody's.

        `texts` are the placeholders by name.
        """
        for number, canonical in enumerate(self.list_canonical(self.target, self.fields, payload)):
            for name, text in texts.items():
                if hmac.compare_digest(self.make_signature(text, canonical), self.signature):
                    return name, number
        return None

    def sign(
        self, secret: str, access: str, reading: int, target: bytes, fields: Fields, payload: str
    ) -> bytes:
        """The Authorization of this request as it goes out; raises Denied."""
        names = {name.decode().lower() for name, _ in fields}
        if missing := [each for each in self.names if each not in names]:
            raise Denied(f"the header {missing[0][:40]} is signed, and does not go through here")
        canonical = [*self.list_canonical(target, fields, payload)][reading]
        signature = self.make_signature(secret, canonical)
        return (
            f"{ALGORITHM.decode()} Credential={'/'.join([access, *self.scope])}, "
            f"SignedHeaders={';'.join(self.names)}, Signature={signature}"
        ).encode()

    def make_signature(self, secret: str, canonical: str) -> str:
        """In hex: see AWS, "Create a signed AWS API request"."""
        key = f"AWS4{secret}".encode()
        for each in self.scope:
            key = hmac.digest(key, each.encode(), "sha256")
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join([ALGORITHM.decode(), self.time, "/".join(self.scope), digest])
        return hmac.digest(key, text.encode(), "sha256").hex()

    def list_canonical(self, target: bytes, fields: Fields, payload: str) -> Iterator[str]:
        """The canonical request, by each reading of path and query that clients have.

        For S3 a path is signed as it is; for all else encoded once more, without what goes up.
        """
        path, _, query = target.decode("latin-1").partition("?")
        again = quote(normalize(path), safe="/" + UNRESERVED)
        pairs = [each.partition("=")[::2] for each in query.split("&") if each]
        anew = [tuple(quote(unquote(part), safe=UNRESERVED) for part in pair) for pair in pairs]
        heads = "".join(
            f"{name}:{','.join(' '.join(each.split()) for each in read_field(fields, name))}\n"
            for name in self.names
        )
        for said in (path, again, quote(path, safe="/" + UNRESERVED)):
            for found in (pairs, anew):
                text = "&".join(f"{name}={value}" for name, value in sorted(found))
                yield "\n".join([self.method, said, text, heads, ";".join(self.names), payload])


def find_signature(fields: Fields) -> re.Match[bytes] | None:
    """The signature for AWS in a request's header, taken apart, with its key's id first."""
    found = [value for name, value in fields if name.lower() == b"authorization"]
    return FORM.fullmatch(found[0]) if len(found) == 1 else None


def read_time(text: str) -> float:
    """Unix seconds of a date as AWS has it; raises Denied for what is none."""
    try:
        return datetime.datetime.strptime(text + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
    except ValueError:
        raise Denied("the signed request is of no time") from None


def read_field(fields: Fields, wanted: str) -> list[str]:
    """All values of a header."""
    return [value.decode("latin-1") for name, value in fields if name.lower() == wanted.encode()]


def normalize(path: str) -> str:
    """A path without what goes up, or twice the same slash; its last slash stays."""
    found = posixpath.normpath("/" + path.lstrip("/"))
    return found + "/" if path.endswith("/") and found != "/" else found


def hash_payload(body: bytes) -> str:
    """A body's hash, as it is signed."""
    return hashlib.sha256(body).hexdigest()
