// The human behind a signer, and what is the same whichever library answers: keys, what is reported, what is approved.

import { randomBytes } from "node:crypto";
import { getPublicKey, nip44 } from "nostr-tools";
import { emit } from "./lines.mjs";

globalThis.WebSocket ??= (await import("ws")).WebSocket; // Node before 22

export const toBytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));
export const randomHex = (length) => randomBytes(length).toString("hex");

export function decrypt(key, peer, payload) {
  return nip44.decrypt(payload, nip44.getConversationKey(toBytes(key), peer));
}

// Configuration, all but `relays` optional, and handed back as `keep` so that the next start is the same signer:
//   nsec     the user's key, hex
//   key      the signer's own key, hex (NDK has none: it is the user's)
//   secret   of the bunker:// URI; null for none
//   clients  those that are paired already: they may ask without `connect`
//   policy   {decrypt: "approve" | "reject" | "ask" | "ignore", delay_ms}
export class Operator {
  #policy = { decrypt: "approve", delay_ms: 0 };
  #requests = new Map(); // by id
  #events = new Set(); // ids of those seen
  #asked = new Map(); // request id -> resolve
  #ready = false;

  constructor({ relays, nsec = randomHex(32), key = nsec, secret = randomHex(8), clients = [], policy = {} }) {
    Object.assign(this, { relays, nsec, key, secret, clients: new Set(clients) });
    Object.assign(this.#policy, policy);
  }

  get user() {
    return getPublicKey(toBytes(this.nsec));
  }

  get keep() {
    const { nsec, key, secret, clients, relays } = this;
    return { nsec, key, secret, clients: [...clients], relays, policy: this.#policy };
  }

  get uri() {
    const relays = this.relays.map((url) => `relay=${encodeURIComponent(url)}`);
    const secret = this.secret ? [`secret=${this.secret}`] : [];
    return `bunker://${getPublicKey(toBytes(this.key))}?${[...relays, ...secret].join("&")}`;
  }

  // `url` has taken our subscription: at the start, and again after each break.
  listening(url) {
    emit("listening", { relay: url.replace(/\/$/, "") });
    if (this.#ready) return;
    this.#ready = true;
    emit("ready", { uri: this.uri, user: this.user, signer: getPublicKey(toBytes(this.key)), keep: this.keep });
  }

  // A request arrived. The same event from a second relay, or sent again, is no second request.
  request(event, { id, method, params }) {
    if (this.#events.has(event.id)) return;
    this.#events.add(event.id);
    this.#requests.set(id, { client: event.pubkey, id, method, params });
    emit("request", {
      id, method, params, client: event.pubkey, event_id: event.id, created_at: event.created_at, at: Date.now() / 1000,
    });
  }

  find(ciphertext) {
    return [...this.#requests.values()].findLast(({ params }) => params?.[1] === ciphertext);
  }

  // An answer went out.
  answered(client, { id, result, error }) {
    const { method, params } = this.#requests.get(id) ?? {};
    emit("answered", { id, method, client, result, error });
    if (method === "connect" && !error) this.connected(client, params[2]);
  }

  connected(client, perms) {
    this.clients.add(client);
    emit("connected", { client, perms: perms || null, keep: this.keep });
  }

  // Whether the operator lets this request decrypt; never resolves if he does not look at his phone.
  async approves({ id, client, params: [peer, payload] }) {
    const { decrypt: choice, delay_ms } = this.#policy;
    if (delay_ms) await new Promise((resolve) => setTimeout(resolve, delay_ms));
    if (choice === "ignore") return new Promise(() => {});
    if (choice !== "ask") return choice === "approve";
    emit("ask", { id, client, peer, plaintext: decrypt(this.nsec, peer, payload) });
    return new Promise((resolve) => this.#asked.set(id, resolve));
  }

  commands = {
    policy: (changes) => {
      Object.assign(this.#policy, changes);
      return { keep: this.keep };
    },
    answer: ({ id, approve }) => this.#asked.get(id)(approve),
  };
}

export function parseNostrConnect(uri) {
  const { host: client, searchParams: query } = new URL(uri);
  return { client, relays: query.getAll("relay"), secret: query.get("secret"), perms: query.get("perms") };
}
