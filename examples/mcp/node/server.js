// An MCP server over Streamable HTTP that keeps its sessions, and the events of their streams, in
// this process. Its argument is its name. It writes its port.
import {randomUUID} from "node:crypto";
import {createServer} from "node:http";
import {McpServer} from "@modelcontextprotocol/sdk/server/mcp.js";
import {StreamableHTTPServerTransport} from "@modelcontextprotocol/sdk/server/streamableHttp.js";

const name = process.argv[2];
const sessions = new Map();
let release; // lets the tool "count" go on
const released = new Promise(resolve => { release = resolve; });

// Events are the events of one session. A client that was cut off asks for those after the last one
// that it has seen.
class Events {
	list = [];

	async storeEvent(stream, message) {
		return String(this.list.push({stream, message}));
	}

	async getStreamIdForEventId(id) {
		return this.list[id - 1]?.stream;
	}

	async replayEventsAfter(id, {send}) {
		const {stream} = this.list[id - 1];
		for (let i = Number(id); i < this.list.length; i++) {
			const event = this.list[i];
			if (event.stream === stream) await send(String(i + 1), event.message);
		}
		return stream;
	}
}

async function begin() {
	const transport = new StreamableHTTPServerTransport({
		sessionIdGenerator: randomUUID,
		onsessioninitialized: id => sessions.set(id, transport),
		onsessionclosed: id => sessions.delete(id),
		eventStore: new Events(),
		retryInterval: 50,
	});
	const mcp = new McpServer({name, version: "1"}, {capabilities: {logging: {}}});
	const say = (data, extra) => mcp.server.notification({method: "notifications/message", params: {level: "info", data}}, extra);
	mcp.registerTool("notify", {description: "sends a notification on the stream of the GET"}, async () => {
		await say(name);
		return {content: [{type: "text", text: name}]};
	});
	mcp.registerTool("count", {description: "counts to six on both streams, and pauses after three"}, async extra => {
		for (let i = 1; i <= 6; i++) {
			if (i === 4) await released;
			await say(i, {relatedRequestId: extra.requestId});
			await say(-i);
		}
		return {content: [{type: "text", text: name}]};
	});
	await mcp.connect(transport);
	return transport;
}

const server = createServer(async (req, res) => {
	if (req.url === "/release") {
		release();
		res.end();
		return;
	}
	res.setHeader("Answered-By", name);
	const id = req.headers["mcp-session-id"];
	if (id && !sessions.has(id)) {
		res.writeHead(404, {"Content-Type": "application/json"});
		res.end(JSON.stringify({jsonrpc: "2.0", error: {code: -32001, message: "Session not found"}, id: null}));
		return;
	}
	await (id ? sessions.get(id) : await begin()).handleRequest(req, res);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume(); // the balancer is gone
