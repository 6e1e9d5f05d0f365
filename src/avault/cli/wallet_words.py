"""What is said of keys that pay on a command line: rules, in any order of their words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Usage, printable
from avault.terminal.commands import option
from avault.vault.pay_rules import arrange_pay_rule
from avault.vault.wallet_rules import WrongCoin

if TYPE_CHECKING:
    from typing import Any


WALLET_OPTIONS = (option("--wallet", "wallet", multiple=True),)
WALLET_EXAMPLE = "as in: --wallet 'chain 8453 token ETH to any tx 0.01 day 0.05 fee 0.001'"


def name_wallet_uses(given: tuple[str, ...]) -> dict[str, Any]:
    """The field of a request that says what a key may spend, as it is kept; raises Usage."""
    found = []
    for each in given:
        try:
            found.append(arrange_pay_rule(each))
        except ValueError as error:
            said = printable(str(error), 120)
            hint = error.right if isinstance(error, WrongCoin) else WALLET_EXAMPLE
            raise Usage(f"not a rule of a wallet: {said}", hint) from None
    return {"wallet": found} if found else {}
