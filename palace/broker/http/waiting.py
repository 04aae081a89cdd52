"""Waiting for a reply while its client may hang up."""

import trio

from palace.broker.http.exchange import Exchange, Gone
from palace.transport.pending import PendingRequest


async def answered(exchange: Exchange, pending: PendingRequest, patience_s: float) -> bool:
    """Wait for a reply and tell whether it came; raises Gone where the client hangs up before."""
    gone = False

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal gone
        await exchange.hung_up()
        gone = True
        scope.cancel()

    with trio.move_on_after(patience_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            await pending.answered.wait()
            nursery.cancel_scope.cancel()
    if gone and not pending.answered.is_set():
        raise Gone
    return pending.answered.is_set()
