// A remote signer out of NDK. Its library serves bunker:// only; the answer to a nostrconnect:// URI is ours, the
// requests after it are served by the library. It answers any number of clients, and `get_public_key` to strangers too.

import NDK, { NDKNip46Backend, NDKNostrRpc, NDKPrivateKeySigner, NDKRelayAuthPolicies } from "@nostr-dev-kit/ndk";
import { emit, run } from "./lines.mjs";
import { Operator, parseNostrConnect, randomHex, toBytes } from "./operator.mjs";

const RETRY_MS = 300;

class Backend extends NDKNip46Backend {
  constructor(operator) {
    const ndk = new NDK({ explicitRelayUrls: operator.relays, enableOutboxModel: false });
    const signer = new NDKPrivateKeySigner(toBytes(operator.key));
    ndk.relayAuthDefaultPolicy = NDKRelayAuthPolicies.signIn({ ndk, signer });
    super(ndk, signer, ({ id, pubkey, method, params }) => this.permits(id, pubkey, method, params), operator.relays);
    this.operator = operator;
    this.rpc.parseEvent = async (event) => {
      const message = await NDKNostrRpc.prototype.parseEvent.call(this.rpc, event);
      operator.request(event, message);
      return message;
    };
    this.rpc.sendResponse = async (id, client, result, kind, error) => {
      await NDKNostrRpc.prototype.sendResponse.call(this.rpc, id, client, result, kind, error);
      operator.answered(client, { id, result, error });
    };
  }

  // The library's own start() does not tell when a relay has taken the subscription, and a relay that comes back gets
  // none. Like most phones it hears what is sent from now on.
  async start() {
    this.localUser = await this.signer.user();
    for (const relay of this.relays()) relay.on("disconnect", () => setTimeout(() => this.reconnect(relay), RETRY_MS));
    this.ndk.pool.on("relay:connect", () => this.subscribe());
    this.ndk.connect();
  }

  subscribe() {
    this.subscription?.stop();
    const since = Math.floor(Date.now() / 1000);
    this.subscription = this.ndk.subscribe(
      { kinds: [24133], "#p": [this.localUser.pubkey], since },
      { closeOnEose: false, groupable: false, onEvent: (event) => this.handleIncomingEvent(event) },
      false,
    );
    const { operator } = this;
    const { eoseReceived } = this.subscription;
    this.subscription.eoseReceived = function (relay) {
      eoseReceived.call(this, relay);
      operator.listening(relay.url);
    };
    this.subscription.start();
  }

  // The library waits a minute, or for ever where a relay "flaps".
  reconnect(relay) {
    if (this.stopped) return;
    relay.connectivity.resetReconnectionState();
    relay.connect().catch(() => {});
  }

  relays() {
    return [...this.ndk.pool.relays.values(), ...this.rpc.pool.relays.values()];
  }

  stop() {
    this.stopped = true;
    for (const relay of this.relays()) relay.disconnect();
  }

  async applyToken(client, token) {
    if (token !== this.operator.secret) throw new Error("invalid secret");
    this.operator.clients.add(client);
  }

  async permits(id, client, method, payload) {
    const { clients, secret } = this.operator;
    if (method === "connect" && !secret) clients.add(client);
    if (!clients.has(client)) return false;
    return method !== "nip44_decrypt" || this.operator.approves({ ...this.operator.find(payload), id, client });
  }
}

await run(async (config) => {
  const operator = new Operator(config);
  operator.key = operator.nsec; // NDK knows one key only
  let backend = new Backend(operator);
  await backend.start();
  return {
    ...operator.commands,
    forget() {
      operator.clients.clear();
      return { keep: operator.keep };
    },
    async nostrconnect({ uri }) {
      const { client, relays, secret, perms } = parseNostrConnect(uri);
      if (relays.join() !== operator.relays.join()) {
        backend.stop();
        operator.relays = relays;
        backend = new Backend(operator);
        await backend.start();
      }
      await backend.rpc.sendResponse(randomHex(4), client, secret);
      operator.connected(client, perms);
    },
  };
});
