"""Forgetting a memory of which nobody knows in which namespace it is."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from palace.plugin.client import Client
from palace.plugin.elsewhere import FORGET_S, Elsewhere
from palace.plugin.wire import Wire
from palace.protocol.errors import Forbidden, PluginUnavailable
from palace.protocol.plugin_address import address_in

NAMES = ["org:a", "team:a", "team:b"]
IDENT = "mem-0d3f9e0a-1111-4222-8333-444455556666"


@contextmanager
def elsewhere(
    statuses: dict[str, int], step_s: float = 0.0
) -> Iterator[tuple[Elsewhere, list[str]]]:
    """Yield what asks a server that answers by namespace, and for which it was asked.

    Its clock goes on by `step_s` whenever it is looked at.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked.append(json.loads(body)["requested_by_namespace"])
            self.send_response(statuses[asked[-1]])
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        wire = Wire(address=address_in(f"http://127.0.0.1:{server.server_address[1]}"))
        ticks = itertools.count()
        client = Client(called="it", wire=wire, clock=lambda: next(ticks) * step_s)
        try:
            yield Elsewhere(client=client, kinds=["org", "team"]), asked
        finally:
            wire.close()
            server.shutdown()


def test_a_refusal_for_one_namespace_keeps_nobody_from_the_others() -> None:
    with elsewhere({"org:a": 403, "team:a": 404, "team:b": 204}) as (there, asked):
        assert there.forget(IDENT, NAMES) == "team:b"
    assert asked == NAMES


def test_a_refusal_is_told_where_it_was_nowhere_else() -> None:
    with elsewhere({"org:a": 403, "team:a": 404, "team:b": 404}) as (there, asked):
        with pytest.raises(Forbidden, match="403"):
            there.forget(IDENT, NAMES)
        assert asked == NAMES
        assert there.forget(IDENT, NAMES[1:]) == ""


def test_all_namespaces_share_one_deadline() -> None:
    many = [f"team:n{number}" for number in range(50)]
    with elsewhere(dict.fromkeys(many, 404), step_s=FORGET_S / 10) as (there, asked):
        with pytest.raises(PluginUnavailable, match="Name the memory's namespace"):
            there.forget(IDENT, many)
    assert 0 < len(asked) < 10
