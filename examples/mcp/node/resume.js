// An MCP client that keeps sessions open while its balancer restarts. Its arguments are the number
// of sessions and the balancer's URL. Each session calls the tool "count". When all of them have
// heard the first three numbers on both streams, the client writes a line. At the end it writes
// what happened as JSON.
import {Client} from "@modelcontextprotocol/sdk/client/index.js";
import {StreamableHTTPClientTransport} from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [count, balancer] = process.argv.slice(2);
const result = {Whole: 0, Resumed: 0, Servers: {}, Errors: []};
let waiting = Number(count);

async function play() {
	const heard = [], lower = [];
	let streaming, done, resumed = false;
	const stream = new Promise(resolve => { streaming = resolve; });
	const all = new Promise(resolve => { done = resolve; });
	const seen = new Set();
	const transport = new StreamableHTTPClientTransport(new URL(balancer), {
		reconnectionOptions: {maxRetries: 1000, initialReconnectionDelay: 50, maxReconnectionDelay: 50, reconnectionDelayGrowFactor: 1},
		fetch: async (url, init) => {
			const res = await fetch(url, init);
			seen.add(res.headers.get("Answered-By"));
			if (res.ok && init.headers.get("last-event-id")) resumed = true;
			if (init.method === "GET") streaming();
			return res;
		},
	});
	const client = new Client({name: "client", version: "1"});
	client.fallbackNotificationHandler = async ({params: {data}}) => {
		(data > 0 ? heard : lower).push(data);
		if (Math.abs(data) === 3 && heard.length === 3 && lower.length === 3 && --waiting === 0) console.log("waiting");
		if (heard.length === 6 && lower.length === 6) done();
	};
	try {
		await client.connect(transport);
		await stream;
		const answer = await client.callTool({name: "count", arguments: {}});
		await all;
		const order = heard.join() + lower.join();
		if (order !== "1,2,3,4,5,6-1,-2,-3,-4,-5,-6") throw new Error("heard " + order);
		const {tools} = await client.listTools();
		if (tools.length !== 2) throw new Error("tools: " + JSON.stringify(tools));
		if (seen.size !== 1) throw new Error("answers of " + [...seen]);
		await transport.terminateSession();
		const from = answer.content[0].text;
		result.Servers[from] = (result.Servers[from] ?? 0) + 1;
		if (resumed) result.Resumed++;
		result.Whole++;
	} catch (err) {
		if (result.Errors.length < 5) result.Errors.push(String(err));
	} finally {
		await client.close();
	}
}

await Promise.all(Array.from({length: Number(count)}, play));
console.log(JSON.stringify(result));
process.exit();
