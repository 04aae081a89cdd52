// The official TypeScript SDKs as a client: `MODE stdio COMMAND...` or `MODE http URL TOKEN`;
// prints JSON.  MODE is "sdk" for the package of the older era, else how @modelcontextprotocol/client
// is to agree on a version ("legacy", "auto").

const [mode, kind, ...to] = process.argv.slice(2);
const isOlder = mode === "sdk";
const [{ Client, StreamableHTTPClientTransport }, { StdioClientTransport }] = isOlder
  ? await Promise.all([
      Promise.all([
        import("@modelcontextprotocol/sdk/client/index.js"),
        import("@modelcontextprotocol/sdk/client/streamableHttp.js"),
      ]).then(([client, http]) => ({ ...client, ...http })),
      import("@modelcontextprotocol/sdk/client/stdio.js"),
    ])
  : await Promise.all([
      import("@modelcontextprotocol/client"),
      import("@modelcontextprotocol/client/stdio"),
    ]);

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

const options = isOlder ? {} : { versionNegotiation: { mode } };
const client = new Client({ name: "typescript", version: "1" }, options);
const way = transport();
await client.connect(way);
const place = `${kind}-${mode}`;
const content = `A puffin came by ${place} and carried ten fish.`;
const { drawer_id } = await tool(client, "add_drawer", { wing: place, room: "birds", content });
const found = await tool(client, "search", { query: "puffin with fish", wing: place });

// A wait that its caller gives up: the session must go on.
const giveUp = new AbortController();
const call = { name: "mempalace_event_wait", arguments: { stream: "none", timeout_ms: 300000 } };
const signal = { signal: giveUp.signal };
const waits = isOlder ? client.callTool(call, undefined, signal) : client.callTool(call, signal);
setTimeout(() => giveUp.abort(), 200);
const wait = await waits.then(() => "answered", (error) => error.name);

const isModern = mode === "auto"; // which has no ping, and no session to end
console.log(JSON.stringify({
  server: client.getServerVersion(),
  version: isOlder ? "" : client.getNegotiatedProtocolVersion(),
  tools: (await client.listTools()).tools.length,
  written: drawer_id,
  found: found.results.map((hit) => hit.drawer_id ?? hit.id),
  wait,
  after: isModern ? {} : await client.ping(),
}));
if (kind === "http" && !isModern) await way.terminateSession();
await client.close();
