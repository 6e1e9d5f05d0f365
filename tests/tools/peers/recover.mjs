// Recovery by hand, as references/format.md describes it: node recover.mjs VAULT_DIRECTORY <operator's secret key in hex
// Prints {"nsec": …, "groups": …}. It is written from that document alone, and knows nothing of avault's source.

import assert from "node:assert";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { getPublicKey, nip19, nip44 } from "nostr-tools";

const toBytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));
const decrypt = (secret, publicHex, payload) => nip44.decrypt(payload, nip44.getConversationKey(secret, publicHex));

const directory = process.argv[2];
const operator = toBytes(readFileSync(0, "utf8").trim());

// 1 to 4: the agent's key
const copy = JSON.parse(readFileSync(join(directory, "nsec.enc"), "utf8"));
assert.equal(nip19.npubEncode(getPublicKey(operator)), copy.operator, "not the operator of this vault");
const agent = nip19.decode(copy.agent).data;
const unlock = toBytes(JSON.parse(decrypt(operator, agent, copy.envelope)).avault);
const sealed = JSON.parse(decrypt(unlock, getPublicKey(unlock), copy.sealed));
const secret = nip19.decode(sealed.nsec).data;
assert.equal(getPublicKey(secret), agent);
assert.equal(sealed.vault, copy.vault);

// 5 to 7: the secrets
const lines = readFileSync(join(directory, "avault.enc"), "utf8").trimEnd().split("\n");
const parts = lines.map((line) => {
  const text = decrypt(secret, agent, line);
  const end = text.indexOf("\n");
  return { header: JSON.parse(text.slice(0, end)), slice: text.slice(end + 1) };
});
parts.forEach(({ header }, index) => {
  assert.deepEqual(header, { ...parts[0].header, index });
  assert.equal(header.count, parts.length);
  assert.equal(header.vault, copy.vault);
});
const vault = JSON.parse(parts.map((part) => part.slice).join(""));
assert.equal(vault.agent, agent);
assert.equal(vault.operator, getPublicKey(operator));

const values = (keys) => Object.fromEntries(Object.entries(keys).map(([key, found]) => [key, found[0][0]]));
const groups = Object.fromEntries(Object.entries(vault.groups).map(([name, { note, keys }]) => [name, { note: note[0], values: values(keys) }]));
console.log(JSON.stringify({ nsec: sealed.nsec, groups }));
