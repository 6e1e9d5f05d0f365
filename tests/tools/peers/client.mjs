// A client of a remote signer, out of four libraries: `library` is nostr-tools, ndk, applesauce or welshman.
// Commands: connect {uri}, pubkey, sign {event}, cipher {method, peer, text}. A refusal is `refused`, with what the library says.

import { emit, run } from "./lines.mjs";
import { generateSecretKey } from "nostr-tools/pure";
import { bytesToHex, hexToBytes } from "nostr-tools/utils";

const text = (error) => String(error?.message ?? error?.error ?? error);

async function nostrTools(uri, key) {
  const { BunkerSigner, parseBunkerInput } = await import("nostr-tools/nip46");
  const signer = BunkerSigner.fromBunker(hexToBytes(key), await parseBunkerInput(uri));
  return {
    connect: () => signer.connect(),
    pubkey: () => signer.getPublicKey(),
    sign: (event) => signer.signEvent(event),
    nip44_encrypt: (peer, it) => signer.nip44Encrypt(peer, it),
    nip44_decrypt: (peer, it) => signer.nip44Decrypt(peer, it),
  };
}

async function ndk(uri, key) {
  const { default: NDK, NDKEvent, NDKNip46Signer, NDKPrivateKeySigner, NDKUser } = await import("@nostr-dev-kit/ndk");
  const relays = new URL(uri.replace("bunker://", "https://")).searchParams.getAll("relay");
  const pool = new NDK({ explicitRelayUrls: relays, enableOutboxModel: false });
  const signer = NDKNip46Signer.bunker(pool, uri, new NDKPrivateKeySigner(key));
  const user = (pubkey) => new NDKUser({ pubkey });
  return {
    connect: async () => {
      await pool.connect(5000);
      await signer.blockUntilReady();
      return "ack";
    },
    pubkey: () => signer.getPublicKey(),
    sign: async (event) => {
      const made = new NDKEvent(pool, { ...event, pubkey: await signer.getPublicKey() });
      await made.sign(signer);
      return made.rawEvent();
    },
    nip44_encrypt: (peer, it) => signer.encrypt(user(peer), it, "nip44"),
    nip44_decrypt: (peer, it) => signer.decrypt(user(peer), it, "nip44"),
  };
}

async function applesauce(uri, key) {
  const { NostrConnectSigner, PrivateKeySigner } = await import("applesauce-signers");
  const { RelayPool } = await import("applesauce-relay");
  const { filter, map } = await import("rxjs");
  const pool = new RelayPool();
  const { remote, relays, secret } = NostrConnectSigner.parseBunkerURI(uri);
  const again = { count: Infinity, delay: 500 };
  const signer = new NostrConnectSigner({
    relays,
    remote,
    signer: new PrivateKeySigner(hexToBytes(key)),
    subscriptionMethod: (urls, filters) =>
      pool.req(urls, filters, { reconnect: again, resubscribe: again }).pipe(
        filter(({ type }) => type === "EVENT"),
        map(({ event }) => event),
      ),
    publishMethod: (urls, event) => pool.publish(urls, event, { timeout: 5000 }),
  });
  return {
    connect: () => signer.connect(secret),
    pubkey: () => signer.getPublicKey(),
    sign: (event) => signer.signEvent(event),
    nip44_encrypt: (peer, it) => signer.nip44.encrypt(peer, it),
    nip44_decrypt: (peer, it) => signer.nip44.decrypt(peer, it),
  };
}

async function welshman(uri, key) {
  const { Nip46Broker, Nip46Signer } = await import("@welshman/signer");
  const { relays, signerPubkey, connectSecret } = Nip46Broker.parseBunkerUrl(uri);
  const broker = new Nip46Broker({ relays, signerPubkey, connectSecret, clientSecret: key });
  const signer = new Nip46Signer(broker);
  return {
    connect: () => broker.connect(connectSecret),
    pubkey: () => broker.getPublicKey(),
    sign: (event) => signer.sign(event),
    nip44_encrypt: (peer, it) => signer.nip44.encrypt(peer, it),
    nip44_decrypt: (peer, it) => signer.nip44.decrypt(peer, it),
  };
}

await run(async ({ library, key = bytesToHex(generateSecretKey()) }) => {
  let client;
  const attempt = async (work) => {
    try {
      return { result: await work() };
    } catch (error) {
      return { refused: text(error) };
    }
  };
  emit("ready", { keep: { key } });
  return {
    async connect({ uri }) {
      client = await { "nostr-tools": nostrTools, ndk, applesauce, welshman }[library](uri, key);
      return attempt(() => client.connect());
    },
    pubkey: () => attempt(() => client.pubkey()),
    sign: ({ event }) => attempt(() => client.sign(event)),
    cipher: ({ method, peer, text: it }) => attempt(() => client[method](peer, it)),
  };
});
