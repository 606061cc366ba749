// The ws package as a server and as a client.
//
//	node peer.js server {"deflate": bool}
//	node peer.js client {"url": "wss://...", "ca": file, "deflate": bool, "sizes": [...]}
//
// The server prints its port, then a line of JSON for each WebSocket at /echo that has ended. It plays what the server of
// the Go tests plays, too. The client plays every scene and prints what it has seen as one line of JSON; at last it waits
// at /echo, having said so, for somebody else to end that.
'use strict';
const fs = require('fs');
const crypto = require('crypto');
const WebSocket = require('ws');

const [role, json] = process.argv.slice(2);
const options = JSON.parse(json);
const deflate = options.deflate ? {threshold: 128} : false;
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');

function serve() {
  const server = new WebSocket.Server({
    host: '127.0.0.1', port: 0, perMessageDeflate: deflate,
    handleProtocols: (offered) => offered.has('v2.echo') ? 'v2.echo' : false,
  }, () => say(server.address().port));
  server.on('connection', (ws, request) => {
    ws.on('error', () => {}); // "close" follows
    const url = new URL(request.url, 'http://localhost');
    switch (url.pathname) {
      case '/echo':
        ws.on('message', (data, binary) => ws.send(data, {binary}));
        ws.on('close', (code, reason) => say({Code: code, Reason: reason.toString()}));
        break;
      case '/close':
        ws.send('hello');
        ws.close(Number(url.searchParams.get('code')), url.searchParams.get('reason'));
        break;
      case '/ping':
        ws.on('pong', () => ws.send('ponged'));
        ws.ping('anybody there?');
    }
  });
}

// A socket whose events are awaited one after the other.
function open(path, protocols = []) {
  const ws = new WebSocket(options.url + path, protocols, {
    perMessageDeflate: deflate, ca: options.ca && fs.readFileSync(options.ca), maxPayload: 2 << 20,
  });
  const came = [], waiting = [];
  const put = (event) => waiting.length ? waiting.shift()(event) : came.push(event);
  ws.next = () => came.length ? Promise.resolve(came.shift()) : new Promise((resolve) => waiting.push(resolve));
  ws.on('open', () => put({open: true}));
  ws.on('message', (data, binary) => put({data, binary}));
  ws.on('pong', (data) => put({pong: data.toString()}));
  ws.on('ping', () => put({ping: true}));
  ws.on('close', (code, reason) => put({Code: code, Reason: reason.toString()}));
  ws.on('error', (error) => put({error: error.message}));
  return ws;
}

async function opened(path, protocols) {
  const ws = open(path, protocols);
  const event = await ws.next();
  if (!event.open) throw new Error(`no WebSocket at ${path}: ${JSON.stringify(event)}`);
  return ws;
}

async function echoes(ws) {
  const wrong = [];
  for (const size of options.sizes) {
    for (const sent of [crypto.randomBytes(size), 'sticky \u2603 '.repeat(size / 11)]) {
      const binary = typeof sent !== 'string';
      ws.send(sent);
      const got = await ws.next();
      if (!got.data || got.binary !== binary || !got.data.equals(Buffer.from(sent))) wrong.push([size, binary]);
    }
  }
  return wrong;
}

async function fragments(ws) {
  for (const [i, part] of ['in ', 'three ', 'frames'].entries()) ws.send(part, {fin: i === 2});
  return (await ws.next()).data.toString();
}

async function play() {
  const seen = {};
  let ws = await opened('/echo', ['v1.echo', 'v2.echo']);
  seen.Extensions = ws.extensions;
  seen.Protocol = ws.protocol;
  seen.Wrong = await echoes(ws);
  seen.Fragments = await fragments(ws);
  ws.ping('me');
  seen.Pong = (await ws.next()).pong;
  ws.close(4001, 'enough');
  seen.Answered = await ws.next();

  ws = await opened('/close?code=4002&reason=not+today');
  seen.Hello = (await ws.next()).data.toString();
  seen.Closed = await ws.next();

  ws = await opened('/ping');
  seen.Pinged = (await ws.next()).ping;
  seen.Ponged = (await ws.next()).data.toString();
  ws.terminate();
  await ws.next();

  ws = await opened('/echo');
  ws.terminate();
  await ws.next();
  say(seen);

  ws = await opened('/echo');
  say('waiting');
  say(await ws.next());
}

if (role === 'server') serve();
else play().catch((error) => { console.error(error); process.exit(1); });
