"""A NIP-46 remote signer ("bunker"), and the operator's key that it works with."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from typing import TYPE_CHECKING

from avault.errors import Usage, printable
from avault.keys.nostr import (
    TooHard,
    compose_event,
    decrypt,
    decrypt_key,
    encrypt_key,
    make_keys,
    parse_keys,
    parse_npub,
    public_hex,
    read_event,
    read_keys,
    to_npub,
)
from avault.signer.pairing import DEFAULT_RELAYS
from avault.signer.relays import Relays, wanted_requests
from avault.tasks import spawn
from avault.vault.files import make_private_directory, read_file, write_file
from avault.vault.own_files import check_relay, decode_file, encode_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.keys.nostr import Event, Keys


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
        self.keys = read_keys(kept["key"]) if kept else make_keys()
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
        user: Keys,
        pairings: Pairings,
        approve: Callable[[str, str], Awaitable[bool]],
        say: Callable[[str], None],
    ) -> None:
        self.user, self.pairings, self.approve, self.say = user, pairings, approve, say
        # of a client's request; None while it is worked on
        self.answers: dict[tuple[str, str], dict[str, Any] | None] = {}
        self.asking = asyncio.Lock()
        self.tasks: set[asyncio.Task[None]] = set()
        self.seen: set[str] = set()  # ids of events: each relay brings them
        self.listening: set[str] = set()  # relays that have confirmed our subscription
        self.doubted: set[str] = set()  # relays that are looked after

    async def run(self, uri: str | None, ready: Callable[[], None]) -> None:
        """Serve until cancelled; first answer a nostrconnect:// URI, if any. Raises Usage."""
        pairings = self.pairings
        client, secret = pairings.learn(uri) if uri else ("", "")
        if not pairings.relays:  # neither named nor known from an earlier time
            pairings.relays = list(DEFAULT_RELAYS)
            pairings.save()
        wanted = wanted_requests(public_hex(pairings.keys))
        self.relays = Relays(pairings.keys, pairings.relays, self.hear, lambda: None, wanted)
        self.relays.noted = self.note
        await self.relays.open()
        spawn(self.tasks, self.complain_of_silence())
        await self.relays.ready.wait()
        ready()
        if uri:
            await self.reply(client, {"id": secrets.token_hex(8), "result": secret})
            self.say(f"connected to {pairings.clients[client]}")
        await asyncio.get_running_loop().create_future()  # until cancelled

    def hear(self, event: Event) -> None:
        """Take an event that a relay has sent, once."""
        identity = str(event.id().to_hex())
        if identity not in self.seen:
            self.seen.add(identity)
            asyncio.get_running_loop().call_later(self.REMEMBER, self.seen.discard, identity)
            spawn(self.tasks, self.serve(event))

    def note(self, url: str, why: str | None) -> None:
        """A relay lets us listen, or does not, and says why; then it is asked again."""
        if why is None:
            self.listening.add(url)
            return
        self.listening.discard(url)
        self.relays.wanted = wanted_requests(public_hex(self.pairings.keys))
        if url not in self.doubted:
            self.doubted.add(url)
            spawn(self.tasks, self.look_after(url, why))

    async def complain_of_silence(self) -> None:
        """Say so once where no relay has taken our subscription."""
        await asyncio.sleep(self.SILENCE)
        if not self.listening:
            self.say(f"no relay lets us listen: {', '.join(self.pairings.relays)}; trying again")

    async def look_after(self, url: str, reason: str) -> None:
        """Say that a relay has closed our subscription, unless to have us log in."""
        await asyncio.sleep(0 if not reason.startswith("auth-required:") else self.LOGIN)
        if url not in self.listening:
            self.say(f"{url} does not let us listen: {printable(reason)}")
            await asyncio.sleep(self.SILENCE)
        self.doubted.discard(url)

    async def reply(self, client: str, message: dict[str, Any]) -> None:
        """Send a message to a client over every relay; one acceptance is enough."""
        event = compose_event(self.pairings.keys, client, json.dumps(message))
        urls = self.pairings.relays
        for attempt in range(5):
            said = await asyncio.gather(*(self.relays.send(url, event) for url in urls))
            refusals = {
                url: text for url, text in zip(urls, said, strict=True) if text != "accepted"
            }
            for url, text in refusals.items():
                if text not in ("timeout", "relay not connected"):
                    self.say(f"{url} refuses the answer: {text}")
            if len(refusals) < len(urls):
                return
            await asyncio.sleep(0.2 * 2**attempt)
        self.say(
            "no relay took the answer: "
            + ", ".join(f"{url} ({text})" for url, text in refusals.items())
        )

    async def serve(self, event: Event) -> None:
        """Answer one request; each request id is worked on once, however often it is sent."""
        client = event.author().to_hex()
        try:
            message, is_old_form = read_event(self.pairings.keys, event)
            request, method = str(message["id"]), str(message["method"])
            params = [str(each) for each in message.get("params", [])]
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # not a request to us
        if is_old_form:
            return
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
            text = decrypt(self.user, *params)
        except ValueError:
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
    keys = make_keys()
    text, npub = str(keys.secret_key().to_bech32()), to_npub(public_hex(keys))
    if passphrase_file:
        passphrase = read_passphrase(passphrase_file)
        text = encrypt_key(keys.secret_key().to_hex(), passphrase, NCRYPTSEC_ROUNDS)
    return text, npub


def read_passphrase(path: str) -> str:
    """The passphrase in a file, without the end of its line."""
    return read_file(os.path.expanduser(path)).decode(errors="replace").removesuffix("\n")


def read_operator(path: str, passphrase_file: str | None) -> Keys:
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
        found = decrypt_key(text, passphrase)
    except TooHard:
        raise Usage(
            "that ncryptsec asks for more memory than the library allows (log_n above 18)",
            "encrypt it anew with log_n 18",
        ) from None
    except ValueError:
        found = None
    if not found:
        raise Usage("the passphrase does not open that ncryptsec")
    return read_keys(found)
