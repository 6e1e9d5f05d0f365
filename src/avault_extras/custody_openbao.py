"""OpenBao and HashiCorp Vault as a custodian: transit wraps the unlock key, or KV keeps it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import avault
from avault import AvaultError, Usage, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault import Errand
    from avault_extras import custody_network
    from avault_extras.custody_openbao_engines import ENGINES, KeyValue, Transit
    from avault_extras.custody_openbao_server import Server
else:
    custody_network = avault.load_extra("custody_network")
    ENGINES = avault.load_extra("custody_openbao_engines").ENGINES
    Server = avault.load_extra("custody_openbao_server").Server

# what each way to log in has to be told, and what it may be told
LOGINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "token": (("token-file",), ()),
    "approle": (("role-id",), ("secret-id-file", "login-mount")),
    "kubernetes": (("role", "jwt-file"), ("login-mount",)),
    "jwt": (("jwt-file",), ("role", "login-mount")),
}
# where others put a token: what `bao login` got, and who a container of Kubernetes is
USUAL = {
    "token": {"token-file": "~/.vault-token"},
    "kubernetes": {"jwt-file": "/var/run/secrets/kubernetes.io/serviceaccount/token"},
}
ALWAYS = ("address", "engine", "mount", "login", "ca-file", "namespace")
CREDENTIALS = ("token-file", "secret-id-file", "jwt-file")
PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"  # of a path on the server


class Custodian:
    """A transit key, or an entry of KV version 2, for whoever can log in there."""

    needs_person: ClassVar[bool] = False
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "address": ("where the server is, as https://HOST:PORT", None),
        "engine": ("transit, which wraps the unlock key; or kv, which keeps it", "transit"),
        "mount": ("where that engine is mounted, if not at transit or at secret", ""),
        "key": ("the transit key; avault, if nothing is said", ""),
        "path": ("where kv keeps it; below avault/, if nothing is said", ""),
        "login": ("token, approle, kubernetes or jwt", "token"),
        "login-mount": ("where that login is mounted, if not at its own name", ""),
        "token-file": ("file with the token; that of bao login, if nothing is said", ""),
        "role-id": ("role id of AppRole", ""),
        "secret-id-file": ("file with the secret id of AppRole", ""),
        "role": ("role of Kubernetes or JWT", ""),
        "jwt-file": ("file with the JWT; Kubernetes puts its own into each container", ""),
        "ca-file": ("file with the authorities to trust instead of the system's", ""),
        "namespace": ("namespace on the server", ""),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.settings = {name: value for name, value in errand.settings.items() if value}

    # What it is told

    def settle(self) -> dict[str, str]:
        """The settings that have a use, each with its value.

        Raises Usage, NotFound, AvaultError.
        """
        settled = self.complete()
        settled["address"] = custody_network.check_address(settled["address"], "address")
        for name in {"mount", "login-mount", "key", "path", "namespace"} & settled.keys():
            settled[name] = settled[name].strip("/")
            if not re.fullmatch(f"{PART}(/{PART})*", settled[name]):
                raise Usage(f"{name} may hold letters, digits, . _ - and /")
        for name in {*CREDENTIALS, "ca-file"} & settled.keys():
            settled[name] = self.errand.path(settled[name])
        server = Server(settled)
        server.connect()  # not made yet; but whom it trusts is read
        for name in settled.keys() & set(CREDENTIALS):
            server.read(name)
        return settled

    def complete(self) -> dict[str, str]:
        """What was told, with what is usual; raises Usage where something lacks, or has no use."""
        told = {"engine": "transit", "login": "token"} | self.settings
        engine, login = told["engine"], told["login"]
        for name, choice in (("engine", ENGINES), ("login", LOGINS)):
            if told[name] not in choice:
                raise Usage(f"{name} is one of: {', '.join(choice)}")
        needed, possible = LOGINS[login]
        usual = {"mount": ENGINES[engine].usual_mount, **USUAL.get(login, {})}
        usual |= {"key": "avault"} if engine == "transit" else {"path": self.usual_path()}
        usual |= {"login-mount": login} if "login-mount" in possible else {}
        settled = usual | told
        for name in settled:
            if name not in (*ALWAYS, *needed, *possible, *usual):
                raise Usage(f"{printable(name)} has no use with engine={engine} and login={login}")
        if "address" not in settled:
            raise Usage("address has to be told", "as in: address=https://bao.example:8200")
        for name in needed:
            if name not in settled:
                raise Usage(f"login={login} needs {name}")
        return settled

    def usual_path(self) -> str:
        """Where KV keeps it if nothing is said: each vault and custodian has its own."""
        return "/".join(["avault", *re.findall(PART, self.errand.names.account)])

    # What it does

    def probe(self) -> str:
        """Whether the server answers, knows us, and its policy lets us get the secret."""

        def look(engine: Transit | KeyValue) -> str:
            server, where = engine.server, engine.where
            allowed = server.give("sys/capabilities-self", {"paths": [where]}).get(where)
            if not {engine.needed, "root"} & {str(each) for each in allowed or []}:
                raise server.forbidden(where)
            engine.look()
            return f"{server.url} lets us use {where}"

        return str(self.use(look))

    def set(self, secret: str) -> str:
        """Keep the secret; what is given is the wrapped one of transit, the version of KV."""

        def keep(engine: Transit | KeyValue) -> str:
            self.check_kind(engine)
            return engine.set(secret)

        return str(self.use(keep))

    def get(self) -> str:
        """The secret."""
        return str(self.use(lambda engine: engine.get()))

    def delete(self) -> None:
        """Forget the secret, where the server keeps it."""
        if self.settings["engine"] == "kv":
            self.use(lambda engine: engine.delete())

    def check_kind(self, engine: Transit | KeyValue) -> None:
        """Raise AvaultError where another engine is mounted there.

        Not every policy lets us look.
        """
        server = engine.server
        found = server.ask("GET", f"sys/internal/ui/mounts/{engine.mount}").data()
        version = (found.get("options") or {}).get("version") if engine.version else None
        if found and (found.get("type"), version) != (engine.kind, engine.version):
            wanted = engine.kind + (f" of version {engine.version}" if engine.version else "")
            raise AvaultError(f"the engine {engine.mount} of {server.url} is not {wanted}")

    def use(self, do: Callable[[Transit | KeyValue], Any]) -> Any:
        """Log in, do something with the engine, and log out, all in the time that there is."""
        server = Server(self.settings)

        def logged_in() -> Any:
            server.log_in()
            try:
                return do(ENGINES[self.settings["engine"]](server, self.errand))
            finally:
                server.log_out()

        return custody_network.within(self.errand, logged_in, server.url)
