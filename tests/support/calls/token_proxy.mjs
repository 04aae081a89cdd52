// Shows a broker's token for clients that can't: token_proxy.mjs PORT TOKEN, prints its own port.

import http from "node:http";

const [, , port, token] = process.argv;

const server = http.createServer((request, response) => {
  const headers = { ...request.headers, authorization: `Bearer ${token}` };
  // A Host that was meant for this port is meant for the broker's; any other goes as it is.
  if (headers.host === `127.0.0.1:${server.address().port}`) headers.host = `127.0.0.1:${port}`;
  const { method, url: path } = request;
  const asked = http.request({ host: "127.0.0.1", port, path, method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  asked.on("error", () => response.destroy());
  response.on("close", () => asked.destroy());
  request.pipe(asked);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
