// Opens the vault at gateway:startup, then has OpenClaw resolve its secrets again; at agent:bootstrap, before each turn, it has
// OpenClaw start the MCP servers that could not start while the vault was locked. See HOOK.md.
//
// Nothing here sees a value: `avault openclaw unlock` prints none, and the reload goes through OpenClaw's own provider.
// The gateway imports this file as it is, so only TypeScript that can be erased: no enums, no namespaces.

import { execFile, spawn } from "node:child_process";
import { readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

type HookEvent = { type: string; action: string; context?: { sessionId?: string } };
type Catalog = { generatedAt: number; servers: Record<string, unknown>; diagnostics?: unknown[] };
type Servers = { peekCatalog(): Catalog | null };
type Avault = { command: string[]; env: Record<string, string>; config?: string };

const PATIENCE = "15m"; // the operator may be in the shower
const CLOSED = "what needs a secret stays cold; open it with: avault unlock";
const WHY: Record<number, string> = { 5: "the operator refused", 7: "nobody approved in time", 127: "there is no avault command" };

const log = (text: string) => console.log(`[avault-unlock] ${text}`);

// Of the gateway's start it returns at once: the gateway does not wait, and must not when it shuts down. A turn waits for it.
export default async function handler(event: HookEvent): Promise<void> {
  const moment = `${event.type}:${event.action}`;
  if (moment === "gateway:startup") openVault().catch((error) => log(`failed: ${error?.code ?? error?.name}; ${CLOSED}`));
  if (moment === "agent:bootstrap") {
    await retryServers(event.context?.sessionId).catch((error) => log(`MCP servers are left to OpenClaw (${error?.name})`));
  }
}

async function openVault(): Promise<void> {
  const code = await run("openclaw", "unlock", "--timeout", PATIENCE);
  if (code !== 0) {
    await tell(`the vault stays locked, as ${WHY[code] ?? `avault ended with exit code ${code}`}; ${CLOSED}`);
    if (await run("wait") !== 0) return; // asks nobody; the operator may open the vault at any time
  }
  try {
    const command = [process.argv[1], "secrets", "reload", "--json"];
    const { stdout } = await promisify(execFile)(process.execPath, command, { timeout: 300_000 });
    const cold = JSON.parse(stdout).warningCount ?? 0;
    await tell(cold ? `the vault is open; secrets reloaded, ${cold} still cold: openclaw secrets audit --allow-exec`
                    : "the vault is open; secrets reloaded");
  } catch (error) {
    const reason = (error as { code?: unknown }).code ?? (error as Error).name;
    await tell(`the vault is open, but the secrets were not reloaded (${reason}): openclaw secrets reload`);
  }
}

// Runs avault, and passes on what it says. The exit code.
function run(...words: string[]): Promise<number> {
  const { command, env } = findCommand();
  const [program, ...given] = command;
  const child = spawn(program, [...given, ...words], { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...env } });
  child.unref(); // a gateway that ends does not wait for a phone
  process.once("exit", () => child.kill()); // nor does it leave one behind who waits
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    const lines = (said + piece).split("\n");
    said = lines.pop() ?? "";
    for (const line of lines) {
      log(line.replace(/^avault: /, ""));
      if (line.startsWith("avault: asking")) {
        void tell("waits for the operator's approval on the phone; secrets fail until then");
        void tellOperator(line);
      }
    }
  });
  return new Promise((resolve) => {
    child.on("error", () => resolve(127));
    child.on("close", (code) => resolve(code ?? 1));
  });
}

// Gives up the session's MCP servers that failed before the vault was opened, so that this turn starts them; the others stay.
// OpenClaw itself would start them beside this turn, for the next one. It has no call for that: these are its own objects.
async function retryServers(sessionId?: string): Promise<void> {
  const held = globalThis as unknown as Record<symbol, any>;
  const servers: Servers | undefined = held[Symbol.for("openclaw.sessionMcpRuntimeManager")]?.peekSession({ sessionId });
  const catalog = servers?.peekCatalog();
  if (!catalog?.diagnostics?.length || !(await openSince() + 1000 > catalog.generatedAt)) return; // it is told to the second
  const healthy = new Set(Object.keys(catalog.servers));
  await held[Symbol.for("openclaw.sessionMcpRuntimeOwners")].get(servers).retireUnusedServers(healthy);
}

// Since when the vault is open, in milliseconds since 1970; NaN where it is not.
async function openSince(): Promise<number> {
  const { command, env } = findCommand();
  const [program, ...words] = [...command, "status", "--json"];
  try {
    const { stdout } = await promisify(execFile)(program, words, { timeout: 10_000, env: { ...process.env, ...env } });
    return Date.parse(JSON.parse(stdout).since);
  } catch {
    return NaN; // the exit code of a vault that is not open
  }
}

// The command that `avault openclaw install` wrote down, else the one on the PATH.
function findCommand(): Avault {
  try {
    return JSON.parse(readFileSync(join(import.meta.dirname, "avault.json"), "utf8"));
  } catch {
    return { command: ["avault"], env: {} };
  }
}

// Says it in the log, and to the agent: the next turn of the main session begins with it.
async function tell(text: string): Promise<void> {
  log(text);
  try {
    const entry = createRequire(realpathSync(process.argv[1])).resolve("openclaw/plugin-sdk/system-event-runtime");
    const events = await import(pathToFileURL(entry).href);
    const sessionKey = events.resolveMainSessionKeyFromConfig();
    events.enqueueSystemEvent(`avault: ${text}`, { sessionKey, contextKey: "avault", replace: true });
  } catch (error) {
    log(`not told to the agent: ${(error as Error).name}`);
  }
}

// Says it to the operator, in the first chat that works without the vault; avault knows which those are.
async function tellOperator(text: string): Promise<void> {
  const execute = promisify(execFile);
  const { command, env, config } = findCommand();
  const [program, ...words] = [...command, "openclaw", "chats", "--json", ...(config ? ["--config", config] : [])];
  try {
    const { stdout } = await execute(program, words, { timeout: 60_000, env: { ...process.env, ...env } });
    for (const { channel, target } of JSON.parse(stdout).chats) {
      const message = ["message", "send", "--channel", channel, "--target", target, "--message", text];
      try {
        await execute(process.execPath, [process.argv[1], ...message], { timeout: 120_000 });
        log(`the operator was told in ${channel}`);
        return;
      } catch (error) {
        log(`not told in ${channel} (${(error as { code?: unknown }).code ?? (error as Error).name})`);
      }
    }
  } catch (error) {
    log(`the operator was not told in a chat (${(error as { code?: unknown }).code ?? (error as Error).name})`);
  }
}
