// The official TypeScript SDK as a client: `stdio COMMAND...` or `http URL TOKEN`; prints JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [kind, ...to] = process.argv.slice(2);

function transport() {
  if (kind === "stdio") {
    return new StdioClientTransport({
      command: to[0], args: to.slice(1), env: process.env, stderr: "ignore",
    });
  }
  const headers = { Authorization: `Bearer ${to[1]}` };
  return new StreamableHTTPClientTransport(new URL(to[0]), { requestInit: { headers } });
}

async function tool(client, name, args) {
  const result = await client.callTool({ name: `mempalace_${name}`, arguments: args });
  return JSON.parse(result.content[0].text);
}

const client = new Client({ name: "typescript", version: "1" });
const way = transport();
await client.connect(way);
const content = `A puffin came by ${kind} and carried ten fish.`;
const { drawer_id } = await tool(client, "add_drawer", { wing: kind, room: "birds", content });
const found = await tool(client, "search", { query: "puffin with fish", wing: kind });

// A wait that its caller gives up: the session must go on.
const giveUp = new AbortController();
const waits = client.callTool(
  { name: "mempalace_event_wait", arguments: { stream: "none", timeout_ms: 300000 } },
  undefined,
  { signal: giveUp.signal },
);
setTimeout(() => giveUp.abort(), 200);
const wait = await waits.then(() => "answered", (error) => error.name);

console.log(JSON.stringify({
  server: client.getServerVersion(),
  tools: (await client.listTools()).tools.length,
  written: drawer_id,
  found: found.results.map((hit) => hit.drawer_id ?? hit.id),
  wait,
  after: await client.ping(),
}));
if (kind === "http") await way.terminateSession();
await client.close();
