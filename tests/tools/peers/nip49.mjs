// NIP-49 by nostr-tools: node nip49.mjs, a JSON object on stdin, an answer on stdout.
// {"secret": hex, "passphrase", "log_n"} gives an ncryptsec; {"ncryptsec", "passphrase"} gives the secret in hex.

import { readFileSync } from "node:fs";
import { decrypt, encrypt } from "nostr-tools/nip49";

const asked = JSON.parse(readFileSync(0, "utf8"));
if (asked.ncryptsec) {
  console.log(Buffer.from(decrypt(asked.ncryptsec, asked.passphrase)).toString("hex"));
} else {
  console.log(encrypt(Uint8Array.from(Buffer.from(asked.secret, "hex")), asked.passphrase, asked.log_n));
}
