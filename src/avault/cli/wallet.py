"""avault wallet: keys that pay, for programs that know Ethereum's JSON-RPC."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import TYPE_CHECKING

from avault.cli.custody import show
from avault.daily import is_number
from avault.errors import AvaultError, Denied, NotFound, Unavailable, Usage, printable
from avault.fronts.node_link import NodeFault, NodeLink
from avault.fronts.vault_link import VaultLink
from avault.fronts.wallet_door import WalletDoor
from avault.fronts.wallet_rpc import WalletRpc
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, put_table, say
from avault.terminal.terminal import Terminal
from avault.terminal.words import split_name
from avault.vault.rule_members import is_port
from avault.vault.solana_rules import CLUSTERS
from avault.vault.wallet_rules import HIGHEST_CHAIN, name_chain

if TYPE_CHECKING:
    from typing import Any


def find_wallets(terminal: Terminal, name: str | None) -> list[dict[str, Any]]:
    """The keys that pay, or the one of that name; raises NotFound."""
    found = list(terminal.ask("keys", **{"as": "wallet"})["keys"])
    if name is None:
        return found
    group, key = split_name(name, None)
    rows = [each for each in found if each["name"] == f"{group}/{key}"]
    if not rows:
        raise NotFound(
            f"no key that pays is called {printable(name, 80)}",
            "see which there are: avault wallet address",
        )
    return rows


@command("wallet address", argument("group", required=False))
def cmd_wallet_address(terminal: Terminal, group: str | None) -> int:
    """usage: avault wallet address [GROUP/KEY] [--json]

    Prints the address of a key that pays, or of each with its name.

      avault wallet address shop/PAY
    """
    rows = find_wallets(terminal, group)
    if terminal.want_json:
        return show(terminal, {"keys": rows})
    if group is not None:
        put(f"{rows[0]['public']}\n")
    elif rows:
        put_table([(each["name"], each["public"]) for each in rows])
    else:
        say("there is no key that pays; to make one: avault key generate evm GROUP/KEY")
    return 0


@command("wallet limits", argument("group", required=False))
def cmd_wallet_limits(terminal: Terminal, group: str | None) -> int:
    """usage: avault wallet limits [GROUP/KEY] [--json]

    Shows how much of what may be spent in a day, and how much of that is left. A
    day is the last 24 hours, by whole hours, on all machines that are known of.

      avault wallet limits shop/PAY
    """
    rows = find_wallets(terminal, group)
    if terminal.want_json:
        return show(terminal, {"keys": rows})
    table = [
        (
            each["name"],
            CLUSTERS.get(limit["chain"]) or name_chain(limit["chain"]),
            f"{limit['spent']} of {limit['day']} {limit['symbol']} spent, {limit['left']} left",
            f"some is free again at {limit['until']}" if limit["until"] else "",
        )
        for each in rows
        for limit in each["limits"]
    ]
    if table:
        put_table(table)
    else:
        say("no key may spend anything")
    return 0


@command(
    "wallet serve",
    argument("group"),
    option("--rpc"),
    option("--chain"),
    option("--port"),
)
def cmd_wallet_serve(
    terminal: Terminal, group: str, rpc: str | None, chain: str | None, port: str | None
) -> int:
    """usage: avault wallet serve GROUP/KEY --rpc URL|- [--chain N] [--port N]

    Serves a key that pays to programs that know Ethereum's JSON-RPC (web3.py, ethers,
    viem, cast), on this machine, and prints the URL for them. It has no key: what is
    to be signed goes to the vault, which holds it against the key's rules, and asks
    the phone where they want that. What only reads goes to the node at --rpc; - reads
    that URL from stdin, as it may have a secret in it. It ends with Ctrl-C. Who knows
    the printed URL can ask for all that the rules let: it is as good as the key, within
    those. Clients need patience where the phone is asked.

      avault wallet serve shop/PAY --rpc https://mainnet.base.org
    """
    if not rpc:
        raise Usage("which node?", "as in: --rpc https://mainnet.base.org")
    if chain is not None and not (is_number(chain) and 0 < int(chain) < HIGHEST_CHAIN):
        raise Usage("--chain takes the number of a chain", "as in: --chain 8453")
    if port is not None and not is_port(port):
        raise Usage("--port takes the number of a port")
    [wallet] = find_wallets(terminal, group)
    if wallet["kind"] == "solana":
        raise Usage(f"{group} pays on Solana, and this is for Ethereum", "see: avault sign --help")
    chains = sorted({each["chain"] for each in wallet["limits"]})
    if chain is None and len(chains) != 1:
        raise Usage(
            f"{group} has rules for {len(chains)} chains, and one is served", "name it: --chain N"
        )
    number = int(chain) if chain is not None else chains[0]
    node = NodeLink(sys.stdin.readline().strip() if rpc == "-" else rpc)
    try:
        asyncio.run(serve_wallet(terminal, wallet, node, number, int(port or 0)))
    except KeyboardInterrupt:
        pass
    return 0


async def serve_wallet(
    terminal: Terminal, wallet: dict[str, Any], node: NodeLink, chain: int, port: int
) -> None:
    """Serve it until somebody ends that; raises AvaultError."""
    try:
        found = int(str(await node.ask("eth_chainId")), 16)
    except (NodeFault, ValueError):
        raise Unavailable("the node does not say on which chain it is", "another --rpc") from None
    if found != chain:
        raise Denied(
            f"the node is on {name_chain(found)} ({found}), and the key is to pay on"
            f" {name_chain(chain)} ({chain})",
            "another --rpc, or another --chain",
        )
    group, _, key = wallet["name"].partition("/")
    named, address = (group, key), wallet["public"]
    served = WalletRpc(VaultLink(terminal.places), node, named, address, chain)
    door = WalletDoor(served.handle, secrets.token_urlsafe(24))
    try:
        await door.open(port)
    except OSError as error:
        raise AvaultError(f"cannot listen: {error.strerror or error}", "another --port") from None
    put(f"{door.url()}\n")
    sys.stdout.flush()
    say(f"{wallet['name']} ({address}) pays on {name_chain(chain)}: {wallet['rules']}")
    if door.server:
        await door.server.serve_forever()
