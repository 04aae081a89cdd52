"""How the owner's tools are answered, whatever they change."""

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping

from palace.engine.durability.groups import CallGroups
from palace.protocol import jsonrpc
from palace.protocol.errors import Forbidden, PalaceError, StoreUnavailable
from palace.protocol.request import ToolCall
from palace.protocol.tools import Kind

Json = dict[str, object]
Answer = Callable[[Mapping[str, object]], Json]

logger = logging.getLogger("palace.engine")


class RefusedByStock(Exception):
    """Stock's own reply, an error of the protocol, to what a call had it do."""

    def __init__(self, reply: Json) -> None:
        super().__init__()
        self.reply = reply


def answered(
    call: ToolCall, answer: Answer, groups: CallGroups, path: str, *, read_only: bool
) -> Json:
    """Return the reply to a call as JSON-RPC; raises nothing for what was asked.

    `path` is the file that the tool reads or changes; where that can't be done, all that the call
    did is taken back.
    """
    try:
        if read_only and call.tool.kind is not Kind.QUERY:
            raise Forbidden(f"{call.name} changes the palace, and this session may only read.")
        told = answer(call.arguments)
    except PalaceError as problem:
        return jsonrpc.failure(call.id, problem)
    except RefusedByStock as problem:
        return {**problem.reply, "id": call.id}
    except (sqlite3.Error, OSError) as error:
        logger.error("%s can't be used: %s", path, type(error).__name__)  # noqa: TRY400
        why = f"The file {path} can't be read or written: {error}."
        groups.fail(f"{why} Nothing was changed; see palace doctor, and ask again.")
        return jsonrpc.failure(call.id, StoreUnavailable(f"{why} See palace doctor."))
    text = json.dumps(told, ensure_ascii=False)
    return jsonrpc.result(call.id, {"content": [{"type": "text", "text": text}]})
