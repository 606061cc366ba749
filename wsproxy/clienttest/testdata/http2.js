// A server that speaks HTTP/2 and nothing else, in plain text or, with a key and a certificate, over TLS. It says its port.
// /healthz is fine until somebody has asked for /fall.
const http2 = require('node:http2');

const {key, cert} = JSON.parse(process.argv[2]);
let status = 200;

function answer(req, res) {
	if (req.url === '/fall') status = 503;
	res.writeHead(req.url === '/healthz' ? status : 200, {'content-type': 'text/plain'});
	res.end(`fine, over ${req.httpVersion}\n`);
}

const server = key ? http2.createSecureServer({key, cert, allowHTTP1: false}, answer) : http2.createServer(answer);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
