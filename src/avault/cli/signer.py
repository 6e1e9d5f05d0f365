"""avault signer: the other side of NIP-46, a phone in a terminal.

For an operator without a phone, for tests, and for the demo. It keeps the operator's key in memory,
and asks for each decrypt. Run it on another machine than the agent's, or it protects nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import Usage, printable
from avault.nostr import parse_keys, parse_npub, public_hex, to_npub
from avault.places import state_home
from avault.process import harden
from avault.signer.pairing import DEFAULT_RELAYS
from avault.signer.relays import RPC_KIND
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.vault.files import make_private_directory, read_file, write_file
from avault.vault.own_files import check_relay, decode_file, encode_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any


# log2 of scrypt's N (NIP-49): 100 MB for a third of a second; the library opens at most 18
NCRYPTSEC_ROUNDS = 16


class Bunker:
    """A NIP-46 remote signer that asks `approve(client, sentence)` for each decrypt.

    Its key, its one-time secret and the clients that it knows are kept in
    bunker.json in `directory`, so that it survives a restart.
    """

    REMEMBER = 600.0  # seconds that an answer is kept, for a client that asks again
    SILENCE = 10.0  # seconds until a relay that does not answer is spoken of
    LOGIN = 5.0  # seconds that the library needs at most to log in (NIP-42) and to subscribe again

    def __init__(
        self,
        user: nostr_sdk.Keys,
        relays: list[str],
        directory: str,
        approve: Callable[[str, str], Awaitable[bool]],
        say: Callable[[str], None],
    ) -> None:
        self.user, self.approve, self.say = user, approve, say
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
        # of a client's request; None while it is worked on
        self.answers: dict[tuple[str, str], dict[str, Any] | None] = {}
        self.asking = asyncio.Lock()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listening: set[str] = set()  # relays that have confirmed our subscription
        self.is_ready = False
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

    async def run(self, uri: str | None, ready: Callable[[], None]) -> None:
        """Serve until cancelled; first answer a nostrconnect:// URI if there is one. Raises Usage."""
        client, secret, name = self.read_uri(uri) if uri else ("", "", "")
        if not self.relays:  # neither named nor known from an earlier time
            self.relays = list(DEFAULT_RELAYS)
            self.save()
        # for NIP-42: relays that want to know who reads
        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        self.pool = (
            nostr_sdk.ClientBuilder()
            .authenticator(nostr_sdk.SignerAuthenticator(self.keys))
            .build()
        )
        for url in self.relays:
            await self.pool.add_relay(nostr_sdk.RelayUrl.parse(url))
        stream = self.pool.notifications()
        await self.pool.connect()
        await self.subscribe()
        self.spawn(self.complain_of_silence())
        while notification := await stream.next():
            if notification.is_NEW_EVENT():
                self.spawn(self.serve(notification.event))
            elif notification.is_MESSAGE():
                message, url = (
                    notification.message.as_enum(),
                    str(notification.relay_url).rstrip("/"),
                )
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
                            self.say(f"connected to {name}")

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
            .pubkey(self.keys.public_key())
            .since(since)
        )
        await self.pool.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="bunker")

    async def complain_of_silence(self) -> None:
        """Say so once where no relay has taken our subscription."""
        await asyncio.sleep(self.SILENCE)
        if not self.listening:
            self.say(f"no relay lets us listen: {', '.join(self.relays)}; trying again")

    async def look_after(self, url: str, reason: str) -> None:
        """A relay has closed our subscription: say so unless it was only to have us log in, and ask again."""
        await asyncio.sleep(0 if not reason.startswith("auth-required:") else self.LOGIN)
        if url not in self.listening:
            self.say(f"{url} does not let us listen: {printable(reason)}")
            await asyncio.sleep(self.SILENCE)
            await self.subscribe()

    def read_uri(self, uri: str) -> tuple[str, str, str]:
        """Learn client and relays from a nostrconnect:// URI; its public key, secret and name."""
        from urllib.parse import parse_qs, urlsplit

        parts = urlsplit(uri.strip())
        query = parse_qs(parts.query)
        if parts.scheme != "nostrconnect" or not query.get("secret") or not query.get("relay"):
            raise Usage("not a nostrconnect:// URI", "it is the line that avault pair prints")
        client, name = parse_npub(parts.netloc), printable(query.get("name", ["an agent"])[0], 64)
        self.relays = list(dict.fromkeys([*self.relays, *map(check_relay, query["relay"])]))
        self.clients[client] = name
        self.save()
        return client, query["secret"][0], name

    async def reply(self, client: str, message: dict[str, Any]) -> None:
        """Send a message to a client over every relay; one acceptance is enough."""
        peer = nostr_sdk.PublicKey.parse(client)
        content = nostr_sdk.nip44_encrypt(
            self.keys.secret_key(), peer, json.dumps(message), nostr_sdk.Nip44Version.V2
        )
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), content).tags(
            [nostr_sdk.Tag.public_key(peer)]
        )
        event = builder.finalize(self.keys)
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
                nostr_sdk.nip44_decrypt(self.keys.secret_key(), event.author(), event.content())
            )
            request, method, params = (
                str(message["id"]),
                str(message["method"]),
                [str(each) for each in message.get("params", [])],
            )
        except (ValueError, TypeError, KeyError, AttributeError, nostr_sdk.NostrSdkError):
            return  # not a request to us
        if client not in self.clients and method != "connect":
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
            approved = await self.approve(self.clients[client], read_sentence(text))
        return {"result": text} if approved else {"result": "", "error": "user rejected"}

    def connect(self, client: str, params: list[str]) -> dict[str, str]:
        """Pair a client that has the secret; a known one is paired already."""
        if client not in self.clients:
            given = params[1] if len(params) > 1 else ""
            if not secrets.compare_digest(given.encode(), self.secret.encode()):
                return {"result": "", "error": "invalid secret"}
            self.secret = secrets.token_hex(16)
            try:
                name = json.loads(params[3])["name"]
            except (IndexError, ValueError, TypeError, KeyError):
                name = "an agent"
            self.clients[client] = printable(name, 64)
            self.save()
            self.say(f"connected to {self.clients[client]}")
        return {"result": "ack"}


