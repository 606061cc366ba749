// An MCP client that plays sessions, a few at a time, and sends each request to the next balancer.
// Its arguments are the number of sessions and the URLs of the balancers. It writes what happened
// as JSON.
import {Client} from "@modelcontextprotocol/sdk/client/index.js";
import {StreamableHTTPClientTransport} from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [count, ...balancers] = process.argv.slice(2);
const result = {Whole: 0, NotFound: 0, Servers: {}, Errors: []};

async function play(n) {
	let turn = n, streaming, notified;
	const stream = new Promise(resolve => { streaming = resolve; });
	const notification = new Promise(resolve => { notified = resolve; });
	const seen = new Set(); // the servers of this session
	const transport = new StreamableHTTPClientTransport(new URL(balancers[0]), {
		reconnectionOptions: {maxRetries: 0, initialReconnectionDelay: 10, maxReconnectionDelay: 10, reconnectionDelayGrowFactor: 1},
		fetch: async (url, init) => {
			const res = await fetch(balancers[turn++ % balancers.length], init);
			seen.add(res.headers.get("Answered-By"));
			if (res.status === 404) result.NotFound++;
			if (init.method === "GET") streaming(res.status);
			return res;
		},
	});
	const client = new Client({name: "client", version: "1"});
	client.fallbackNotificationHandler = async n => notified(n.params.data);
	try {
		await client.connect(transport);
		const status = await stream;
		if (status !== 200) throw new Error("GET: " + status);
		const {tools} = await client.listTools();
		if (tools[0].name !== "notify") throw new Error("tools: " + JSON.stringify(tools));
		const answer = await client.callTool({name: "notify", arguments: {}});
		const from = await notification;
		if (answer.content[0].text !== from) throw new Error("a notification of another server");
		await transport.terminateSession();
		if (seen.size !== 1) throw new Error("answers of " + [...seen]);
		result.Servers[from] = (result.Servers[from] ?? 0) + 1;
		result.Whole++;
	} catch (err) {
		if (result.Errors.length < 5) result.Errors.push(String(err));
	} finally {
		await client.close();
	}
}

let next = 0;
await Promise.all(Array.from({length: 10}, async () => {
	while (next < Number(count)) await play(next++);
}));
console.log(JSON.stringify(result));
process.exit();
