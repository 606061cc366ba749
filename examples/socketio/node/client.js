// Clients of socket.io, SignalR and SockJS, with each of their transports. The arguments are the
// balancer's URL, the number of clients of each kind, and how to write what happened: as "json" or as
// a table.
import signalR from "@microsoft/signalr";
import {io} from "socket.io-client";
import SockJS from "sockjs-client";

const [url, count, format] = process.argv.slice(2);
const messages = 5; // of each client

// Each client returns a function that asks for the name of the node, and one that ends it. It keeps
// the balancer's cookie, but for SockJS, whose client for Node.js cannot.
const socketIO = (transports, upgraded) => async () => {
	const socket = io(url, {transports, reconnection: false, forceNew: true, withCredentials: true, timeout: 60000});
	await new Promise((resolve, reject) => {
		socket.on("connect", resolve);
		socket.on("connect_error", err => {
			let said = err.context?.responseText ?? "";
			try { said = JSON.parse(said).message; } catch { /* no JSON */ }
			reject(new Error([err.description?.message ?? err.description ?? err.message, said].join(" ").trim()));
		});
	});
	const lost = new Promise((_, reject) => socket.on("disconnect", (reason, details) => {
		let said = details?.context?.responseText ?? "";
		try { said = JSON.parse(said).message; } catch { /* no JSON */ }
		reject(new Error([details?.description ?? reason, said].join(" ").trim()));
	}));
	lost.catch(() => {});
	if (upgraded && socket.io.engine.transport.name !== "websocket") {
		await Promise.race([lost, new Promise((resolve, reject) => {
			socket.io.engine.on("upgrade", resolve);
			socket.io.engine.on("upgradeError", err => reject(new Error("the upgrade has failed: " + (err.message ?? err))));
		})]);
	}
	return [() => Promise.race([lost, socket.emitWithAck("where")]), () => socket.close()];
};

const hub = transport => async () => {
	const connection = new signalR.HubConnectionBuilder()
		.withUrl(url + "/hub", {transport})
		.configureLogging(signalR.LogLevel.None)
		.build();
	const lost = new Promise((_, reject) => connection.onclose(err => reject(err ?? new Error("closed"))));
	lost.catch(() => {});
	await connection.start();
	return [() => Promise.race([lost, connection.invoke("where")]), () => connection.stop()];
};

const sockJS = transport => async () => {
	const socket = new SockJS(url + "/sockjs", null, {transports: [transport], timeout: 60000});
	let heard;
	const lost = new Promise((_, reject) => {
		socket.onclose = e => reject(new Error(`closed: ${e.code} ${e.reason}`));
	});
	lost.catch(() => {});
	await Promise.race([lost, new Promise(resolve => { socket.onopen = resolve; })]);
	socket.onmessage = e => heard(e.data);
	return [() => Promise.race([lost, new Promise(resolve => {
		heard = resolve;
		socket.send("where");
	})]), () => socket.close()];
};

const {HttpTransportType: T} = signalR;
const kinds = {
	"socket.io polling": socketIO(["polling"]),
	"socket.io websocket": socketIO(["websocket"]),
	"socket.io upgrade": socketIO(["polling", "websocket"], true),
	"SignalR LongPolling": hub(T.LongPolling),
	"SignalR ServerSentEvents": hub(T.ServerSentEvents),
	"SignalR WebSockets": hub(T.WebSockets),
	"SockJS xhr-polling": sockJS("xhr-polling"),
	"SockJS xhr-streaming": sockJS("xhr-streaming"),
	"SockJS websocket": sockJS("websocket"),
};

// What the clients say when another node answers, in short.
const reasons = [
	[/Session ID unknown/, '400 "Session ID unknown"'],
	[/No Connection with that ID/, '404 "No Connection with that ID"'],
	[/'404'|\b404\b/, "404"],
	[/The connection could not be found on the server/, '"The connection could not be found on the server"'],
];

async function play(connect, result) {
	try {
		const [where, close] = await connect();
		const nodes = new Set();
		for (let n = 0; n < messages; n++) nodes.add(await where());
		await close();
		if (nodes.size !== 1) throw new Error("answers of several nodes");
		for (const node of nodes) result.Nodes[node] = (result.Nodes[node] ?? 0) + 1;
		result.Whole++;
	} catch (err) {
		const reason = reasons.find(([pattern]) => pattern.test(err.message))?.[1] ?? err.message;
		result.Failures[reason] = (result.Failures[reason] ?? 0) + 1;
	}
}

const results = {};
for (const [kind, connect] of Object.entries(kinds)) {
	const result = results[kind] = {Whole: 0, Nodes: {}, Failures: {}};
	await Promise.all(Array.from({length: Number(count)}, () => play(connect, result)));
	if (format === "json") continue;
	const said = Object.entries(result.Whole === Number(count) ? result.Nodes : result.Failures).map(([what, n]) => `${n} ${what}`);
	console.log(`${kind.padEnd(26)}${String(result.Whole).padStart(3)} of ${count} connected: ${said.join(", ")}`);
}
if (format === "json") console.log(JSON.stringify(results));
process.exit();