def read_sentence(text: str) -> str:
    """What the operator is shown of a text to decrypt: an envelope's sentence, never what it carries."""
    try:
        sentence = json.loads(text)["content"]
    except (ValueError, TypeError, KeyError, RecursionError):
        sentence = None
    return (
        printable(sentence)
        if isinstance(sentence, str)
        else f"a text of {len(text)} characters, which is not shown"
    )


@command(
    "signer",
    argument("uri", required=False),
    option("--new", "is_new", is_flag=True),
    option("--nsec-file"),
    option("--relay", "relays", multiple=True),
    option("--state"),
    option("--yes", is_flag=True),
    option("--passphrase-file"),
)
def cmd_signer(
    terminal: Terminal,
    uri: str | None,
    is_new: bool,
    nsec_file: str | None,
    relays: tuple[str, ...],
    state: str | None,
    yes: bool,
    passphrase_file: str | None,
) -> int:
    """usage: avault signer --nsec-file F [--relay URL]… [--state DIR] [--yes]
                     [--passphrase-file F] [URI]
       avault signer --new [--nsec-file F] [--passphrase-file F]

    A NIP-46 bunker in a terminal: the phone, for an operator without one. It
    prints its bunker:// URI, or answers a nostrconnect:// URI, and asks for each
    decrypt. F holds an nsec or an ncryptsec (NIP-49). --state keeps its pairings
    (default: in the state directory). --yes approves everything: for tests.
    Run it on another machine than the agent's, or it protects nothing.

    --new makes an operator's key, writes it to F, or to stdout, and ends; with
    --passphrase-file it is an ncryptsec. Nothing that exists is overwritten.

      avault signer --new --nsec-file operator.nsec
      avault signer --nsec-file operator.nsec 'nostrconnect://…'
    """
    if is_new:
        return make_operator(nsec_file, passphrase_file)
    if not nsec_file:
        raise Usage(
            "no operator's key is named",
            "avault signer --nsec-file FILE; make one with: avault signer --new --nsec-file FILE",
        )
    harden("avault-phone")
    keys = read_operator(nsec_file, passphrase_file)
    state = (
        os.path.abspath(os.path.expanduser(state))
        if state
        else os.path.join(state_home(), f"signer-{public_hex(keys)[:16]}")
    )
    chosen = [check_relay(url) for url in relays]

    async def approve(client: str, sentence: str) -> bool:
        put(f"{client} asks: {sentence}\n")
        if yes:
            put("approved, as --yes says\n")
            return True
        if sys.stdin.isatty():
            import termios

            # what was typed before the question is no answer to it
            termios.tcflush(0, termios.TCIFLUSH)
        words = {"y": True, "yes": True, "n": False, "no": False}
        answer = ""
        while answer not in words:
            put("approve? [y/n] ")
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                put("\nnobody is here to say; that is not answered\n")
                os._exit(1)
            answer = line.strip().lower()
        approved = words[answer]
        put(("approved" if approved else "rejected") + "\n")
        return approved

    async def run() -> None:
        bunker = Bunker(keys, chosen, state, approve, lambda text: put(text + "\n"))
        await bunker.run(
            uri, lambda: put(f"operator: {to_npub(public_hex(keys))}\n{bunker.uri()}\n")
        )

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        os._exit(130)  # a thread may still wait for a line
    return 0


def make_operator(path: str | None, passphrase_file: str | None) -> int:
    """Make an operator's key, in a file (0600) or on stdout; raises Usage where the file exists."""
    if path and os.path.lexists(path := os.path.abspath(os.path.expanduser(path))):
        raise Usage(
            f"{path} is there already, and is not overwritten", "name another file, or use that one"
        )
    harden("avault-phone")
    keys = nostr_sdk.Keys.generate()
    text = keys.secret_key().to_bech32()
    if passphrase_file:
        passphrase = (
            read_file(os.path.expanduser(passphrase_file))
            .decode(errors="replace")
            .removesuffix("\n")
        )
        text = nostr_sdk.EncryptedSecretKey(
            keys.secret_key(), passphrase, NCRYPTSEC_ROUNDS, nostr_sdk.KeySecurity.UNKNOWN
        ).to_bech32()
    if path:
        write_file(path, f"{text}\n".encode())
        say(
            f"wrote {path}; whoever has it opens every vault that is made for it: keep a copy off line"
        )
    else:
        put(f"{text}\n")
    say(f"operator: {to_npub(public_hex(keys))}")
    return 0


def read_operator(path: str, passphrase_file: str | None) -> nostr_sdk.Keys:
    """The key in a file, as nsec, hex or ncryptsec (NIP-49); raises Usage."""
    text = read_file(os.path.expanduser(path)).decode(errors="replace").strip()
    if not text.startswith("ncryptsec1"):
        return parse_keys(text)
    if passphrase_file:
        passphrase = (
            read_file(os.path.expanduser(passphrase_file))
            .decode(errors="replace")
            .removesuffix("\n")
        )
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
