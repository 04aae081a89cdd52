"""Accepting connections, for as long as a listener lives."""

import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import trio

AGAIN_S = 0.1
CHURN_S = 0.004

C = TypeVar("C")


async def accept_forever(
    accept: Callable[[], Awaitable[C]],
    take: Callable[[C], None],
    logger: logging.Logger,
    is_full: Callable[[], bool] = lambda: False,
) -> NoReturn:
    """Give each accepted connection to `take`, which closes it; ends by cancellation alone.

    While it `is_full`, a newcomer takes another's place, and both may come again at once: then
    fewer are accepted than could be, and the rest wait in the kernel.
    """
    while True:
        try:
            connection = await accept()
        except OSError as error:  # EMFILE, ENFILE, ENOMEM: those connected go on
            logger.warning("accept failed: %s", error)
            await trio.sleep(AGAIN_S)
            continue
        take(connection)
        if is_full():
            await trio.sleep(CHURN_S)
        else:  # a whole backlog taken at once would hold its descriptors before one is refused
            await trio.lowlevel.checkpoint()
