// An MCP server over Streamable HTTP that keeps its sessions in this process. It says its port. Its
// tool "notify" sends a notification over the stream of the client's GET.
import {randomUUID} from "node:crypto";
import {createServer} from "node:http";
import {McpServer} from "@modelcontextprotocol/sdk/server/mcp.js";
import {StreamableHTTPServerTransport} from "@modelcontextprotocol/sdk/server/streamableHttp.js";

const sessions = new Map();

async function begin() {
	const transport = new StreamableHTTPServerTransport({
		sessionIdGenerator: randomUUID,
		onsessioninitialized: id => sessions.set(id, transport),
		onsessionclosed: id => sessions.delete(id),
	});
	const mcp = new McpServer({name: "fleet", version: "1"}, {capabilities: {logging: {}}});
	mcp.registerTool("notify", {description: "sends a notification"}, async () => {
		await mcp.server.notification({method: "notifications/message", params: {level: "info", data: process.pid}});
		return {content: [{type: "text", text: String(process.pid)}]};
	});
	await mcp.connect(transport);
	return transport;
}

const server = createServer(async (req, res) => {
	const id = req.headers["mcp-session-id"];
	if (id && !sessions.has(id)) {
		res.writeHead(404, {"Content-Type": "application/json"});
		res.end(JSON.stringify({jsonrpc: "2.0", error: {code: -32001, message: "Session not found"}, id: null}));
		return;
	}
	await (id ? sessions.get(id) : await begin()).handleRequest(req, res);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume(); // the test is gone
