"""A web server on loopback, for whatever a test plays."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answering(BaseHTTPRequestHandler):
    """To inherit from: reads whole bodies and sends whole answers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.post()

    def do_GET(self) -> None:
        self.get()

    def do_DELETE(self) -> None:
        self.delete()

    def post(self) -> None:
        self.send(405, b"")

    def get(self) -> None:
        self.send(405, b"")

    def delete(self) -> None:
        self.send(405, b"")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, data: bytes, **headers: str) -> None:
        """Answer; `headers` are named with underscores."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_json(self, status: int, message: object) -> None:
        self.send(status, json.dumps(message).encode(), content_type="application/json")

    def log_message(self, *_args: object) -> None:
        return


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve until the block ends; yield the base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
