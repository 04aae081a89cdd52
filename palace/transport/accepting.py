"""Accepting connections, for as long as a listener lives."""

import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import trio

AGAIN_S = 0.1

C = TypeVar("C")


async def accept_forever(
    accept: Callable[[], Awaitable[C]], take: Callable[[C], None], logger: logging.Logger
) -> NoReturn:
    """Give each accepted connection to `take`, which closes it; ends by cancellation alone."""
    while True:
        try:
            connection = await accept()
        except OSError as error:  # EMFILE, ENFILE, ENOMEM: those connected go on
            logger.warning("accept failed: %s", error)
            await trio.sleep(AGAIN_S)
            continue
        take(connection)
        # A whole backlog taken at once would hold its descriptors before one is refused.
        await trio.lowlevel.checkpoint()
