// Node `ws` as a user would use it, against an echo: text and binary of many lengths, a fragmented
// message, a ping, an orderly close. Prints one line of JSON; exits 1 when anything is off.
//
// usage: echo.mjs URL [--ca FILE | --insecure] [--token TOKEN] [--subprotocol NAME]... [--count N]
//
// Packages are found from the working folder when the script is read from standard input:
//   cd target/tools/node && node --input-type=module - URL < ../../../tests/clients/echo.mjs

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import WebSocket from "ws";

// The lengths around which the frame header changes its form (RFC 6455 section 5.2), and large ones.
const LENGTHS = [1, 125, 126, 127, 4096, 40_000];
const signal = AbortSignal.timeout(30_000);

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ca: { type: "string" },
    insecure: { type: "boolean", default: false },
    token: { type: "string" },
    subprotocol: { type: "string", multiple: true, default: [] },
    count: { type: "string", default: "20" },
  },
});

async function echoed(socket, message, send = () => socket.send(message)) {
  const answer = once(socket, "message", { signal });
  send();
  const [data, isBinary] = await answer;
  const isSame = isBinary === Buffer.isBuffer(message) && data.equals(Buffer.from(message));
  if (!isSame) {
    const kind = isBinary ? "binary" : "text";
    throw new Error(`sent ${message.length}, got ${kind} of ${data.length}: ${data.subarray(0, 60)}`);
  }
}

async function run() {
  const started = performance.now();
  const count = Number(values.count);
  const socket = new WebSocket(positionals[0], values.subprotocol, {
    ca: values.ca && readFileSync(values.ca),
    rejectUnauthorized: !values.insecure,
    headers: values.token ? { authorization: `Bearer ${values.token}` } : {},
    perMessageDeflate: false,
  });
  let connectionId = null;
  socket.on("upgrade", (response) => {
    connectionId = response.headers["moorline-connection-id"] ?? null;
  });
  const refused = new Promise((_, reject) => {
    socket.on("unexpected-response", (_request, response) => {
      reject(Object.assign(new Error(`status ${response.statusCode}`), { status: response.statusCode }));
      socket.terminate();
    });
  });
  await Promise.race([once(socket, "open", { signal }), refused]);
  for (let i = 0; i < count; i++) {
    const length = LENGTHS[i % LENGTHS.length];
    await echoed(socket, `${i} grüße 世界 `.repeat(length).slice(0, length));
    await echoed(socket, Buffer.from({ length }, (_, n) => (i + n) % 256));
  }
  await echoed(socket, "in three fragments", () => {
    socket.send("in ", { fin: false });
    socket.send("three ", { fin: false });
    socket.send("fragments", { fin: true });
  });
  const pinged = performance.now();
  const pong = once(socket, "pong", { signal });
  socket.ping();
  await pong;
  const pingMs = performance.now() - pinged;
  const closed = once(socket, "close", { signal });
  socket.close(1000, "done");
  const [code, reason] = await closed;
  return {
    ok: true,
    text: count + 1,
    binary: count,
    subprotocol: socket.protocol || null,
    connection_id: connectionId,
    ping_ms: Number(pingMs.toFixed(3)),
    close_code: code,
    close_reason: reason.toString(),
    seconds: Number(((performance.now() - started) / 1000).toFixed(3)),
  };
}

let result;
try {
  result = await run();
} catch (error) {
  result = { ok: false, error: error.message, ...(error.status && { status: error.status }) };
}
console.log(JSON.stringify(result));
process.exit(result.ok ? 0 : 1);
