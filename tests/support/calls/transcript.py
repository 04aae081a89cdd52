"""What a server answers to a corpus, in a form in which two servers can be compared.

Both servers run at the same path, one after the other, so that no path has to be masked.  What is
masked is this run's time and what is random in an id; see `Mask`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.calls.corpus import Call, encode_call
from tests.support.processes.clients import Client, Speaker

FENCE = "fence"  # an unknown tool: it changes nothing, and palace runs it after what came before


class Mask:
    """Replaces what differs from run to run; `began` is when the run began (UTC).

    - A point in time, or today's date, becomes `<now>` if it lies within the run: other times,
      such as those of the corpus, are compared.
    - What is random (or a hash over the time) in an id becomes a number that counts ids by first
      appearance, so that the same id must come back where it came back at the other server.
    """

    TIME = re.compile(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?"  # filed_at, created_at
        r"|(?<!\d)\d{8}[T_]\d{6}(?:\d{6})?(?!\d)"  # in the ids of events, artifacts, diary entries
        r"|(?<!\d)\d{4}-\d\d-\d\d(?![\dT])"  # date
        r"|(?<!\d)\d{13}-[0-9a-f]{6}(?=-rep_)"  # an event's hybrid logical clock
    )
    RANDOM = re.compile(
        r"(?<=(?:evt|art)_<now>_)[0-9a-f]{12}"
        r"|(?<=rep_)[0-9a-f]{32}"
        r"|(?<=^task_)\w+_[0-9a-f]{8}$|(?<=Open MemPalace task )task_\w+_[0-9a-f]{8}"
        r"|(?<=_)[0-9a-f]{12}(?=$)"  # a triple's id
    )

    def __init__(self, began: datetime) -> None:
        day = timedelta(days=1)
        self._since = (began - timedelta(seconds=2)).strftime("%Y%m%d%H%M%S")
        self._until = (began + day).strftime("%Y%m%d%H%M%S")
        self._ids: dict[str, int] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.RANDOM.sub(self._number, self.TIME.sub(self._now, value))
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, dict):
            return {self(key): self(value[key]) for key in sorted(value)}
        return value

    def _now(self, found: "re.Match[str]") -> str:
        text = found[0]
        if text[13:14] == "-":
            moment = datetime.fromtimestamp(int(text[:13]) / 1000, UTC)
            digits = moment.strftime("%Y%m%d%H%M%S")
        else:
            digits = re.sub(r"\D", "", text)[:14]
        within = self._since[: len(digits)] <= digits <= self._until[: len(digits)]
        return "<now>" if within else text

    def _number(self, found: "re.Match[str]") -> str:
        return f"<{self._ids.setdefault(found[0], len(self._ids))}>"


def canonical(reply: bytes, mask: Mask) -> str:
    """Return a reply as text; a tool's own JSON inside of it is opened, too."""
    message = json.loads(reply)
    content = message.get("result", {}).get("content", [])
    for item in content:
        item["text"] = json.loads(item["text"])  # members may come in any order, as in Chroma's
        if isinstance(item["text"], dict) and "timeline" in item["text"]:
            # Facts of one day are sorted by their ids, which end in a hash over the time.
            item["text"]["timeline"].sort(key=json.dumps)
    return json.dumps(mask(message), sort_keys=True, indent=1)


def run_calls(
    client: Speaker, calls: Iterable[Call], kept: dict[str, Any], *, may_fail: bool = False
) -> dict[str, bytes]:
    """Make the calls one after the other; return the replies by the calls' names.

    `may_fail`: a backend of stock's doesn't do all that others do, and later calls are told so.
    """
    replies: dict[str, bytes] = {}
    for call in calls:
        client.ids += 1
        client.send(encode_call(call, client.ids, kept))
        reply = client.receive()
        assert json.loads(reply)["id"] == client.ids, (call, reply)
        assert call.name not in replies, call.name
        replies[call.name] = reply
        for name, path in call.keep.items():
            try:
                kept[name] = _pick(json.loads(reply), path)
            except LookupError:
                if not may_fail:
                    raise
                kept[name] = f"no {name}"
    return replies


def _pick(reply: dict[str, Any], path: str) -> Any:
    found = json.loads(reply["result"]["content"][0]["text"])
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def run_raw(client: Client, lines: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    """Send each line with a fence behind it; return what came back before the fence did.

    What a line asked to be told of its progress is left out: stock tells nothing.
    """
    replies: dict[str, list[bytes]] = {}
    for number, (name, line) in enumerate(lines.items()):
        ident = f"{FENCE}-{number}"
        params = {"name": FENCE, "arguments": {}}
        fence = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
        client.send(line + b"\n" + json.dumps(fence).encode() + b"\n")
        found = replies[name] = []
        while (reply := client.receive()) and ident.encode() not in reply:
            if b'"notifications/progress"' not in reply:
                found.append(reply)
        assert reply, f"the server left at {name}: {line[:80]!r}"
    return replies
