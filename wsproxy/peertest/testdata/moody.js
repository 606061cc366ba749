// A server that gives up on slow bodies after a second, destroys upgrades unanswered, and has a page that never comes: moody.js HOST PORT
const server = require('http').createServer({ requestTimeout: 1000, headersTimeout: 1000, connectionsCheckingInterval: 200 }, (req, res) => {
	if (req.url === '/never') return;
	if (req.url === '/big') return res.end(Buffer.alloc(1 << 20));
	req.resume().on('end', () => res.end('ok'));
});
server.on('upgrade', (req, socket) => socket.destroy());
server.listen(process.argv[3], process.argv[2]);
