// An API with TLS, and who asks it: for bench_proxy.py.
//
//   node load.mjs serve CERTIFICATE       prints {"h1": PORT, "h2": PORT}
//   node load.mjs ask URL h1|h2 CALLERS REQUESTS [down|up BYTES]
//
// Who asks goes through the proxy in HTTPS_PROXY, if there is one, trusts what is in NODE_EXTRA_CA_CERTS, and sends KEY as a bearer's. The proxy
// is asked for the address in REACHED, where it does not find the name.
// It prints {"seconds", "errors", "bytes", "kept"}: `kept` is whether an answer had the value that the API was sent.

import crypto from "node:crypto"
import fs from "node:fs"
import http from "node:http"
import http2 from "node:http2"
import https from "node:https"
import tls from "node:tls"

const PIECE = Buffer.from(crypto.randomBytes(3 << 14).toString("base64"))  // as text that nobody compresses

function answer(request, response) {
  const wanted = Number(request.headers["x-bytes"] || 0)
  let came = 0
  request.on("data", (piece) => { came += piece.length })
  request.on("end", () => {
    if (!wanted) return response.end(JSON.stringify({came, said: request.headers.authorization, text: "x".repeat(200)}))
    response.setHeader("content-length", wanted)
    let left = wanted
    const write = () => {
      while (left > 0) {
        const piece = left < PIECE.length ? PIECE.subarray(0, left) : PIECE
        left -= piece.length
        if (!response.write(piece)) return response.once("drain", write)
      }
      response.end()
    }
    write()
  })
}

async function serve(certificate) {
  const pem = fs.readFileSync(certificate)
  const servers = {h1: https.createServer({key: pem, cert: pem}, answer), h2: http2.createSecureServer({key: pem, cert: pem}, answer)}
  const ports = {}
  for (const [name, server] of Object.entries(servers)) {
    server.keepAliveTimeout = 60000
    await new Promise((done) => server.listen(0, "127.0.0.1", done))
    ports[name] = server.address().port
  }
  console.log(JSON.stringify(ports))
}

function tunnel(url) {
  const proxy = process.env.HTTPS_PROXY
  if (!proxy) return Promise.resolve(undefined)
  const {hostname, port, username, password} = new URL(proxy)
  const headers = {"proxy-authorization": "Basic " + Buffer.from(`${username}:${password}`).toString("base64")}
  return new Promise((done, fail) => {
    const request = http.request({host: hostname, port, method: "CONNECT", path: `${process.env.REACHED || url.hostname}:${url.port}`, headers, agent: false})
    request.on("connect", (said, socket) => said.statusCode === 200 ? done(socket) : fail(new Error(`CONNECT ${said.statusCode}`)))
    request.on("error", fail).end()
  })
}

async function greet(url, protocol) {
  const socket = await tunnel(url)
  const where = socket ? {socket} : {host: "127.0.0.1", port: url.port}
  return new Promise((done, fail) => {
    const secure = tls.connect({...where, servername: url.hostname, ALPNProtocols: [protocol === "h2" ? "h2" : "http/1.1"]})
    secure.once("secureConnect", () => done(secure)).once("error", fail)
  })
}

async function caller(url, protocol, way, bytes) {
  const secure = await greet(url, protocol)
  const headers = {authorization: `Bearer ${process.env.KEY}`, "user-agent": "load"}
  if (way === "down") headers["x-bytes"] = String(bytes)
  if (way === "up") headers["content-length"] = String(bytes)
  const method = way === "up" ? "POST" : "GET"
  const read = async (response) => {
    let size = 0, text = ""
    for await (const piece of response) { size += piece.length; if (size < 4096) text += piece }
    return {size, text}
  }
  const send = async (request) => {
    for (let left = way === "up" ? bytes : 0; left > 0; left -= PIECE.length) {
      if (!request.write(left < PIECE.length ? PIECE.subarray(0, left) : PIECE)) await new Promise((done) => request.once("drain", done))
    }
    request.end()
  }
  if (protocol === "h2") {
    const session = http2.connect(url, {createConnection: () => secure, settings: {initialWindowSize: 1 << 20}})
    session.setLocalWindowSize?.(1 << 22)
    return {
      end: () => session.destroy(),
      ask: async () => {
        const request = session.request({":method": method, ":path": "/", ...headers})
        const state = new Promise((done, fail) => request.once("response", (got) => done(got[":status"])).once("error", fail))
        await send(request)
        return {state: await state, ...await read(request)}
      },
    }
  }
  const agent = new https.Agent({keepAlive: true, maxSockets: 1})
  agent.createConnection = () => secure
  return {
    end: () => { agent.destroy(); secure.destroy() },
    ask: () => new Promise((done, fail) => {
      const request = https.request(url, {method, headers, agent}, async (response) => {
        try { done({state: response.statusCode, ...await read(response)}) } catch (error) { fail(error) }
      })
      request.on("error", fail)
      send(request)
    }),
  }
}

async function ask(address, protocol, callers, requests, way = "", bytes = 0) {
  const url = new URL(address)
  const tally = {seconds: 0, errors: 0, bytes: 0, kept: false, why: ""}
  const work = async (each, count) => {
    for (let number = 0; number < count; number += 1) {
      try {
        const got = await each.ask()
        tally.bytes += got.size
        if (got.state !== 200) throw new Error(`${got.state} ${got.text.slice(0, 200)}`)
        if (!way && !got.text.includes(process.env.KEY)) tally.kept = true
      } catch (error) { tally.errors += 1; tally.why ||= String(error) }
    }
  }
  const all = await Promise.all(Array.from({length: callers}, () => caller(url, protocol, way, bytes)))
  await all[0].ask()  // the first connection upstream is not measured
  const begun = performance.now()
  await Promise.all(all.map((each) => work(each, Math.ceil(requests / callers))))
  tally.seconds = (performance.now() - begun) / 1000
  all.forEach((each) => each.end())
  console.log(JSON.stringify(tally))
}

const [what, ...rest] = process.argv.slice(2)
if (what === "serve") await serve(rest[0])
else await ask(rest[0], rest[1], Number(rest[2]), Number(rest[3]), rest[4], Number(rest[5] || 0))
