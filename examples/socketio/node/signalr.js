// A small server of ASP.NET Core SignalR, which itself needs .NET. It has what the documents
// TransportProtocols.md and HubProtocol.md of SignalR describe and the client of this example uses:
// negotiation, the three transports, and invocations in JSON. A connection begins with a
// negotiation, and the node that answered it is the only one that knows its token. All others answer
// 404.
import {randomUUID} from "node:crypto";
import {WebSocketServer} from "ws";

const end = "\x1e"; // of a message

class Connection {
	greeted = false;
	text = "";
	waiting = []; // messages for the next poll
	send = data => this.waiting.push(data);

	constructor(methods) {
		this.methods = methods;
	}

	receive(data) {
		const messages = (this.text + data).split(end);
		this.text = messages.pop();
		for (const message of messages) this.message(JSON.parse(message));
	}

	message(m) {
		if (!this.greeted) {
			this.greeted = true;
			this.send("{}" + end);
		} else if (m.type === 1) {
			const method = this.methods[m.target];
			const answer = method ? {result: method(...m.arguments)} : {error: "no such method"};
			this.send(JSON.stringify({type: 3, invocationId: m.invocationId, ...answer}) + end);
		} else if (m.type === 6) {
			this.send(JSON.stringify({type: 6}) + end);
		}
	}
}

export class SignalR {
	connections = new Map(); // by token
	sockets = new WebSocketServer({noServer: true});

	constructor(path, methods) {
		this.path = path;
		this.methods = methods;
	}

	find(req) {
		return this.connections.get(new URL(req.url, "http://node").searchParams.get("id"));
	}

	async request(req, res) {
		let body = "";
		for await (const chunk of req.setEncoding("utf8")) body += chunk;
		if (req.url.startsWith(this.path + "/negotiate")) return this.negotiate(res);
		const connection = this.find(req);
		if (!connection) return res.writeHead(404, {"Content-Type": "text/plain"}).end("No Connection with that ID");
		try {
			if (req.method === "POST") {
				connection.receive(body);
				res.end();
			} else if (req.method === "DELETE") {
				this.remove(connection);
				res.writeHead(202).end();
			} else if (req.headers.accept === "text/event-stream") {
				this.events(connection, res);
			} else {
				this.poll(connection, res);
			}
		} catch {
			res.writeHead(400).end();
		}
	}

	negotiate(res) {
		const connection = new Connection(this.methods);
		connection.token = randomUUID();
		this.connections.set(connection.token, connection);
		const transports = ["WebSockets", "ServerSentEvents", "LongPolling"];
		res.writeHead(200, {"Content-Type": "application/json"}).end(JSON.stringify({
			negotiateVersion: 1,
			connectionId: randomUUID(),
			connectionToken: connection.token,
			availableTransports: transports.map(transport => ({transport, transferFormats: ["Text"]})),
		}));
	}

	events(connection, res) {
		res.writeHead(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"});
		res.write(":\r\n\r\n");
		connection.send = data => res.write(`data: ${data}\r\n\r\n`);
		res.on("close", () => this.remove(connection));
	}

	// The first poll is answered at once, and each other one when there are messages.
	poll(connection, res) {
		const answer = () => {
			connection.send = data => connection.waiting.push(data);
			if (!res.destroyed) res.end(connection.waiting.splice(0).join(""));
		};
		connection.gone = () => res.writeHead(204).end();
		if (!connection.polled || connection.waiting.length) {
			connection.polled = true;
			return answer();
		}
		connection.send = data => {
			connection.waiting.push(data);
			answer();
		};
	}

	upgrade(req, socket, head) {
		const connection = this.find(req);
		if (!connection) return socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
		this.sockets.handleUpgrade(req, socket, head, ws => {
			connection.send = data => ws.send(data);
			ws.on("message", data => {
				try {
					connection.receive(String(data));
				} catch {
					ws.close(1002);
				}
			});
			ws.on("close", () => this.remove(connection));
		});
	}

	remove(connection) {
		this.connections.delete(connection.token);
		connection.gone?.();
		connection.gone = undefined;
	}
}
