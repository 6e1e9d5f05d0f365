"""AWS KMS as a custodian: a key of KMS encrypts the unlock key, in the context of whose it is.

An unlock key is small enough that no data key is needed (Encrypt takes 4,096 bytes). The
credentials are those that AWS's own tools find without the environment: a profile of ~/.aws, or the
machine's role.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, ClassVar

import avault
from avault import AvaultError, Denied, NotFound, Tampered, Unavailable, Usage, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault import Errand
    from avault_extras import custody_network
else:
    custody_network = avault.load_extra("custody_network")

custody_network.allow_tls()
import boto3  # noqa: E402  # it imports ssl
import botocore.config  # noqa: E402
import botocore.exceptions  # noqa: E402

CONNECT, READ, TRIES = (
    3.0,
    5.0,
    2,
)  # seconds, seconds, and how often; botocore's own are 60, 60 and 5
ID = r"(mrk-)?[0-9a-f-]{32,36}"
KEY = re.compile(
    rf"{ID}|alias/[A-Za-z0-9/_-]{{1,250}}|arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{{12}}:"
    rf"(key/{ID}|alias/[A-Za-z0-9/_-]{{1,250}})"
)

# what may go wrong: a reason, a hint, and the codes of KMS, of all of AWS, and the exceptions of
# botocore that mean it
ERRORS: tuple[tuple[type[AvaultError], str, str | None, str], ...] = (
    (Tampered, "the wrapped key was changed, or is of another vault, custodian or KMS key", None,
     """InvalidCiphertextException IncorrectKeyException"""),
    (AvaultError, "the KMS key is not one that encrypts",
     "name a symmetric one that is for encryption", """InvalidKeyUsageException"""),
    (NotFound, "KMS has no such key", "see which there are: aws kms list-aliases",
     "NotFoundException"),
    (Denied, "a policy of AWS does not let us use the key",
     "references/custody.md has the policy that lets us", """
        AccessDeniedException AccessDenied UnauthorizedOperation OptInRequired 403"""),
    (Denied, "the KMS key is disabled", "enable it: aws kms enable-key", "DisabledException"),
    (Denied, "the KMS key cannot be used in its state",
     "see what it is in: aws kms describe-key", "KMSInvalidStateException"),
    (Denied, "AWS does not take these credentials",
     "see whose they are: aws sts get-caller-identity", """
        UnrecognizedClientException InvalidClientTokenId InvalidAccessKeyId ExpiredTokenException
        ExpiredToken SignatureDoesNotMatch InvalidSignatureException IncompleteSignature
        MissingAuthenticationToken NotAuthorized UnauthorizedSSOTokenError"""),
    (Unavailable,
     "there are no credentials for AWS: no profile in ~/.aws, and no role of this machine",
     "make a profile: aws configure", """
        NoCredentialsError PartialCredentialsError CredentialRetrievalError ProfileNotFound
        ConfigNotFound SSOTokenLoadError TokenRetrievalError MetadataRetrievalError"""),
    (Unavailable, "AWS is asked too often", "try again later", """
        ThrottlingException Throttling ThrottledException TooManyRequestsException
        RequestLimitExceeded LimitExceededException SlowDown"""),
    (Unavailable, "KMS does not work", "try again later", """
        KMSInternalException KeyUnavailableException DependencyTimeoutException InternalFailure
        ServiceUnavailable InternalServerError ServiceUnavailableException RequestTimeout 500 502
        503 504"""),
    (Unavailable, "the certificate of KMS is not trusted", None, "SSLError"),
    (Unavailable, "KMS cannot be reached", None, "HTTPClientError ConnectionError"),
)  # fmt: skip


class Custodian:
    """A key of AWS KMS, for whoever may decrypt with it."""

    needs_person: ClassVar[bool] = False
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "key": ("the KMS key: its id, its ARN, or alias/NAME", None),
        "region": ("region of the key; that of its ARN or of the profile, if nothing is said", ""),
        "profile": ("profile of ~/.aws; the usual one, if nothing is said", ""),
        "endpoint": ("address of KMS, if not AWS's own for the region", ""),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.settings = {name: value for name, value in errand.settings.items() if value}

    def settle(self) -> dict[str, str]:
        """The settings with the region; raises Usage, Unavailable."""
        found = KEY.fullmatch(self.settings.get("key", ""))
        if not found:
            raise Usage("key is a KMS key's id, its ARN, or alias/NAME")
        for name in self.settings:
            if name not in self.SETTINGS:
                there = f"these are: {', '.join(self.SETTINGS)}"
                raise Usage(f"aws-kms has no setting {printable(name)}", there)
        settled = dict(self.settings)
        region = settled.get("region") or found["region"] or self.usual_region()
        if not re.fullmatch(r"[a-z0-9-]{1,32}", region or ""):
            raise Usage("region has to be told, as eu-central-1")
        if found["region"] and found["region"] != region:
            raise Usage(f"the key is in the region {found['region']}")
        settled["region"] = str(region)
        if "endpoint" in settled:
            settled["endpoint"] = custody_network.check_address(settled["endpoint"], "endpoint")
        return settled

    def usual_region(self) -> str | None:
        """The region of the profile, if it has one."""
        region: str | None = self.guard(lambda: self.session().region_name)
        return region

    def probe(self) -> str:
        """Whether KMS would decrypt for us, by a dry run; before there is anything, encrypt."""
        if self.errand.kept:
            key, blob = self.kept()
            self.use(lambda: self.ask("decrypt", KeyId=key, CiphertextBlob=blob, DryRun=True))
        else:
            key = self.settings["key"]
            self.use(lambda: self.ask("encrypt", KeyId=key, Plaintext=b"?", DryRun=True))
        return "KMS lets us use the key"

    def set(self, secret: str) -> str:
        """The encrypted secret, once it was seen to open, and the ARN of its key.

        That, as an alias may come to mean another key.
        """

        def keep() -> str:
            told = {"KeyId": self.settings["key"], "Plaintext": secret.encode()}
            answer = self.ask("encrypt", **told)
            key, blob = str(answer["KeyId"]), bytes(answer["CiphertextBlob"])
            if self.decrypt(key, blob) != secret:
                raise AvaultError("KMS did not give back what was encrypted")
            return json.dumps({"key": key, "blob": base64.b64encode(blob).decode()})

        return str(self.use(keep))

    def get(self) -> str:
        """The secret."""
        key, blob = self.kept()
        return str(self.use(lambda: self.decrypt(key, blob)))

    def delete(self) -> None:
        """KMS keeps nothing of it."""

    def kept(self) -> tuple[str, bytes]:
        """The key and what it encrypted, as the vault's file has it; raises Tampered."""
        try:
            kept = json.loads(str(self.errand.kept))
            return str(kept["key"]), base64.b64decode(kept["blob"], validate=True)
        except (ValueError, KeyError, TypeError):
            raise Tampered("what the vault's file has of KMS was changed") from None

    def decrypt(self, key: str, blob: bytes) -> str:
        """What that key encrypted. It is named, so that KMS tries no other."""
        return str(self.ask("decrypt", KeyId=key, CiphertextBlob=blob)["Plaintext"].decode())

    def ask(self, operation: str, **told: Any) -> Any:
        """KMS's answer, in our context; raises what botocore does."""
        context = {"avault": self.errand.bound}
        return getattr(self.client(), operation)(EncryptionContext=context, **told)

    def use(self, do: Callable[[], Any]) -> Any:
        """What `do` gives, in the time that there is; raises what went wrong."""
        return custody_network.within(self.errand, lambda: self.guard(do), "KMS")

    def guard(self, do: Callable[[], Any]) -> Any:
        """What `do` gives.

        Raises what botocore's error means, without its text, which may tell all.
        """
        try:
            return do()
        except AvaultError:
            raise
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code == "DryRunOperationException":
                return None  # it would have done it
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
            raise meaning(code, status) from None
        except Exception as error:
            raise meaning(*(kind.__name__ for kind in type(error).__mro__)) from None

    def session(self) -> Any:
        """A session of the profile."""
        return boto3.Session(profile_name=self.settings.get("profile"))

    def client(self) -> Any:
        """A client of KMS, at AWS's own address or at the one that we were told, at no other."""
        config = botocore.config.Config(
            connect_timeout=CONNECT,
            read_timeout=READ,
            retries={"total_max_attempts": TRIES, "mode": "standard"},
            ignore_configured_endpoint_urls=True,
        )
        region, endpoint = self.settings["region"], self.settings.get("endpoint")
        place = {"region_name": region, "endpoint_url": endpoint}
        return self.session().client("kms", config=config, **place)


def meaning(*names: str) -> AvaultError:
    """The error that the first known of these names is."""
    for name in names:
        for kind, reason, hint, meant in ERRORS:
            if name in meant.split():
                return kind(reason, hint)
    named = names[0] if re.fullmatch(r"[A-Za-z0-9.]{1,64}", names[0]) else "an unknown error"
    return AvaultError(f"KMS failed: {named}")
