// An Express application with @fanoutio/serve-grip, as behind Pushpin or Fanout: rooms to talk in, and a
// form that speaks to a room. node app.mjs PORT

import { WebSocketMessageFormat } from "@fanoutio/grip";
import { ServeGrip } from "@fanoutio/serve-grip";
import express from "express";

const app = express();
const grip = new ServeGrip({ grip: process.env.GRIP_URL });
const publish = (room, text) =>
  grip.getPublisher().publishFormats(room, new WebSocketMessageFormat(text));
app.use(grip);

app.get("/", (_, response) => {
  response.send('<form method="post" action="/say"><input name="room"><input name="text"><button>Say</button></form>');
});

app.post("/say", express.urlencoded(), async (request, response) => {
  await publish(request.body.room, request.body.text);
  response.redirect("/");
});

app.post("/rooms/:room", async (request, response) => {
  const { wsContext: socket, isSigned } = request.grip;
  if (!socket || !isSigned) return response.status(403).end();
  const { room } = request.params;
  if (socket.isOpening()) {
    if (!request.query.name) return response.status(400).end("say your name: ?name=...");
    socket.accept();
    // It comes back with every request of the connection, as a header.
    socket.meta.name = encodeURIComponent(request.query.name);
    socket.subscribe(room);
  }
  while (socket.canRecv()) {
    let text = null;
    try {
      text = socket.recv();
    } catch {
      break; // The client is gone without a word.
    }
    if (text === null) {
      socket.close();
      break;
    }
    await publish(room, `${decodeURIComponent(socket.meta.name)}: ${text}`);
  }
  response.end();
});

app.listen(Number(process.argv[2]), "127.0.0.1");
