"""A PKCS#11 token as a custodian: an AES key that never leaves it wraps the unlock key.

The token keeps nothing of the vault's: what it wrapped lies in the vault's own file. Where the
token has AES-GCM, whose secret that is goes with it as additional data; where it only has AES key
wrap (RFC 3394), its hash stands before the secret. The PIN is asked once for each errand, and never
tried again.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass, TokenFlag

import avault
from avault import AvaultError, Denied, Errand, NotFound, Tampered, Unavailable, Usage, printable

if TYPE_CHECKING:
    from avault_extras import custody_pkcs11_ways
else:
    custody_pkcs11_ways = avault.load_extra("custody_pkcs11_ways", "pkcs11")


# What may go wrong at any call, and what it means; anything else is an error by its name
MEANINGS: tuple[tuple[type[AvaultError], str, tuple[type[Exception], ...]], ...] = (
    (
        Denied,
        "the PIN is wrong; it is not tried again",
        (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange),
    ),
    (Denied, "the token's PIN is locked", (pkcs11.PinLocked,)),
    (Denied, "the token's PIN has expired", (pkcs11.PinExpired,)),
    (Unavailable, "the token has no PIN yet", (pkcs11.UserPinNotInitialized,)),
    (
        Unavailable,
        "the token was taken out",
        (pkcs11.DeviceRemoved, pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised),
    ),
    (Unavailable, "the token is write-protected", (pkcs11.TokenWriteProtected,)),
)


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raise what a failure of the library means.

    `doing` says what failed where nothing else does.
    """
    try:
        yield
    except pkcs11.PKCS11Error as error:
        for kind, reason, errors in MEANINGS:
            if isinstance(error, errors):
                raise kind(reason) from None
        raise AvaultError(f"{doing} failed: {type(error).__name__}") from None


def check_module(path: str) -> None:
    """Raise Denied where others than root and we could change a library that is to run here.

    Whoever can write to it, or to a directory that leads to it by its name or by where its links
    lead, would get the PIN and the unlock key.
    """
    try:
        if not os.path.isfile(path):
            os.stat(path)
            raise Unavailable(f"{printable(path)} is no library")
        if place := avault.find_changeable(path):
            raise Denied(f"others than you can change {printable(place)}, so it is not run")
    except OSError as error:
        raise Unavailable(f"cannot use {printable(path)}: {error.strerror}") from None


