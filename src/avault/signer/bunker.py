"""A NIP-46 remote signer ("bunker"), and the operator's key that it works with."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import Usage, printable
from avault.nostr import parse_keys, parse_npub, public_hex, to_npub
from avault.signer.pairing import DEFAULT_RELAYS
from avault.signer.relays import RPC_KIND
from avault.vault.files import make_private_directory, read_file, write_file
from avault.vault.own_files import check_relay, decode_file, encode_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any


# log2 of scrypt's N (NIP-49): 100 MB for a third of a second; the library opens at most 18
NCRYPTSEC_ROUNDS = 16


class Pairings:
    """What a bunker keeps in bunker.json, in `directory`, so that it survives a restart.

    Its key, its one-time secret, the clients that it knows, and the relays where they ask.
    """

    def __init__(self, directory: str, relays: list[str]) -> None:
        self.path = os.path.join(directory, "bunker.json")
        make_private_directory(directory)
        kept = (
            decode_file("bunker", read_file(self.path), self.path)
            if os.path.lexists(self.path)
            else {}
        )
        self.keys = nostr_sdk.Keys.parse(kept["key"]) if kept else nostr_sdk.Keys.generate()
        self.secret = str(kept.get("secret") or secrets.token_hex(16))
        self.clients: dict[str, str] = kept.get("clients", {})  # public key: the name it gave
        self.relays = list(dict.fromkeys([*relays, *kept.get("relays", [])]))
        self.save()

    def save(self) -> None:
        """Write bunker.json."""
        content = {
            "key": self.keys.secret_key().to_hex(),
            "secret": self.secret,
            "clients": self.clients,
            "relays": self.relays,
        }
        write_file(self.path, encode_file("bunker", content))

    def uri(self) -> str:
        """The bunker:// URI; its secret pairs one client."""
        from urllib.parse import quote

        relays = "&".join(f"relay={quote(url, safe='')}" for url in self.relays)
        return f"bunker://{public_hex(self.keys)}?{relays}&secret={self.secret}"

    def learn(self, uri: str) -> tuple[str, str]:
        """Take a nostrconnect:// URI's client and relays; its key, and the secret. Raises Usage."""
        from urllib.parse import parse_qs, urlsplit

        parts = urlsplit(uri.strip())
        query = parse_qs(parts.query)
        if parts.scheme != "nostrconnect" or not query.get("secret") or not query.get("relay"):
            raise Usage("not a nostrconnect:// URI", "it is the line that avault pair prints")
        client = parse_npub(parts.netloc)
        self.relays = list(dict.fromkeys([*self.relays, *map(check_relay, query["relay"])]))
        self.add(client, query.get("name", ["an agent"])[0])
        return client, query["secret"][0]

    def spend(self, secret: str) -> bool:
        """Use the one-time secret up; whether it was that."""
        if not secrets.compare_digest(secret.encode(), self.secret.encode()):
            return False
        self.secret = secrets.token_hex(16)
        return True

    def add(self, client: str, name: str) -> None:
        """Know a client from now on."""
        self.clients[client] = printable(name, 64)
        self.save()


