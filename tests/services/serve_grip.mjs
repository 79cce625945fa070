// An Express service for WebSocket clients, by @fanoutio/serve-grip as it comes from npm.
//
// It knows each client by what it keeps in `meta`; nothing stays in the process but the list of ends.

import express from 'express';
import { WebSocketMessageFormat } from '@fanoutio/grip';
import { ServeGrip } from '@fanoutio/serve-grip/node';

const { PORT, CONTROL_URI, KEY } = process.env;
const serveGrip = new ServeGrip({ grip: { control_uri: CONTROL_URI, control_iss: 'realm', key: KEY } });
const app = express();
app.use(serveGrip);
const ended = [];

app.post('/ws/:name', async (req, res) => {
    const ws = req.grip.wsContext;
    const { name } = req.params;
    if (!req.grip.isSigned) {
        return res.status(401).end('unsigned');
    }
    if (ws.isOpening()) {
        if (req.query.deny) {
            return res.status(403).type('text/plain').end('denied');
        }
        ws.accept();
        if ((req.headers['sec-websocket-protocol'] ?? '').includes('v2')) {
            res.setHeader('Sec-WebSocket-Protocol', 'v2');
        }
        ws.subscribe(name);
        ws.meta.count = '0';
        ws.send(`welcome to ${name}`);
    }
    while (ws.canRecv()) {
        let message;
        try {
            message = ws.recvRaw();
        } catch {
            ended.push('gone');
            break;
        }
        if (message === null) {
            ended.push(`closed ${ws.closeCode}`);
            ws.close();
        } else if (typeof message !== 'string') {
            ws.sendBinary(Uint8Array.from(message).reverse());
        } else if (message.startsWith('publish to ')) {
            const [channel, text] = message.slice('publish to '.length).split(': ');
            await serveGrip.getPublisher().publishFormats(channel, new WebSocketMessageFormat(text));
            ws.send('published');
        } else if (message === 'leave') {
            ws.unsubscribe(name);
            ws.send('left');
        } else if (message === 'bye') {
            ws.send('bye');
            ws.close(4001);
        } else {
            ws.meta.count = String(Number(ws.meta.count) + 1);
            ws.send(`${ws.meta.count} ${message.toUpperCase()}`);
        }
    }
    res.end();
});

app.get('/ended', (req, res) => res.json(ended));
app.listen(Number(PORT), '127.0.0.1');
