// The server SDK of Azure Web PubSub for JavaScript as a backend would use it, against the management
// API: send to all, a user, a group, a connection; exists; join, leave; close. What reached the clients
// is looked at by who started this. Prints one line of JSON; exits 1 when anything is off.
//
// usage: webpubsub.mjs CONNECTION_STRING HUB USER GROUP CONNECTION OTHER_CONNECTION
//
// USER has CONNECTION and another one, and is in no group; OTHER_CONNECTION is somebody else's.
// Packages are found from the working folder when the script is read from standard input:
//   cd target/tools/node && node --input-type=module - ... < ../../../tests/clients/webpubsub.mjs

import assert from "node:assert/strict";
import { WebPubSubServiceClient } from "@azure/web-pubsub";

const [connectionString, hub, user, group, connection, other] = process.argv.slice(2);
const options = { allowInsecureConnection: true, retryOptions: { maxRetries: 0 } };
const text = { contentType: "text/plain" };

async function refused(what) {
  const error = await what.then(
    () => assert.fail("it was not refused"),
    (error) => error,
  );
  return [error.statusCode, error.code ?? null];
}

async function run() {
  const service = new WebPubSubServiceClient(connectionString, hub, options);
  const members = service.group(group);

  await service.sendToAll("to all", text);
  await service.sendToAll({ to: "all" });
  await service.sendToAll(new Uint8Array([0, 255]).buffer);
  await service.sendToAll("to all but one", { ...text, excludedConnections: [connection] });
  await service.sendToUser(user, "to the user", { ...text, messageTtlSeconds: 60 });
  await service.sendToConnection(connection, "to the connection", text);

  assert.equal(await service.groupExists(group), false);
  await members.addConnection(connection);
  assert.equal(await service.groupExists(group), true);
  await members.sendToAll("to the group of one", text);
  await members.addUser(user);
  await members.addConnection(other);
  const listed = [];
  for await (const member of await members.listConnections()) {
    listed.push([member.connectionId, member.userId]);
  }
  assert.equal(listed.length, 3);
  assert.ok(listed.some(([id, who]) => id === connection && who === user));
  await members.sendToAll("to the group", text);
  await members.sendToAll("to the group but one", { ...text, excludedConnections: [other] });
  await members.removeConnection(other);
  await members.removeUser(user);
  await members.sendToAll("to nobody", text);
  assert.equal(await service.groupExists(group), false);
  await service.addConnectionsToGroups([group], "");
  await members.sendToAll("to all in the group", text);
  await service.removeConnectionFromAllGroups(connection);
  await service.removeUserFromAllGroups(user);
  await service.removeConnectionsFromGroups([group], "");
  assert.equal(await service.groupExists(group), false);

  assert.equal(await service.connectionExists(connection), true);
  assert.equal(await service.connectionExists("nobody"), false);
  assert.equal(await service.userExists(user), true);
  assert.equal(await service.userExists("nobody"), false);

  assert.deepEqual(await refused(service.sendToAll("x", { filter: "userId eq 'a'" })), [400, "BadRequest"]);
  assert.deepEqual(await refused(members.addConnection("nobody")), [404, "ConnectionNotFound"]);
  assert.deepEqual(await refused(service.hasPermission(connection, "sendToGroup")), [501, null]);
  const wrong = connectionString.replace(/AccessKey=[^;]*/, `AccessKey=${"x".repeat(64)}`);
  const stranger = new WebPubSubServiceClient(wrong, hub, options);
  assert.deepEqual(await refused(stranger.sendToAll("x", text)), [401, "Unauthorized"]);
  const elsewhere = new WebPubSubServiceClient(connectionString, "none", options);
  assert.deepEqual(await refused(elsewhere.sendToAll("x", text)), [404, "HubNotFound"]);

  await service.closeConnection(connection, { reason: "enough" });
  await service.closeUserConnections(user, { reason: "enough of you" });
  await service.closeAllConnections({ reason: "enough of all", excluded: [other] });
  await service.sendToConnection(other, "still here", text);
  await members.closeAllConnections();
  await service.closeAllConnections({ reason: "enough of all" });
  await service.closeConnection(connection);
}

let result = { ok: true };
try {
  await run();
} catch (error) {
  result = { ok: false, error: String(error.stack ?? error) };
}
console.log(JSON.stringify(result));
process.exit(result.ok ? 0 : 1);
