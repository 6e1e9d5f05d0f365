"""A wallet's JSON-RPC (EIP-1193, EIP-1474): reads go to the node, what signs to the vault.

Errors are as EIP-1193 has them: 4001 for what was refused, with words that clients look for, 4100
for another account, 4200 for what there is not, 4900 while the vault cannot be reached.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Locked, NotFound, TimedOut, Unavailable, Usage
from avault.fronts.node_link import NodeFault, NodeLink
from avault.fronts.vault_link import VaultLink
from avault.fronts.wallet_deals import Deal, Deals
from avault.process import uptime
from avault.ssh_wire import encode_base64
from avault.vault.evm_address import keccak256, parse_address, show_address

if TYPE_CHECKING:
    from typing import Any

    from avault.fronts.wallet_door import Answered


READS = frozenset(
    {
        "eth_blockNumber", "eth_call", "eth_estimateGas", "eth_feeHistory", "eth_gasPrice",
        "eth_getBalance", "eth_getBlockByHash", "eth_getBlockByNumber", "eth_getBlockReceipts",
        "eth_getCode", "eth_getLogs", "eth_getStorageAt", "eth_getTransactionByHash",
        "eth_getTransactionCount", "eth_getTransactionReceipt", "eth_maxPriorityFeePerGas",
        "eth_syncing", "web3_clientVersion",
    }
)  # fmt: skip
WALLET_OWN = frozenset({"to", "value", "data", "input", "gas", "gasPrice"})
OWN_FIELDS = WALLET_OWN | {
    "maxFeePerGas",
    "maxPriorityFeePerGas",
    "from",
    "chainId",
    "nonce",
    "type",
}
WALLET_SIGNED_AS = {"personal_sign": "evm-message", "eth_signTypedData_v4": "evm-typed"}
UNAUTHORIZED, UNSUPPORTED, DISCONNECTED, USER_DENIED = 4100, 4200, 4900, 4001
INVALID = -32602
REPLACED_TIME = (
    60.0  # seconds that a node says so, until another one is taken for mined in its place
)
GAS_SHARE = (6, 5)  # what is asked for beyond an estimate: a fifth more


class RpcFault(Exception):
    """What is answered where something went wrong."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def to_dict(self) -> dict[str, Any]:
        """As JSON-RPC has it."""
        return {"code": self.code, "message": self.message}


def explain_fault(error: Exception) -> dict[str, Any]:
    """An error as JSON-RPC has it; ethers knows a refusal by the words "user denied"."""
    if isinstance(error, RpcFault | NodeFault):
        return error.to_dict()
    if isinstance(error, Denied | TimedOut):
        return {"code": USER_DENIED, "message": f"User denied: {error.message}"}
    if isinstance(error, Locked | Unavailable):
        return {"code": DISCONNECTED, "message": error.message}
    if isinstance(error, NotFound):
        return {"code": UNAUTHORIZED, "message": error.message}
    if isinstance(error, Usage):
        return {"code": INVALID, "message": error.message}
    known = error.message if isinstance(error, AvaultError) else "something went wrong"
    return {"code": -32603, "message": known}


