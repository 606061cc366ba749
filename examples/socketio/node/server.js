// A node with the servers of socket.io, SignalR and SockJS. Each keeps its sessions in this process,
// and answers every message with the node's name, which is the argument. It writes its port.
import {readFile} from "node:fs/promises";
import {createServer} from "node:http";
import {createRequire} from "node:module";
import {Server} from "socket.io";
import sockjs from "sockjs";
import {SignalR} from "./signalr.js";

const name = process.argv[2];
const {resolve} = createRequire(import.meta.url);
const pages = {
	"/": ["page.html", "text/html; charset=utf-8"],
	"/signalr.js": [resolve("@microsoft/signalr/dist/browser/signalr.min.js"), "text/javascript"],
	"/sockjs.js": [resolve("sockjs-client/dist/sockjs.min.js"), "text/javascript"],
};
const hub = new SignalR("/hub", {where: () => name});

// Requests of socket.io and SockJS do not come here: they take those of their paths away.
const server = createServer(async (req, res) => {
	const {pathname} = new URL(req.url, "http://node");
	if (pathname.startsWith("/hub")) return hub.request(req, res);
	const [file, type] = pages[pathname] ?? [];
	if (!file) return res.writeHead(404).end();
	res.writeHead(200, {"Content-Type": type}).end(await readFile(file));
});
server.on("upgrade", (req, socket, head) => {
	if (req.url.startsWith("/hub")) hub.upgrade(req, socket, head);
});

new Server(server, {destroyUpgrade: false}).on("connection", socket => {
	socket.on("where", answer => answer(name));
});

const echo = sockjs.createServer({prefix: "/sockjs", log: () => {}});
echo.on("connection", conn => conn?.on("data", () => conn.write(name)));
echo.installHandlers(server);

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume(); // the balancer is gone
