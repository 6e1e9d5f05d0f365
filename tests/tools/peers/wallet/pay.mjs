// A client of a wallet, by its library: does one thing, and prints what came of it as JSON.
import { createWalletClient, createPublicClient, custom, http, parseEther } from "viem";
import { ethers } from "ethers";

const [library, url, what, given] = process.argv.slice(2);
const { to, value, data, timeout } = JSON.parse(given ?? "{}");
const domain = { name: "USD Coin", version: "2", chainId: 31337, verifyingContract: to };
const types = { Order: [{ name: "price", type: "uint256" }] };
const message = { price: 1 };

async function byEthers() {
  const provider = new ethers.JsonRpcProvider(url);
  const signer = await provider.getSigner();
  if (what === "send") {
    const sent = await signer.sendTransaction({ to, value, data });
    const receipt = await sent.wait();
    return { hash: sent.hash, status: receipt.status, from: receipt.from };
  }
  if (what === "message") return { signature: await signer.signMessage("hello") };
  return { signature: await signer.signTypedData(domain, types, message) };
}

async function byViem() {
  const chain = { id: 31337, name: "test", nativeCurrency: { name: "E", symbol: "E", decimals: 18 }, rpcUrls: { default: { http: [url] } } };
  const transport = http(url, { timeout: timeout ?? 300_000, retryCount: 0 });
  const open = createPublicClient({ chain, transport });
  const wallet = createWalletClient({ chain, transport });
  const [account] = await wallet.getAddresses();
  if (what === "send") {
    const hash = await wallet.sendTransaction({ account, to, value: value ? BigInt(value) : undefined, data });
    const receipt = await open.waitForTransactionReceipt({ hash });
    return { hash, status: receipt.status === "success" ? 1 : 0, from: receipt.from };
  }
  if (what === "message") return { signature: await wallet.signMessage({ account, message: "hello" }) };
  return { signature: await wallet.signTypedData({ account, domain, types, primaryType: "Order", message: { price: 1n } }) };
}

try {
  console.log(JSON.stringify(await (library === "ethers" ? byEthers() : byViem())));
} catch (error) {
  const known = [];
  for (let each = error; each; each = each.cause ?? each.error) known.push(each.name ?? "", String(each.code ?? ""));
  console.log(JSON.stringify({ failed: known, text: String(error.message) }));
}
process.exit(0);