class Bunker:
    """A NIP-46 remote signer that asks `approve(client, sentence)` for each decrypt."""

    REMEMBER = 600.0  # seconds that an answer is kept, for a client that asks again
    SILENCE = 10.0  # seconds until a relay that does not answer is spoken of
    LOGIN = 5.0  # seconds that the library needs at most to log in (NIP-42) and to subscribe again

    def __init__(
        self,
        user: nostr_sdk.Keys,
        pairings: Pairings,
        approve: Callable[[str, str], Awaitable[bool]],
        say: Callable[[str], None],
    ) -> None:
        self.user, self.pairings, self.approve, self.say = user, pairings, approve, say
        # of a client's request; None while it is worked on
        self.answers: dict[tuple[str, str], dict[str, Any] | None] = {}
        self.asking = asyncio.Lock()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listening: set[str] = set()  # relays that have confirmed our subscription
        self.is_ready = False

    async def run(self, uri: str | None, ready: Callable[[], None]) -> None:
        """Serve until cancelled; first answer a nostrconnect:// URI, if any. Raises Usage."""
        pairings = self.pairings
        client, secret = pairings.learn(uri) if uri else ("", "")
        if not pairings.relays:  # neither named nor known from an earlier time
            pairings.relays = list(DEFAULT_RELAYS)
            pairings.save()
        # for NIP-42: relays that want to know who reads
        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        self.pool = (
            nostr_sdk.ClientBuilder()
            .authenticator(nostr_sdk.SignerAuthenticator(pairings.keys))
            .build()
        )
        for url in pairings.relays:
            await self.pool.add_relay(nostr_sdk.RelayUrl.parse(url))
        stream = self.pool.notifications()
        await self.pool.connect()
        await self.subscribe()
        self.spawn(self.complain_of_silence())
        while notification := await stream.next():
            if notification.is_NEW_EVENT():
                self.spawn(self.serve(notification.event))
            elif notification.is_MESSAGE():
                message = notification.message.as_enum()
                url = str(notification.relay_url).rstrip("/")
                if message.is_CLOSED():
                    self.listening.discard(url)
                    self.spawn(self.look_after(url, message.message))
                elif message.is_END_OF_STORED_EVENTS():
                    is_first = not self.listening
                    self.listening.add(url)
                    if is_first and not self.is_ready:
                        self.is_ready = True
                        ready()
                        if uri:
                            await self.reply(client, {"id": secrets.token_hex(8), "result": secret})
                            self.say(f"connected to {pairings.clients[client]}")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, and keep it until it is done."""
        self.tasks.add(task := asyncio.get_running_loop().create_task(work))
        task.add_done_callback(self.tasks.discard)

    async def subscribe(self) -> None:
        """Ask the relays for the requests to us, of the last minute and from now on."""
        since = nostr_sdk.Timestamp.from_secs(int(time.time()) - 60)
        mine = (
            nostr_sdk.Filter()
            .kind(nostr_sdk.Kind(RPC_KIND))
            .pubkey(self.pairings.keys.public_key())
            .since(since)
        )
        await self.pool.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="bunker")

    async def complain_of_silence(self) -> None:
        """Say so once where no relay has taken our subscription."""
        await asyncio.sleep(self.SILENCE)
        if not self.listening:
            self.say(f"no relay lets us listen: {', '.join(self.pairings.relays)}; trying again")

    async def look_after(self, url: str, reason: str) -> None:
        """Say that a relay has closed our subscription, unless to have us log in; ask again."""
        await asyncio.sleep(0 if not reason.startswith("auth-required:") else self.LOGIN)
        if url not in self.listening:
            self.say(f"{url} does not let us listen: {printable(reason)}")
            await asyncio.sleep(self.SILENCE)
            await self.subscribe()

    async def reply(self, client: str, message: dict[str, Any]) -> None:
        """Send a message to a client over every relay; one acceptance is enough."""
        peer = nostr_sdk.PublicKey.parse(client)
        content = nostr_sdk.nip44_encrypt(
            self.pairings.keys.secret_key(), peer, json.dumps(message), nostr_sdk.Nip44Version.V2
        )
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), content).tags(
            [nostr_sdk.Tag.public_key(peer)]
        )
        event = builder.finalize(self.pairings.keys)
        for attempt in range(5):
            relays = await self.pool.relays()
            outcomes = await asyncio.gather(
                *(relay.send_event(event) for relay in relays.values()), return_exceptions=True
            )
            refusals = {
                str(url).rstrip("/"): printable(str(outcome).strip("'\""))
                for url, outcome in zip(relays, outcomes, strict=True)
                if isinstance(outcome, BaseException)
            }
            for url, text in refusals.items():
                if text not in ("timeout", "relay not connected"):
                    self.say(f"{url} refuses the answer: {text}")
            if len(refusals) < len(relays):
                return
            await asyncio.sleep(0.2 * 2**attempt)
        self.say(
            "no relay took the answer: "
            + ", ".join(f"{url} ({text})" for url, text in refusals.items())
        )

    async def serve(self, event: nostr_sdk.Event) -> None:
        """Answer one request; each request id is worked on once, however often it is sent."""
        client = event.author().to_hex()
        try:
            message = json.loads(
                nostr_sdk.nip44_decrypt(
                    self.pairings.keys.secret_key(), event.author(), event.content()
                )
            )
            request, method = str(message["id"]), str(message["method"])
            params = [str(each) for each in message.get("params", [])]
        except (ValueError, TypeError, KeyError, AttributeError, nostr_sdk.NostrSdkError):
            return  # not a request to us
        if client not in self.pairings.clients and method != "connect":
            await self.reply(client, {"id": request, "result": "", "error": "no permission"})
            return
        if (client, request) not in self.answers:
            self.answers[client, request] = None
            self.answers[client, request] = {
                "id": request,
                **await self.answer(client, method, params),
            }
            asyncio.get_running_loop().call_later(
                self.REMEMBER, self.answers.pop, (client, request)
            )
        answer = self.answers[client, request]
        if answer:
            await self.reply(client, answer)

    async def answer(self, client: str, method: str, params: list[str]) -> dict[str, str]:
        """The result or error of a request."""
        if method == "connect":
            return self.connect(client, params)
        if method == "get_public_key":
            return {"result": public_hex(self.user)}
        if method == "ping":
            return {"result": "pong"}
        if method != "nip44_decrypt" or len(params) != 2:
            return {"result": "", "error": f"unsupported: {printable(method, 40)}"}
        try:
            text = nostr_sdk.nip44_decrypt(
                self.user.secret_key(), nostr_sdk.PublicKey.parse(params[0]), params[1]
            )
        except nostr_sdk.NostrSdkError:
            return {"result": "", "error": "cannot decrypt that"}
        async with self.asking:
            approved = await self.approve(self.pairings.clients[client], read_sentence(text))
        return {"result": text} if approved else {"result": "", "error": "user rejected"}

    def connect(self, client: str, params: list[str]) -> dict[str, str]:
        """Pair a client that has the secret; a known one is paired already."""
        if client not in self.pairings.clients:
            if not self.pairings.spend(params[1] if len(params) > 1 else ""):
                return {"result": "", "error": "invalid secret"}
            try:
                name = json.loads(params[3])["name"]
            except (IndexError, ValueError, TypeError, KeyError):
                name = "an agent"
            self.pairings.add(client, name)
            self.say(f"connected to {self.pairings.clients[client]}")
        return {"result": "ack"}


LONGEST_SENTENCE = 8_000  # characters: whole, as its end may say who else opens the vault


def read_sentence(text: str) -> str:
    """What the operator is shown of a text to decrypt: an envelope's sentence, not its content."""
    try:
        sentence = json.loads(text)["content"]
    except (ValueError, TypeError, KeyError, RecursionError):
        sentence = None
    return (
        printable(sentence, LONGEST_SENTENCE)
        if isinstance(sentence, str)
        else f"a text of {len(text)} characters, which is not shown"
    )


