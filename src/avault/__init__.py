"""avault keeps an AI agent's secrets, and opens them with the operator's phone.

On the disk there is only ciphertext. The key to it comes from the operator's
signer app (Amber, nsec.app, Primal, any NIP-46 bunker), over a Nostr relay,
each time the machine boots. The secrets then live in the memory of one
process, the keyholder, and leave with it.

    avault CLI --unix socket--> supervisor --hands the connection--> keyholder
                                (no secret,                          (agent key, vault;
                                 survives lock)                       talks NIP-46; exits on lock)

What this defends against: a stolen disk, backup, snapshot or git repository;
other users of the machine; relays and everybody on them; a signer's history
(what the phone answered last time opens nothing that is on the disk today).
What it cannot: root or the same user while the vault is open, and whoever
changes this very file before an approval. references/security.md has the rest.

The rooms, in order; each calls only what stands above it:

    ROOMS
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own constant, without importing typing
