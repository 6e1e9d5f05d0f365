// A peer's end of the conversation: JSON lines, commands on stdin, events on stdout.

import { createInterface } from "node:readline";

console.log = console.info = console.debug = console.error; // what a library prints is no event

export function emit(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");
}

// Runs a peer. The first line is its configuration; `main` turns it into a table of commands. Every later line is a
// command, and is acknowledged once it is carried out. The peer ends with `stop`, or when its parent does.
export async function run(main) {
  process.on("unhandledRejection", (error) => emit("error", { error: String(error) }));
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const commands = await main(JSON.parse((await lines.next()).value));
  for await (const line of lines) {
    const { cmd, n, ...fields } = JSON.parse(line);
    if (cmd === "stop") break;
    try {
      emit("done", { n, ...(await commands[cmd](fields)) });
    } catch (error) {
      emit("failed", { n, error: String(error) });
    }
  }
  process.exit(0);
}