def make_operator(passphrase_file: str | None) -> tuple[str, str]:
    """A new operator's key, as an nsec or, with a passphrase, as an ncryptsec; and its npub."""
    keys = nostr_sdk.Keys.generate()
    text, npub = keys.secret_key().to_bech32(), to_npub(public_hex(keys))
    if passphrase_file:
        text = nostr_sdk.EncryptedSecretKey(
            keys.secret_key(),
            read_passphrase(passphrase_file),
            NCRYPTSEC_ROUNDS,
            nostr_sdk.KeySecurity.UNKNOWN,
        ).to_bech32()
    return text, npub


def read_passphrase(path: str) -> str:
    """The passphrase in a file, without the end of its line."""
    return read_file(os.path.expanduser(path)).decode(errors="replace").removesuffix("\n")


def read_operator(path: str, passphrase_file: str | None) -> nostr_sdk.Keys:
    """The key in a file, as nsec, hex or ncryptsec (NIP-49); raises Usage."""
    text = read_file(os.path.expanduser(path)).decode(errors="replace").strip()
    if not text.startswith("ncryptsec1"):
        return parse_keys(text)
    if passphrase_file:
        passphrase = read_passphrase(passphrase_file)
    else:
        from getpass import getpass

        passphrase = getpass("passphrase: ")
    try:
        sealed = nostr_sdk.EncryptedSecretKey.from_bech32(text)
        return nostr_sdk.Keys.parse(sealed.decrypt(passphrase).to_hex())
    except nostr_sdk.NostrSdkError as error:
        if "log_n" in str(error):
            raise Usage(
                "that ncryptsec asks for more memory than the library allows (log_n above 18)",
                "encrypt it anew with log_n 18",
            ) from None
        raise Usage("the passphrase does not open that ncryptsec") from None
