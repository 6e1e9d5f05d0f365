"""Another operator's phone as a custodian: an envelope that only it opens (NIP-46).

The envelope has the unlock key. It is from a key that is thrown away to the operator's (NIP-44):
what lies on this machine cannot open it. It is made anew after every unlock (`renew`), as that of
this machine's own phone is; that of a quorum's member is not.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound, Tampered, Unavailable, Usage
from avault.keys.nostr import make_keys, parse_npub, public_hex, read_keys, to_npub
from avault.keys.seal import make_envelope, request_code
from avault.process import place_name
from avault.signer.pairing import (
    DEFAULT_RELAYS,
    parse_bunker,
    shorten_key,
)
from avault.signer.qr import qr_lines
from avault.signer.question import NOT_A_REFUSAL, accept_token, join_signer, says_any
from avault.signer.remote import RemoteSigner
from avault.vault.own_files import check_relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, ClassVar

    from avault.keys.custodian import Errand
    from avault.keys.nostr import KeyText

ENVELOPE_FIELDS = {"client_key", "signer", "relays", "peer", "envelope", "opens"}


class OperatorPhone:
    """The phone of an operator of the vault, other than this machine's own."""

    needs_person: ClassVar[bool] = True
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "operator": ("whose phone it is, an npub; see: avault operator list", None),
        "relays": ("where it is asked, with commas between", ",".join(DEFAULT_RELAYS)),
        "bunker": ("no; or ask, where the app shows a bunker:// URI", "no"),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    def settle(self) -> dict[str, str]:
        """Whose phone, and where it is asked; raises Usage."""
        given = self.errand.settings
        if not given.get("operator"):
            raise Usage("whose phone is it?", "as in: operator=npub1…")
        relays = given.get("relays") or ",".join(DEFAULT_RELAYS)
        checked = [check_relay(url.strip()) for url in relays.split(",")]
        bunker = given.get("bunker") or "no"
        if bunker not in ("no", "ask"):
            raise Usage("bunker is no or ask", "a URI on the command line would show its secret")
        operator = to_npub(parse_npub(given["operator"]))
        return {"operator": operator, "relays": ",".join(checked), "bunker": bunker}

    @property
    def operator(self) -> str:
        """The operator's public key, hex."""
        return parse_npub(self.errand.settings["operator"])

    @property
    def relays(self) -> list[str]:
        """Where the phone is asked."""
        return self.errand.settings["relays"].split(",")

    def probe(self) -> str:
        """Whether a phone is paired; no relay is asked."""
        kept = read_kept(self.errand.kept)
        me = public_hex(read_keys(kept["client_key"]))
        return f"a phone is paired, which may show who asks as {shorten_key(me)}"

    def set(self, secret: KeyText) -> str:
        """Pair with the phone, see that it can refuse, and put the secret into an envelope."""
        return str(asyncio.run(self.within_limit(self.pair(secret))))

    def get(self) -> KeyText:
        """Ask the phone to open the envelope; a refusal is Denied."""
        return str(asyncio.run(self.within_limit(self.ask())))

    def delete(self) -> None:
        """Nothing: it goes with the vault's own file."""

    async def within_limit(self, work: Awaitable[Any]) -> Any:
        """What comes of work with the phone; raises Unavailable where nobody approves in time."""
        try:
            async with asyncio.timeout(self.errand.limit * 0.95):
                return await work
        except TimeoutError:
            raise Unavailable(f"nobody approved on the phone of {self.errand.name}") from None

    async def pair(self, secret: KeyText) -> str:
        """What is kept, of a phone that has just been paired."""
        keys, prompt = make_keys(), self.errand.prompt
        signer, relays, word = None, self.relays, secrets.token_hex(16)
        if self.errand.settings["bunker"] == "ask":
            shown = f"the bunker:// URI that the app of {self.errand.name} shows"
            signer, relays, word = parse_bunker(prompt.ask(shown))
        remote = RemoteSigner(keys, relays, signer, quietly)
        await remote.open()
        try:
            await self.meet(remote, word)
            operator = await remote.request("get_public_key", [], parse_npub, False)
            if operator != self.operator:
                raise Denied(
                    f"that phone is {to_npub(operator)}, and not {to_npub(self.operator)}",
                    "choose that account in the app, and add it again",
                )
            await self.drill(remote)
        finally:
            await remote.close()
        kept = {"client_key": keys.secret_key().to_hex(), "signer": remote.signer}
        kept["relays"] = ",".join(relays)
        about = self.errand.names.title
        return json.dumps({**kept, **wrap(secret, self.operator, about, place_name())})

    async def meet(self, remote: RemoteSigner, word: str) -> None:
        """Connect with the phone's app: by its own URI, or by one that it scans."""
        await join_signer(remote, self.relays, word, self.errand.names.title, self.show_code)

    def show_code(self, uri: str) -> None:
        """Have the phone's app scan it."""
        prompt = self.errand.prompt
        prompt.tell(f"with the phone of {self.errand.name}, scan this or paste the line below it")
        prompt.show("\n".join(["", *qr_lines(uri), uri, ""]))

    async def drill(self, remote: RemoteSigner) -> None:
        """Have the phone refuse something; raises Denied where it approves by itself."""
        token, peer = secrets.token_hex(32), make_keys()
        sentence = "avault: this is a drill. REJECT this one."
        envelope = make_envelope(peer, self.operator, "a drill: REJECT this one", sentence, token)
        if self.errand.prompt.path:
            self.errand.prompt.tell(
                f"a drill: REJECT the next request on the phone of {self.errand.name}"
            )
        try:
            params = [public_hex(peer), envelope]
            await remote.request("nip44_decrypt", params, accept_token(token))
        except Denied as refused:
            if says_any(refused.message, NOT_A_REFUSAL):
                raise
            return
        raise Denied(
            "the drill was approved: an app that approves by itself protects nothing",
            "have it ask each time, see references/signers.md; then add it again",
        )

    async def ask(self) -> str:
        """The secret, once the phone has opened the envelope."""
        kept = read_kept(self.errand.kept)
        if self.errand.prompt.path and not self.errand.prompt.answers:
            code = request_code(kept["peer"])
            self.errand.prompt.tell(f"the phone of {self.errand.name} is asked, code {code}")
        keys, relays = read_keys(kept["client_key"]), kept["relays"].split(",")
        remote = RemoteSigner(keys, relays, kept["signer"], quietly)
        await remote.open()
        heeding = asyncio.ensure_future(self.heed(remote))
        try:
            params = [kept["peer"], kept["envelope"]]
            accept = accept_unlock_key(kept["opens"])
            # an envelope that is not made anew takes no answer to an earlier question: a relay
            # could give it again at any time
            is_anew = not self.errand.whole
            found = await remote.request(
                "nip44_decrypt", params, accept, is_told_by_content=is_anew
            )
            self.errand.is_old = remote.is_old
            return str(found)
        finally:
            heeding.cancel()
            await remote.close()

    async def heed(self, remote: RemoteSigner) -> None:
        """While nobody waits, listen and send nothing."""
        while True:
            if self.errand.is_wanted() and remote.is_resting:
                remote.wake(False, True)
            elif not self.errand.is_wanted():
                remote.rest()
            await asyncio.sleep(0.5)


