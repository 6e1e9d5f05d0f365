"""avault proxy: a proxy that stays, for a grant: for a container, another user, a service."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.cli.custody import show
from avault.daily import is_number
from avault.errors import Usage
from avault.running.proxy_variables import proxy_variables
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, put_table, say
from avault.terminal.terminal import Terminal
from avault.vault.formats import quote_sh

if TYPE_CHECKING:
    from typing import Any


@command(
    "proxy start",
    argument("grant"),
    option("--port"),
    option("--host", "hosts", multiple=True),
    option("--egress"),
    option("--ask", is_flag=True),
)
def cmd_proxy_start(
    terminal: Terminal,
    grant: str,
    port: str | None,
    hosts: tuple[str, ...],
    egress: str | None,
    ask: bool,
) -> int:
    """usage: avault proxy start GRANT [--port PORT] [--host GROUP/KEY=HOST]…
                          [--egress rules|open] [--ask] [--json]

    Starts a proxy that stays, for one grant, and prints what its caller is to set:
    placeholders in place of keys, and where clients look for a proxy and for
    authorities. It never gives more than the grant, and each request counts and is
    logged under its name. It ends with the grant, with the lock, and by avault proxy stop.

    It listens at a socket, proxy/proxy.sock beside the grant's own, for the users of
    the grant; a container has that directory mounted. --port makes it listen on this
    machine's loopback, too (0: any free port), for who has the token that is then in
    HTTPS_PROXY, and is shown this once. --host names a host where no guard does.
    --ask has the phone asked before a key first goes to a host.

      avault grant web --can proxy --group openai --uid www-data
      avault proxy start web
      avault proxy start web --port 8443 > proxy.env
    """
    if port is not None and not (is_number(port) and int(port) <= 65535):
        raise Usage("--port takes a number, 0 for any that is free")
    fields: dict[str, Any] = {"grant": grant, "hosts": list(hosts), "ask": ask}
    told = terminal.ask(
        "proxy_start", port=None if port is None else int(port), egress=egress, **fields
    )
    directory = str(told["directory"])
    variables = {name: told["placeholders"][place] for name, place in told["names"].items()}
    url = f"http://avault:{told['token']}@127.0.0.1:{told['port']}" if told.get("token") else ""
    ways = proxy_variables(url, os.path.join(directory, "bundle.pem"))
    variables |= {name: value for name, value in ways.items() if value}
    path = os.path.join(directory, "proxy.sock")
    if terminal.want_json:
        known = ("grant", "port", "secrets", "egress", "since")
        shown = {"socket": path, "bundle": f"{directory}/bundle.pem", "variables": variables}
        return show(terminal, {**{each: told[each] for each in known}, **shown})
    put("".join(map(quote_sh, variables, variables.values())))
    say(f"it listens at {path}" + (f", and on 127.0.0.1:{told['port']}" if url else ""))
    if not url:
        say("HTTPS_PROXY is left to who passes that on to a port: see references/proxy.md")
    return 0


@command("proxy status")
def cmd_proxy_status(terminal: Terminal) -> int:
    """usage: avault proxy status [--json]

    Which proxies stay: the grant of each, since when, how many requests got a key,
    for which hosts, and where it listens. No token is shown.

      avault proxy status
    """
    proxies = terminal.ask("proxies")["proxies"]
    if terminal.want_json:
        return show(terminal, {"proxies": proxies})
    if proxies:
        put_table([describe_proxy(each) for each in proxies])
    else:
        say("no proxy stays; avault run --proxy has its own")
    return 0


@command(
    "proxy stop", argument("grant", required=False), option("--all", "everything", is_flag=True)
)
def cmd_proxy_stop(terminal: Terminal, grant: str | None, everything: bool) -> int:
    """usage: avault proxy stop GRANT
           avault proxy stop --all

    Ends the proxy of a grant, or all that stay, with what is open through them. The
    grants stay: avault revoke ends both.

      avault proxy stop web
    """
    if bool(grant) == everything:
        raise Usage("which proxy?", "avault proxy stop GRANT, or --all; see: avault proxy status")
    stopped = terminal.ask("proxy_stop", grant=grant)["stopped"]
    say(f"ended: {', '.join(stopped)}" if stopped else "no proxy stays")
    return show(terminal, {"ok": True, "stopped": stopped}) if terminal.want_json else 0


def describe_proxy(each: dict[str, Any]) -> tuple[str, str, str]:
    """A proxy that stays, as a row."""
    count = each["requests"]
    hosts = f" to {', '.join(each['hosts'])}" if each["hosts"] else ""
    said = f"since {each['since']}; {count} request{'s' * (count != 1)}{hosts}"
    said += f"; {', '.join(each['secrets']) or 'no key'}; egress {each['egress']}"
    port = f", 127.0.0.1:{each['port']}" if each["port"] is not None else ""
    return each["grant"], said, f"{each['directory']}/proxy.sock{port}"
