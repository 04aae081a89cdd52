"""What a reply of stock's says of itself."""

import json

from palace.engine.stock import JsonObject


def succeeded(reply: JsonObject) -> bool:
    """Tell whether a tool said that it has done what it was asked for."""
    try:
        return json.loads(reply["result"]["content"][0]["text"])["success"] is True
    except (KeyError, IndexError, TypeError, ValueError):
        return False


def error_code(reply: JsonObject) -> object:
    error = reply.get("error")
    return error.get("code") if isinstance(error, dict) else None
