// A backend that answers an upload at once, and a client that uploads in pieces over connections that it keeps.
//
//	node uploads.js server
//	node uploads.js client URL TIMES SIZE
//
// The server prints its port. The client prints how many of its uploads were answered with 401, as soon as all are over.
'use strict';
const http = require('http');
const [role, url, times, size] = process.argv.slice(2);

function serve() {
  const server = http.createServer((request, response) => {
    response.writeHead(401, {'Content-Length': 2});
    response.end('no');
    request.resume();
  });
  server.listen(0, '127.0.0.1', () => console.log(server.address().port));
}

// upload resolves to the status, or to a text that says what went wrong before there was one.
function upload(agent, body, pause) {
  return new Promise((resolve) => {
    const request = http.request(url, {agent, method: 'POST', headers: {'Content-Length': body.length}}, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode));
      response.on('error', (e) => resolve(String(e)));
    });
    request.on('error', (e) => resolve(String(e))); // after the answer it is no news
    const half = body.length / 2;
    request.write(body.subarray(0, half));
    setTimeout(() => request.end(body.subarray(half)), pause);
  });
}

async function main() {
  if (role === 'server') return serve();
  const agent = new http.Agent({keepAlive: true, maxSockets: 8});
  const body = Buffer.alloc(Number(size), 'x');
  const results = {};
  let left = Number(times);
  await Promise.all(Array.from({length: 8}, async () => {
    while (left > 0) {
      left--;
      const result = await upload(agent, body, [5, 40, 200][left % 3]);
      results[result] = (results[result] || 0) + 1;
    }
  }));
  agent.destroy();
  console.log(JSON.stringify(results));
}

main();