def quietly() -> None:
    """Show nobody how the asking goes."""


def wrap(secret: KeyText, operator: str, name: str, host: str) -> dict[str, str]:
    """A fresh envelope for an operator (hex), with the public key that it is from."""
    peer = make_keys()
    what = f"{name} on {host}, code {request_code(public_hex(peer))}"
    sentence = f"avault: unlock {what}. Approve only if you expect it."
    envelope = make_envelope(peer, operator, f"unlock the vault of {what}", sentence, secret)
    # by which the answer to it is told from that to an earlier one
    opens = public_hex(read_keys(secret))
    return {"peer": public_hex(peer), "envelope": envelope, "opens": opens}


def renew(kept: str, secret: KeyText, operator: str, name: str, host: str) -> str:
    """What is kept, with another secret in a fresh envelope; raises NotFound, Tampered."""
    return json.dumps({**read_kept(kept), **wrap(secret, operator, name, host)})


def accept_unlock_key(opens: str) -> Callable[[str], KeyText]:
    """What counts as the phone's answer: the secret key of a public one."""

    def accept(result: str) -> KeyText:
        try:
            found = str(json.loads(result)["avault"])
            if public_hex(read_keys(found)) == opens:
                return found
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise Tampered("the phone answered with something else")

    return accept


def read_kept(kept: str | None) -> dict[str, str]:
    """What `set` gave; raises NotFound, Tampered."""
    if not kept:
        raise NotFound("no phone is paired for it")
    try:
        found = json.loads(kept)
        if found.keys() == ENVELOPE_FIELDS and all(
            isinstance(each, str) for each in found.values()
        ):
            read_keys(found["client_key"])
            return dict(found)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise Tampered("what is kept about the phone is damaged")
