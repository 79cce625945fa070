// A moorline worker in Node: npm install @nats-io/transport-node; node worker.mjs [HUB].
// See ../README.md.

import { connect, headers } from "@nats-io/transport-node";

const hub = process.argv[2] ?? "default";
const subject = `moorline.${hub}.in.*`;

// The reply to one event: payload and headers.
function answer(event, user, request) {
  if (event === "moorline.connect") {
    const offer = request.json();
    if (offer.query.split("&").includes("deny=1")) return ["denied", { "moorline-status": "403" }];
    return [JSON.stringify({ state: "0", user_id: user }), {}];
  }
  if (event !== "moorline.message") return ["", {}];
  const count = Number(request.headers.get("ce-state")) + 1;
  const state = { "moorline-state": String(count) };
  if (request.headers.get("ce-datacontenttype") === "application/octet-stream") {
    return [request.data.slice().reverse(), state];
  }
  const text = request.string();
  if (text === "refuse") return ["refused", { "moorline-status": "422" }];
  if (text === "bye") return ["BYE", { "moorline-close": "4000 bye" }];
  const upper = text.replace(/[a-z]/g, (letter) => letter.toUpperCase());
  return [`${user} ${count}: ${upper}`, state];
}

const client = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  maxReconnectAttempts: -1,
});
const requests = client.subscribe(subject, { queue: "workers" });
await client.flush();
console.error("ready:", subject);
// Leaves the queue group, then finishes what is in flight.
process.once("SIGTERM", () => client.drain());

for await (const request of requests) {
  const user = decodeURIComponent(request.headers?.get("ce-userid") || "guest");
  const [payload, reply] = answer(request.headers?.get("ce-type"), user, request);
  const replyHeaders = headers();
  for (const [name, value] of Object.entries(reply)) replyHeaders.set(name, value);
  request.respond(payload, { headers: replyHeaders });
}
