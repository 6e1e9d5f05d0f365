"""An OpenBao or HashiCorp Vault server, as the custodian openbao asks it.

It is spoken with http.client, for a few requests of JSON: no proxy, no redirect, no package, and
nothing that would put a token into an error. https://openbao.org/api-docs/ describes each path that
is asked.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import avault
from avault import AvaultError, Denied, NotFound, Unavailable, printable

if TYPE_CHECKING:
    import http.client
    import ssl

    from avault_extras import custody_network
else:
    custody_network = avault.load_extra("custody_network")

TIMEOUT = 10.0  # seconds for one step of a request; for all of them together see `within`
SHORT = 2.0  # the same, for what need not be
LARGEST = 1 << 20  # bytes of an answer


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    body: dict[str, Any]

    def data(self) -> dict[str, Any]:
        """Its data; {} for none."""
        data = self.body.get("data")
        return data if isinstance(data, dict) else {}

    def says(self, text: str) -> bool:
        """Whether one of its errors has this text. They are compared, and never shown."""
        errors = self.body.get("errors")
        return isinstance(errors, list) and any(text in str(error) for error in errors)


class Server:
    """The server that the settings name (see `SETTINGS` of the custodian), and who we are to it.

    `token` goes with each request, once there is one; `is_known` says whether the server took it.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings, self.url = settings, settings["address"]
        self.token, self.is_known, self.timeout = "", True, TIMEOUT
        self.trusted: ssl.SSLContext | None = None

    # Requests

    def connect(self) -> http.client.HTTPConnection:
        """A connection, which is made when it is used; raises AvaultError."""
        custody_network.allow_tls()
        import http.client

        parts = urlsplit(self.url)
        host, port, time = parts.hostname or "", parts.port, self.timeout
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port or 80, timeout=time)
        trusted = self.trust()
        return http.client.HTTPSConnection(host, port or 443, timeout=time, context=trusted)

    def trust(self) -> ssl.SSLContext:
        """Whom we trust: the authorities of the ca-file alone, or the system's.

        Raises AvaultError.
        """
        import ssl

        path = self.settings.get("ca-file")
        try:
            self.trusted = self.trusted or ssl.create_default_context(cafile=path)
        except OSError:  # ssl.SSLError is one
            raise AvaultError(f"{path} holds no certificates") from None
        return self.trusted

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """The answer to one request, if it was understood; raises Unavailable, AvaultError.

        Where the server sends us elsewhere, nobody goes: the token is for this server.
        """
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        headers |= {"X-Vault-Token": self.token} if self.token else {}
        namespace = self.settings.get("namespace")
        headers |= {"X-Vault-Namespace": namespace} if namespace else {}
        data = None if body is None else json.dumps(body).encode()
        connection = self.connect()
        import http.client

        try:
            connection.request(method, f"/v1/{path}", data, headers)
            response = connection.getresponse()
            status, data = response.status, response.read(LARGEST + 1)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"{self.url} cannot be asked: {why(error)}") from None
        finally:
            connection.close()
        if len(data) > LARGEST:
            raise AvaultError(f"the answer of {self.url} is too large")
        return self.understand(status, data)

    def understand(self, status: int, data: bytes) -> Answer:
        """An answer that is about what was asked; raises what is about the server."""
        if 300 <= status < 400:
            hint = "is address= that of the active server?"
            raise Unavailable(f"{self.url} sends us to another address", hint)
        try:
            body = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            body = None
        answer = Answer(status, body if isinstance(body, dict) else {})
        if status == 503 and answer.says("is sealed"):
            hint = "its operators can open it: bao operator unseal"
            raise Unavailable(f"{self.url} is sealed", hint)
        if status >= 500:
            raise Unavailable(f"{self.url} does not work: status {status}")
        if status == 429:
            raise Unavailable(f"{self.url} is asked too often")
        if not isinstance(body, dict):
            raise self.stranger()
        return answer

    def stranger(self) -> AvaultError:
        """What is said of a server that is another."""
        return AvaultError(f"what answers at {self.url} is no OpenBao, and no Vault")

    def need(self, answer: Answer, where: str) -> Answer:
        """An answer, if it is one of success; raises what its status means."""
        if answer.status < 300:
            return answer
        if answer.status == 404:
            raise NotFound(f"{self.url} has nothing at {where}")
        if answer.status != 403:
            what = f"what is asked at {where}: status {answer.status}"
            raise AvaultError(f"{self.url} refuses {what}")
        if self.is_known:
            raise self.forbidden(where)
        path = self.settings["token-file"]
        message = f"{self.url} does not take the token in {path}, or it may not use {where}"
        raise Denied(message, "put a token there that is good: bao token create -help")

    def forbidden(self, where: str) -> Denied:
        """What is said where a policy says no."""
        message = f"the policy of {self.url} does not let us use {where}"
        return Denied(message, "references/custody.md has the policy that lets us")

    def give(self, where: str, body: dict[str, Any]) -> dict[str, Any]:
        """The data of the answer to what is given; raises what went wrong."""
        return self.need(self.ask("POST", where, body), where).data()

    # The login

    def log_in(self) -> None:
        """Get a token; raises Denied, NotFound, Unavailable, AvaultError."""
        login = self.settings["login"]
        if login == "token":
            self.token = self.read("token-file")
            self.renew()
            return
        told = {"role": self.settings["role"]} if "role" in self.settings else {}
        if login == "approle":
            told = {"role_id": self.settings["role-id"]}
            if "secret-id-file" in self.settings:
                told["secret_id"] = self.read("secret-id-file")
        else:
            told["jwt"] = self.read("jwt-file")
        where = f"auth/{self.settings['login-mount']}/login"
        answer = self.ask("POST", where, told)
        if answer.status in (400, 401, 403):
            raise Denied(f"{self.url} refuses the login at {where}")
        auth = self.need(answer, where).body.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            # as where it wants a second factor
            raise Denied(f"{self.url} gives no token for the login at {where}")
        self.token = token

    def read(self, name: str) -> str:
        """The token, secret id or JWT in the file that a setting names."""
        private = name != "jwt-file"  # which Kubernetes puts there for all in the container
        return str(custody_network.read_credential(self.settings[name], private))

    def renew(self) -> None:
        """Renew a token that is renewable and has less than half of its time left.

        Not every policy lets a token look at itself; one that cannot is used as it is.
        """
        answer = self.ask("GET", "auth/token/lookup-self")
        self.is_known = answer.status == 200
        token = answer.data()
        left, whole = token.get("ttl"), token.get("period") or token.get("creation_ttl")
        if not (token.get("renewable") and isinstance(left, int) and isinstance(whole, int)):
            return
        if left < whole / 2:
            with contextlib.suppress(AvaultError):  # it is good as it is; next time again
                # without an increment, for as long as the last time
                self.ask("POST", "auth/token/renew-self", {"increment": whole})

    def log_out(self) -> None:
        """Revoke a token that was made for us; soon, as what it was for is done.

        One that cannot be revoked ends by itself.
        """
        if self.settings["login"] != "token" and self.token:
            self.timeout = SHORT
            with contextlib.suppress(AvaultError):
                self.ask("POST", "auth/token/revoke-self", {})


def why(error: Exception) -> str:
    """Why nothing was answered, without what was sent."""
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT:g} s"
    # of ssl.SSLCertVerificationError, in the words of OpenSSL
    if verify := getattr(error, "verify_message", None):
        return f"its certificate is not trusted: {printable(verify)}"
    return printable((error.strerror if isinstance(error, OSError) else "") or type(error).__name__)
