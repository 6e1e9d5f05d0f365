// A relay that others wrote, and that stores every event: @nostr-relay of npm, with SQLite.
// Configuration: file, its database; port, optional. It gives 100 answers to a REQ, and keeps each for a second.

import { createRequire } from "node:module";
import { emit, run } from "./lines.mjs";

const require = createRequire(import.meta.url);
const { NostrRelay } = require("@nostr-relay/core");
const { EventRepositorySqlite } = require("@nostr-relay/event-repository-sqlite");
const { Validator } = require("@nostr-relay/validator");
const { WebSocketServer } = require("ws");

await run(async ({ file, port }) => {
  const validator = new Validator();
  const repository = new EventRepositorySqlite(file);
  await repository.init();
  const relay = new NostrRelay(repository);
  const server = new WebSocketServer({ port: port ?? 0, host: "127.0.0.1" });
  server.on("connection", (socket) => {
    relay.handleConnection(socket, "127.0.0.1");
    socket.on("message", async (data) => {
      try {
        await relay.handleMessage(socket, await validator.validateIncomingMessage(data));
      } catch (error) {
        socket.send(JSON.stringify(["NOTICE", String(error)]));
      }
    });
    socket.on("close", () => relay.handleDisconnect(socket));
    socket.on("error", () => {});
  });
  await new Promise((resolve) => server.once("listening", resolve));
  const taken = server.address().port;
  emit("ready", { url: `ws://127.0.0.1:${taken}`, keep: { port: taken } });
  return {};
});
