// A person's app for private messages (NIP-17), out of three libraries. Configuration: library, key (hex).
// Commands: write {to, relay, text} puts the message on a relay, which has accepted it then; it gives what was put there.

import NDK, { NDKEvent, NDKPrivateKeySigner, NDKUser, giftWrap } from "@nostr-dev-kit/ndk";
import { GiftWrapFactory, WrappedMessageFactory } from "applesauce-common/factories";
import { PrivateKeySigner } from "applesauce-signers";
import { wrapEvent } from "nostr-tools/nip17";
import { Relay, useWebSocketImplementation } from "nostr-tools/relay";
import WebSocket from "ws";
import { emit, run } from "./lines.mjs";
import { toBytes } from "./operator.mjs";

useWebSocketImplementation(WebSocket);

const LIBRARIES = {
  "nostr-tools": async (key, to, text) => wrapEvent(toBytes(key), { publicKey: to }, text),
  async ndk(key, to, text) {
    const signer = new NDKPrivateKeySigner(toBytes(key));
    const ndk = new NDK({ signer, enableOutboxModel: false });
    const { pubkey } = await signer.user();
    const created_at = Math.floor(Date.now() / 1000);
    const rumor = new NDKEvent(ndk, { kind: 14, content: text, tags: [["p", to]], pubkey, created_at });
    return (await giftWrap(rumor, new NDKUser({ pubkey: to }), signer)).rawEvent();
  },
  async applesauce(key, to, text) {
    const signer = new PrivateKeySigner(toBytes(key));
    return GiftWrapFactory.create(signer, to, await WrappedMessageFactory.create(to, text));
  },
};

await run(async ({ library, key }) => {
  emit("ready");
  return {
    async write({ to, relay, text }) {
      const event = await LIBRARIES[library](key, to, text);
      const connection = await Relay.connect(relay);
      await connection.publish(event);
      connection.close();
      return { written: event };
    },
  };
});