class Custodian:
    """A token that does AES with a key of its own, by PKCS#11 (OASIS, version 2.40 and up)."""

    needs_person = True
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "module": ("the path of the token's PKCS#11 library", None),
        "token": ("the token's label", None),
        "key": ("the label of its AES key, which is made if it is not there", "avault"),
        "pin": (
            "terminal, or credential: a service has it as avault-pin, and is not asked",
            "terminal",
        ),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.settings = {name: errand.settings.get(name, "") for name in self.SETTINGS}

    @staticmethod
    def asks(settings: dict[str, str]) -> bool:
        """Whether somebody has to be there when it opens the vault, by its settings."""
        return settings.get("pin") != "credential"

    def settle(self) -> dict[str, str]:
        """The settings, the library's path as an absolute one; the token has to be there."""
        settled = dict(self.settings)
        for name, (about, default) in self.SETTINGS.items():
            settled[name] = settled[name] or default or ""
            if not settled[name]:
                raise Usage(f"{name} is missing: {about}")
        if settled["pin"] not in ("terminal", "credential"):
            raise Usage("pin is terminal or credential")
        settled["module"] = self.errand.path(settled["module"])
        self.settings = settled
        with explained("the token"):
            self.choose_way(self.find_token().slot)
        return settled

    def probe(self) -> str:
        """Whether the token is there; its keys are not seen without its PIN."""
        with explained("the token"):
            self.refuse_locked(self.find_token())
        return "the token is there"

    def set(self, secret: str) -> str:
        """Wrap the secret by the token's key, which is made if there is none.

        And see that it opens.
        """
        with self.open_session(rw=True) as session:
            slot = session.token.slot
            key = self.find_key(session) or self.make_key(session, self.choose_way(slot))
            with explained("the key"):
                if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
                    raise Denied(f"the key {self.key} can be taken out of the token")
                ways = custody_pkcs11_ways
                can = (each for each in ways.WAYS if ways.does(slot, each) and ways.may(key, each))
                way = next(can, "")
                if not way:
                    raise Denied(f"the key {self.key} may not do what the token can: wrap")
            with explained("wrapping"):
                data = custody_pkcs11_ways.wrap(key, way, secret.encode(), self.bound)
            if self.unwrap(key, way, data) != secret:
                raise AvaultError("the token does not give back what it wrapped")
        return f"{way}:{base64.b64encode(data).decode()}"

    def get(self) -> str:
        """The secret, by the token's key."""
        way, data = self.read_kept()
        with self.open_session() as session:
            key = self.find_key(session)
            if not key:
                raise NotFound(f"the token has no AES key {self.key}")
            return self.unwrap(key, way, data)

    def delete(self) -> None:
        """Nothing of the vault's is in the token; its key may serve others, and stays."""

    @property
    def key(self) -> str:
        """The key's label, for a person."""
        return printable(self.settings["key"])

    @property
    def bound(self) -> bytes:
        """Whose secret it is."""
        return self.errand.bound.encode()

    def read_kept(self) -> tuple[str, bytes]:
        """How it was wrapped, and what came of it, as `set` gave it; raises Tampered."""
        way, _, text = (self.errand.kept or "").partition(":")
        try:
            data = base64.b64decode(text, validate=True)
            if way in custody_pkcs11_ways.WAYS and data:
                return way, data
        except ValueError:
            pass
        raise Tampered("what the token wrapped is damaged")

    def find_token(self) -> pkcs11.Token:
        """The token of the settings; raises NotFound, Unavailable, Denied."""
        check_module(self.settings["module"])
        name = printable(self.settings["token"])
        try:
            library = pkcs11.lib(self.settings["module"])
        except (pkcs11.PKCS11Error, OSError):  # its text names what was looked for, and where
            path = printable(self.settings["module"])
            raise Unavailable(f"the library {path} cannot be loaded, or does not start") from None
        try:
            return library.get_token(token_label=self.settings["token"])
        except pkcs11.NoSuchToken:
            raise NotFound(f"there is no token {name}") from None
        except pkcs11.MultipleTokensReturned:
            raise AvaultError(f"there is more than one token {name}") from None

    def refuse_locked(self, token: pkcs11.Token) -> None:
        """Raise where a PIN cannot open the token any more, or not yet."""
        if token.flags & TokenFlag.USER_PIN_LOCKED:
            raise Denied("the token's PIN is locked")
        if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
            raise Unavailable("the token has no PIN yet")

    @contextlib.contextmanager
    def open_session(self, rw: bool = False) -> Iterator[Any]:
        """A session with the token, once the person gave its PIN; raises Denied, Unavailable."""
        with explained("the token"):
            token = self.find_token()
            self.refuse_locked(token)
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            self.warn("one try is left: a wrong PIN locks the token")
        elif token.flags & TokenFlag.USER_PIN_COUNT_LOW:
            self.warn("the last PIN that was given was wrong")
        credential = "" if self.asks(self.settings) else "avault-pin"
        pin = self.errand.prompt.ask(f"PIN of the token {printable(token.label)}", credential)
        session = self.log_in(token, rw, pin)
        try:
            yield session
        finally:
            with contextlib.suppress(pkcs11.PKCS11Error):
                session.close()

    def log_in(self, token: pkcs11.Token, rw: bool, pin: str) -> Any:
        """A session.

        Raises what went wrong, and Unavailable where the token went away meanwhile.
        """
        try:
            with explained("the login"):
                return token.open(rw=rw, user_pin=pin)
        except AvaultError as error:
            if error.code != "error":
                raise
            # not every library has a word for it
            with contextlib.suppress(pkcs11.PKCS11Error):
                token.slot.get_token()
                raise
            raise Unavailable("the token was taken out") from None

    def warn(self, text: str) -> None:
        """Say it before the PIN is asked; raises Unavailable where nobody can read it.

        So a service, whose PIN lies among its credentials, gives a wrong one once, and not at each
        boot.
        """
        try:
            self.errand.prompt.tell(text)
        except Unavailable:
            raise Unavailable(f"{text}; no PIN is given where nobody can read that") from None

    def find_key(self, session: Any) -> Any:
        """The AES key of the settings, or None; raises AvaultError where there are two."""
        wanted = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.LABEL: self.settings["key"],
        }
        with explained("looking for the key"):
            found = list(session.get_objects(wanted))
        if len(found) > 1:
            raise AvaultError(f"the token has more than one AES key {self.key}")
        return found[0] if found else None

    def choose_way(self, slot: pkcs11.Slot) -> str:
        """How this token wraps; raises Unavailable where it cannot."""
        for way in custody_pkcs11_ways.WAYS:
            if custody_pkcs11_ways.does(slot, way):
                return way
        raise Unavailable("the token has neither AES-GCM nor AES key wrap")

    def make_key(self, session: Any, way: str) -> Any:
        """A new AES key in the token, for one way alone, that never leaves it."""
        never = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
        with explained("making the key"):
            return session.generate_key(
                KeyType.AES,
                256,
                label=self.settings["key"],
                store=True,
                capabilities=custody_pkcs11_ways.WAYS[way][1],
                template=never,
            )

    def unwrap(self, key: Any, way: str, data: bytes) -> str:
        """What the key wrapped, as text; raises Tampered where it opens nothing.

        Tokens differ in what they answer to a wrong key or a changed bit, so that is not told
        apart.
        """
        reason = f"the key {self.key} does not open it: another key's, another vault's, or damaged"
        with explained("unwrapping"):
            try:
                if not custody_pkcs11_ways.may(key, way):
                    raise Tampered(reason)
                return custody_pkcs11_ways.unwrap(key, way, data, self.bound).decode()
            except pkcs11.PKCS11Error as error:
                if any(isinstance(error, errors) for _, _, errors in MEANINGS):
                    raise
                raise Tampered(reason) from None
            except ValueError:
                raise Tampered(reason) from None
