// Clients of the openai package that stream chat completions. The arguments are the balancer's URL,
// the number of conversations and their turns. The program writes what happened as JSON.
import OpenAI from "openai";

const [url, conversations, turns] = process.argv.slice(2);
const client = new OpenAI({baseURL: url + "/v1", apiKey: "none", maxRetries: 0});
const result = {Answers: 0, Chunks: 0, Prompted: 0, Cached: 0, Errors: []};

async function converse(n) {
	const messages = [{role: "system", content: "You are brief."}, {role: "user", content: `${n} `.repeat(500)}];
	for (let turn = 0; turn < Number(turns); turn++) {
		const stream = await client.chat.completions.create({model: "simulated", messages, stream: true});
		let said = "", usage;
		for await (const chunk of stream) {
			said += chunk.choices[0]?.delta.content ?? "";
			usage = chunk.usage ?? usage;
			result.Chunks++;
		}
		result.Answers++;
		result.Prompted += usage.prompt_tokens;
		result.Cached += usage.prompt_tokens_details.cached_tokens;
		messages.push({role: "assistant", content: said}, {role: "user", content: "Go on."});
	}
}

await Promise.all(Array.from({length: Number(conversations)}, async (_, n) => {
	try {
		await converse(n);
	} catch (err) {
		result.Errors.push(String(err.cause ?? err));
	}
}));
console.log(JSON.stringify(result));
process.exit();