class WalletRpc:
    """One account on one chain: what callers ask of it. It has no key.

    `name` is GROUP and KEY. `next_nonce` is what follows on the last transaction that was sent
    here, which a node may not know of yet.
    """

    def __init__(
        self, vault: VaultLink, node: NodeLink, name: tuple[str, str], address: str, chain: int
    ) -> None:
        self.vault, self.node, self.name = vault, node, name
        self.address, self.chain = address, chain
        self.deals, self.sending, self.next_nonce = Deals(), asyncio.Lock(), 0

    async def handle(self, request: dict[str, Any]) -> Answered:
        """The answer to a request, and whom to tell whether it was delivered."""
        head = {"jsonrpc": "2.0", "id": request.get("id")}
        deal: Deal | None = None
        try:
            method, params = request.get("method"), request.get("params", [])
            if not isinstance(method, str) or not isinstance(params, list):
                raise RpcFault(-32600, "no request of JSON-RPC")
            if method in ("eth_sendTransaction", "eth_signTransaction", *WALLET_SIGNED_AS):
                result, deal = await self.sign(method, params)
            else:
                result = await self.read(method, params)
        except Exception as error:
            return {**head, "error": explain_fault(error)}, lambda is_delivered: None
        return {**head, "result": result}, deal.end if deal else lambda is_delivered: None

    async def read(self, method: str, params: list[Any]) -> Any:
        """What is not signed; raises RpcFault, NodeFault."""
        if method in ("eth_accounts", "eth_requestAccounts"):
            return [self.address]
        if method == "eth_chainId":
            return hex(self.chain)
        if method == "net_version":
            return str(self.chain)
        if method not in READS:
            raise RpcFault(UNSUPPORTED, f"this wallet has no {method[:60]}")
        return await self.node.ask(method, *params)

    async def sign(self, method: str, params: list[Any]) -> tuple[Any, Deal]:
        """What is signed, once for who asks for the same again; raises what keeps from it."""
        what = json.dumps([method, params], sort_keys=True)
        if method in WALLET_SIGNED_AS:
            is_text = method == "personal_sign"
            if len(params) < 2:
                raise RpcFault(INVALID, "an account, and what is to be signed")
            given, account = (params[0], params[1]) if is_text else (params[1], params[0])
            if is_text and is_account(given, self.address):  # some clients have them the other way
                given, account = account, given
            self.need_own(account)
            payload = read_text_payload(given) if is_text else read_typed_payload(given)
            return await self.deals.take_part(
                what, lambda deal: self.sign_payload(WALLET_SIGNED_AS[method], payload, deal)
            )
        if not params or not isinstance(params[0], dict):
            raise RpcFault(INVALID, "a transaction")
        fields = {name: value for name, value in params[0].items() if value is not None}
        if unknown := sorted({*fields} - OWN_FIELDS - {"accessList"}):
            raise RpcFault(INVALID, f"no such field of a transaction: {unknown[0][:40]}")
        self.need_own(fields.pop("from", self.address))
        if fields.get("accessList"):
            raise RpcFault(INVALID, "a transaction with an access list")
        make = self.send if method == "eth_sendTransaction" else self.sign_transaction
        return await self.deals.take_part(what, lambda deal: make(fields, deal))

    def need_own(self, account: object) -> None:
        """Raise RpcFault for an account that is not this wallet's."""
        if not is_account(account, self.address):
            raise RpcFault(UNAUTHORIZED, f"this wallet has {self.address} alone")

    async def sign_payload(self, what: str, payload: bytes, deal: Deal, nonce: Any = None) -> str:
        """A signature of the vault's; raises AvaultError. Who waits no more gets none."""
        group, key = self.name

        async def second() -> dict[str, Any]:
            if not deal.callers:
                return {"go": False}
            return {"go": True, **({"nonce": await nonce()} if nonce else {})}

        named = {"group": group, "key": key, "confirm": True}
        fields = {"as": what, "payload": encode_base64(payload), **named}
        answer = await self.vault.converse("sign", second, fields)
        return str(answer["signature"])

    async def complete(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A transaction with the chain of this wallet, and with gas and fees where it has none."""
        chain = fields.get("chainId", hex(self.chain))
        if not isinstance(chain, str) or chain.lower() != hex(self.chain):
            raise RpcFault(INVALID, f"this wallet is on the chain {self.chain}")
        made = {**{name: value for name, value in fields.items() if name in OWN_FIELDS}}
        made |= {"chainId": hex(self.chain), "from": self.address}
        if "gas" not in made:
            asked = {name: made[name] for name in ("from", *WALLET_OWN) if name in made}
            estimate = int(await self.node.ask("eth_estimateGas", asked), 16)
            made["gas"] = hex(estimate * GAS_SHARE[0] // GAS_SHARE[1])
        if "gasPrice" not in made and "maxFeePerGas" not in made:
            block = await self.node.ask("eth_getBlockByNumber", "latest", False)
            base = int(block.get("baseFeePerGas", "0x0"), 16)
            tip = int(made.get("maxPriorityFeePerGas") or await self.ask_tip(), 16)
            made |= {"maxPriorityFeePerGas": hex(tip), "maxFeePerGas": hex(2 * base + tip)}
        return made

    async def ask_tip(self) -> str:
        """What who includes a transaction is given, as the node says."""
        return str(await self.node.ask("eth_maxPriorityFeePerGas"))

    async def find_nonce(self) -> int:
        """The next nonce: the node's, or what follows on our own last, if that is higher."""
        pending = await self.node.ask("eth_getTransactionCount", self.address, "pending")
        return max(int(pending, 16), self.next_nonce)

    async def send(self, fields: dict[str, Any], deal: Deal) -> str:
        """A transaction that is signed and sent: its hash. The nonce is that of after the approval.

        A caller's own is not asked for: it would leave a gap that keeps all later ones waiting.
        What a node did not answer to may have been taken, and so may what one of several nodes says
        no to: who asks again has the same one sent.
        """
        if deal.raw:
            return await self.send_raw(deal)
        made = await self.complete(fields)
        made.pop("nonce", None)
        holder: list[int] = []

        async def nonce() -> str:
            await self.sending.acquire()
            holder.append(0)
            holder[0] = await self.find_nonce()
            return hex(holder[0])

        try:
            deal.raw = await self.sign_payload("evm-tx", json.dumps(made).encode(), deal, nonce)
            deal.nonce = holder[0]
            return await self.send_raw(deal)
        finally:
            if holder:
                self.sending.release()

    async def send_raw(self, deal: Deal) -> str:
        """Send what is signed: its hash, of ours. Raises NodeFault, Unavailable.

        It stays with the deal, unless another one was mined in its place: then it can be no more.
        A node may count ours as mined before it finds it, so it has to say so for a while.
        """
        own = hash_raw(deal.raw)
        try:
            await self.node.ask("eth_sendRawTransaction", deal.raw)
        except NodeFault:  # "already known" among them
            mined = await self.ask_or_none("eth_getTransactionCount", self.address, "latest")
            if not await self.ask_or_none("eth_getTransactionByHash", own):
                if int(str(mined or "0x0"), 16) <= deal.nonce:
                    deal.replaced_at = 0.0
                elif not deal.replaced_at:
                    deal.replaced_at = uptime()
                elif uptime() >= deal.replaced_at + REPLACED_TIME:
                    deal.raw = ""
                raise
        except Unavailable as error:
            raise Unavailable(
                f"{error.message}; it may have taken {own}, and who asks for the same again"
                " has the same one sent"
            ) from None
        self.next_nonce = max(self.next_nonce, deal.nonce + 1)
        return own

    async def ask_or_none(self, method: str, *params: object) -> Any:
        """What the node answers; None where it says that it cannot."""
        try:
            return await self.node.ask(method, *params)
        except NodeFault:
            return None

    async def sign_transaction(self, fields: dict[str, Any], deal: Deal) -> dict[str, Any]:
        """A transaction that is signed, and not sent: as geth has it, `raw` and `tx`."""
        made = await self.complete(fields)
        if "nonce" not in made:
            made["nonce"] = hex(await self.find_nonce())
        raw = await self.sign_payload("evm-tx", json.dumps(made).encode(), deal)
        return {"raw": raw, "tx": {**made, "hash": hash_raw(raw)}}


def hash_raw(raw: str) -> str:
    """What a transaction is called on its chain."""
    return "0x" + keccak256(bytes.fromhex(raw[2:])).hex()


def is_account(account: object, address: str) -> bool:
    """Whether it is this account, in whatever case of letters."""
    try:
        return show_address(parse_address(account)) == address
    except ValueError:
        return False


def read_text_payload(given: object) -> bytes:
    """The bytes that personal_sign is given, in hex or as a text; raises RpcFault."""
    if not isinstance(given, str):
        raise RpcFault(INVALID, "a message is a text, or bytes in hex")
    try:
        return bytes.fromhex(given[2:]) if given[:2] == "0x" else given.encode()
    except ValueError:
        return given.encode()


def read_typed_payload(given: object) -> bytes:
    """Typed data, which some clients give as a text; raises RpcFault."""
    if isinstance(given, str):
        return given.encode()
    if not isinstance(given, dict):
        raise RpcFault(INVALID, "typed data is an object")
    return json.dumps(given).encode()
