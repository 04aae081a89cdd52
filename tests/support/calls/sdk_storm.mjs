// The official TypeScript client, which goes on over killed brokers: `MODE KIND NAME COUNT TO...`.
// MODE is how it is to agree on a version ("legacy", "auto"); TO is a command for KIND "stdio", and
// the paths of serverinfo.json and of the token for "http".  It files COUNT facts of NAME, and
// prints "done N" for each, and "failed TEXT" for each call that failed, which it repeats.

import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const [mode, kind, name, count, ...to] = process.argv.slice(2);

function transport() {
  if (kind === "stdio") {
    return new StdioClientTransport({
      command: to[0], args: to.slice(1), env: process.env, stderr: "ignore",
    });
  }
  const { port } = JSON.parse(readFileSync(to[0], "utf8"));
  const headers = { Authorization: `Bearer ${readFileSync(to[1], "utf8").trim()}` };
  const url = new URL(`http://127.0.0.1:${port}/mcp`);
  return new StreamableHTTPClientTransport(url, { requestInit: { headers } });
}

let client;
for (let number = 0; number < Number(count);) {
  try {
    if (!client) {
      const next = new Client({ name, version: "1" }, { versionNegotiation: { mode } });
      await next.connect(transport());
      client = next;
    }
    const fact = { subject: name, predicate: "survived", object: `${number}` };
    const said = await client.callTool({ name: "mempalace_kg_add", arguments: fact });
    if (said.isError || !JSON.parse(said.content[0].text).success) throw new Error("refused");
    console.log(`done ${number}`);
    number += 1;
  } catch (error) {
    console.log(`failed ${String(error.message).slice(0, 100).replaceAll("\n", " ")}`);
    await client?.close().catch(() => {});
    client = undefined;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
await client.close();
