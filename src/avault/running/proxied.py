"""A command whose HTTPS goes through avault's proxy, with placeholders in place of secrets.

The session is a connection to the daemon: when that ends, so does the proxy, at once.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

from avault.client import Connection
from avault.errors import AvaultError, Unavailable, printable
from avault.protocol import decode_frame
from avault.running.inside import start_forwarder
from avault.running.looking import Secrets
from avault.running.proxy_variables import INHERITED, proxy_variables
from avault.running.secrets import Injection, find_references, refuse_dangerous
from avault.running.stores import Stores
from avault.systemd import NoDaemon
from avault.terminal.talk import say, warn
from avault.terminal.terminal import Terminal, tell_of_asking

if TYPE_CHECKING:
    from typing import Any


class ProxySession:
    """A session of the proxy: `told` is what the daemon says of it, `directory` has its files.

    `url` is that of the port on this machine, with the token that lets in; "" without `tcp`. Raises
    what the daemon answers.
    """

    def __init__(self, terminal: Terminal, fields: dict[str, Any], tcp: bool) -> None:
        try:
            self.connection = Connection(terminal.places)
        except NoDaemon:
            raise terminal.no_daemon() from None
        fast = self.connection.fast
        request = {"v": 1, "vault": terminal.places.id, "op": "proxy", "tcp": tcp, **fields}
        fast.send(json.dumps(request))
        while True:
            text = fast.receive()
            if not text:
                raise Unavailable("the daemon went away before it answered", "see: avault status")
            self.told = decode_frame(text.encode())
            if "progress" not in self.told:
                break
            tell_of_asking(self.told)
        if not self.told.get("ready"):
            raise AvaultError.from_dict(self.told)
        self.directory, is_grant = str(self.told["directory"]), terminal.places.is_grant()
        if is_grant:  # the daemon may have another view of files, as from outside of a container
            place = os.path.dirname(terminal.places.socket)
            self.directory = os.path.join(place, os.path.basename(self.directory))
        self.bundle = os.path.join(self.directory, "bundle.pem")
        self.url = ""
        # what is forked from here on, and stays longer than we do, does not hold it open
        os.register_at_fork(after_in_child=fast.socket.close)
        if tcp:
            path = os.path.join(self.directory, "proxy.sock")
            port = start_forwarder(port=0, path=path) if is_grant else self.told["port"]
            self.url = f"http://avault:{self.told['token']}@127.0.0.1:{port}"

    def end(self) -> None:
        """End it, and with it what is open through the proxy."""
        sock = socket.socket(fileno=self.connection.fast.socket.detach())
        with sock:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the daemon has ended it


class Proxied:
    """What a command with --proxy is given: placeholders, the other keys that were named, the way.

    `choice` has the fields of the request `proxy`.
    """

    def __init__(
        self, terminal: Terminal, choice: dict[str, Any], egress: str, stores: Stores
    ) -> None:
        self.terminal, self.choice, self.egress = terminal, choice, egress
        self.stores = stores
        self.placeholders: dict[str, str] = {}

    def give(
        self,
        terminal: Terminal,
        injection: Injection,
        variables: dict[str, str] | None,
        is_asked: bool,
        tcp: bool = True,
    ) -> None:
        """Begin the session, and fill `injection`; raises what the daemon answers.

        `variables` are a file's. Where that was not asked for (`is_asked`), but lies in the
        directory, it gets placeholders only: it may be a stranger's.
        """
        fields, allow = {**self.choice, "egress": self.egress}, self.choice["allow"]
        if variables is not None:
            refuse_dangerous(variables, allow)
            wanted = [find_references(value.encode(), name) for name, value in variables.items()]
            fields["also"] = sorted({place for each in wanted for place in each})
        if self.stores.wanted:
            there = terminal.ask("list", format="names")["output"].split()
            fields["also"] = [*fields.get("also", []), *self.stores.choose({*there})]
        self.session = ProxySession(terminal, fields, tcp)
        told = self.session.told
        self.placeholders = dict(told["placeholders"])
        if others := told["others"]:
            named = [f"{name}={place}" for name, place in others.items()]
            injection.take(terminal, [], [], named, False, allow)
        for name, place in told["names"].items():
            injection.places[name], injection.variables[name] = place, self.placeholders[place]
        if variables is not None:
            held = {*told["rest"]} - {*others.values()}
            if not is_asked and held:
                warn(
                    f"left out, as no host is named for it: {', '.join(sorted(held))}",
                    "avault run --proxy --host GROUP/KEY=HOST; or as it is: --only GROUP/KEY",
                )
                variables = {
                    name: value
                    for name, value in variables.items()
                    if not find_references(value.encode(), name) & held
                }
            injection.secrets |= {place: [each] for place, each in self.placeholders.items()}
            injection.set(terminal, variables, allow)
            for place in self.placeholders:
                del injection.secrets[place]
        injection.variables |= self.stores.fill(self.placeholders, is_alone=not tcp)
        shown = sorted(self.placeholders)
        say(f"through the proxy: {printable(', '.join(shown) or 'no secret', 2000)}")
        if tcp:
            say("a program of this user can go around the proxy; it has no value there")

    def masks(self) -> Secrets:
        """What is masked besides the vault's secrets: what lets in to the proxy."""
        return {"proxy/TOKEN": [str(self.session.told["token"])]} if self.session.url else {}

    def environment(self, found: dict[bytes, bytes], injection: Injection) -> dict[bytes, bytes]:
        """A command's environment, with the proxy in it, and nothing that leads around it."""
        removed = {name.encode() for name in INHERITED}
        ways = proxy_variables(self.session.url, self.session.bundle)
        given = {name.encode(): value.encode() for name, value in ways.items()}
        kept = {name: value for name, value in found.items() if name not in removed}
        return {**kept, **given}
