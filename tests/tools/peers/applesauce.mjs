// A remote signer out of applesauce: both flows are the library's. It has one client at a time; a new one can pair
// after `forget`, or by a nostrconnect:// URI.

import { RelayPool } from "applesauce-relay";
import { NostrConnectProvider, PrivateKeySigner } from "applesauce-signers";
import { filter, map, tap } from "rxjs";
import { run } from "./lines.mjs";
import { decrypt, Operator, parseNostrConnect, randomHex, toBytes } from "./operator.mjs";

const AGAIN = { count: Infinity, delay: 500 };

class Provider extends NostrConnectProvider {
  async sendMessage(to, message) {
    await super.sendMessage(to, message);
    this.onAnswer(to.pubkey ?? to, message);
  }
}

await run(async (config) => {
  const operator = new Operator({ key: randomHex(32), ...config });
  const signer = new PrivateKeySigner(toBytes(operator.key));
  const pool = new RelayPool();
  const watched = new Set();
  const unheard = new Set(); // relays that have been connected, and have not taken a subscription since
  let provider;

  function heard(message) {
    if (message.type === "EOSE" && unheard.delete(message.from)) operator.listening(message.from);
    if (message.type !== "EVENT") return;
    try {
      operator.request(message.event, JSON.parse(decrypt(operator.key, message.event.pubkey, message.event.content)));
    } catch {
      // not for us to judge: the library gets it all the same
    }
  }

  function watch(url) {
    const relay = pool.relay(url);
    if (watched.has(relay)) return;
    watched.add(relay);
    relay.open$.subscribe(() => unheard.add(relay.url));
    relay.challenge$.pipe(filter(Boolean)).subscribe(() => relay.authenticate(signer));
  }

  // A new provider, for one client: a known one, or the first that connects.
  async function open({ client, secret, uri }) {
    await provider?.stop();
    operator.relays.forEach(watch);
    provider = new Provider({
      relays: operator.relays,
      upstream: new PrivateKeySigner(toBytes(operator.nsec)),
      signer,
      bunkerSecret: secret,
      subscriptionMethod: (relays, filters) =>
        pool.req(relays, filters, { reconnect: AGAIN, resubscribe: AGAIN }).pipe(
          tap(heard),
          filter(({ type }) => type === "EVENT"),
          map(({ event }) => event),
        ),
      publishMethod: (relays, event) => pool.publish(relays, event, { timeout: 5000 }),
      onNip44Decrypt: (peer, payload) => operator.approves(operator.find(payload)),
    });
    provider.onAnswer = (to, message) => operator.answered(to, message);
    Object.assign(provider, { client, connected: Boolean(client) });
    await provider.start(uri);
  }

  await open({ client: [...operator.clients].at(-1), secret: operator.secret ?? undefined });
  return {
    ...operator.commands,
    async forget() {
      operator.clients.clear();
      await open({ secret: operator.secret ?? undefined });
      return { keep: operator.keep };
    },
    async nostrconnect({ uri }) {
      const { client, relays, perms } = parseNostrConnect(uri);
      operator.relays = relays;
      operator.clients.clear();
      await open({ uri });
      operator.connected(client, perms);
    },
  };
});
