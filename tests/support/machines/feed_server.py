"""`/palace/v1/feed` of a directory over TLS, without a broker: prints port and fingerprint.

python -m tests.support.machines.feed_server DIR BOOK
"""

import socket
import sys
from collections import Counter

import trio

from palace.broker.certificate import keep_door_identity
from palace.broker.http.exchange import Exchange, Gone, Refused
from palace.broker.http.feeds import Feeds
from palace.kernel.kernel import Kernel
from palace.settings.config import Config
from palace.transport.http import HttpConnection, Receive, Scope, Send, Server
from tests.support.stores.exporter import IDENTITY

HOST = "127.0.0.1"


async def serve(directory: str, book: str) -> None:
    kernel = Kernel()
    identity, _ = keep_door_identity(Config(graph="", config_dir=""), kernel, book, HOST)
    feeds = Feeds(journal=f"{directory}/journal", palace=IDENTITY, directory=book, kernel=kernel)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, Counter())
        try:
            await feeds.serve(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except Gone:
            pass

    server = Server(app, feeds.is_known, identity.context)
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    print(listener.socket.getsockname()[1], identity.fingerprint, flush=True)
    async with trio.open_nursery() as nursery:
        while True:
            stream = await listener.accept()
            nursery.start_soon(server.serve, _plain(stream), HttpConnection())


def _plain(stream: trio.SocketStream) -> socket.socket:
    return socket.socket(fileno=stream.socket.detach())


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], sys.argv[2])
