"""A model that is played on loopback: it calls the tools that a test says, and ends its turn.

It speaks as far as hosts need it: Anthropic's Messages (Claude Code, opencode), OpenAI's Responses
(Codex) and Gemini's generateContent (Gemini CLI).
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.brokers.loopback import Answering, serving

Step = tuple[str, dict[str, Any]]  # a tool of stock's without its prefix, and its arguments
Events = Iterator[dict[str, Any]]


@dataclass
class PlayedModel:
    """Asks for `steps`, one after another.

    `before` is called with a step's number before that is asked for.  `told` are the results that
    the host gave back, in order.  `offered` are the tools that it named.
    """

    steps: list[Step]
    before: Callable[[int], None] = lambda _number: None
    told: list[str] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, tools: set[str], told: list[str]) -> tuple[str, dict[str, Any], int] | None:
        """Return the tool to call, its arguments and the step's number; None: say something."""
        with self._lock:
            number = len(told)
            if number > len(self.told):
                self.told = told
            if number >= len(self.steps):
                return None
            tail, arguments = self.steps[number]
            name = next((tool for tool in tools if tool.endswith(f"mempalace_{tail}")), "")
            if not name:
                return None  # a side request: a title, a summary
            self.offered |= tools
            self.before(number)
            return name, arguments, number


def _text(said: Any) -> str:
    if isinstance(said, list):
        return "".join(part.get("text", "") for part in said if isinstance(part, dict))
    return said if isinstance(said, str) else json.dumps(said)


def messages_events(played: PlayedModel, asked: dict[str, Any]) -> Events:
    """Answer a request of Anthropic's Messages."""
    blocks = [b for m in asked["messages"] if isinstance(m["content"], list) for b in m["content"]]
    told = [_text(block.get("content")) for block in blocks if block["type"] == "tool_result"]
    step = played.next({tool["name"] for tool in asked.get("tools", [])}, told)
    if step is None:
        block: dict[str, Any] = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": "done"}
    else:
        name, arguments, number = step
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"]}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None}
    message["usage"] = {"input_tokens": 1, "output_tokens": 1}
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    ending = {"stop_reason": "tool_use" if step else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def responses_events(played: PlayedModel, asked: dict[str, Any]) -> Events:
    """Answer a request of OpenAI's Responses."""
    outputs = [item for item in asked["input"] if item.get("type") == "function_call_output"]
    names = dict(_named(asked.get("tools", []), ""))
    step = played.next(set(names), [_text(item["output"]) for item in outputs])
    item: dict[str, Any] = {"type": "message", "role": "assistant", "id": "m1"}
    item["content"] = [{"type": "output_text", "text": "done", "annotations": []}]
    if step is not None:
        name, arguments, number = step
        item = {"type": "function_call", "call_id": f"call_{number}", "id": f"f{number}"}
        item |= {**names[name], "arguments": json.dumps(arguments)}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    yield {"type": "response.created", "response": {"id": "r1"}}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    response = {"id": "r1", "status": "completed", "output": [item], "usage": usage}
    yield {"type": "response.completed", "response": response}


def _named(tools: list[dict[str, Any]], namespace: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each tool's whole name, and how a call names it."""
    for tool in tools:
        if "tools" in tool:
            yield from _named(tool["tools"], tool.get("name", ""))
        elif "name" in tool:
            call = {"name": tool["name"]} | ({"namespace": namespace} if namespace else {})
            yield tool["name"], call


def gemini_events(played: PlayedModel, asked: dict[str, Any]) -> Events:
    """Answer a request of Gemini's streamGenerateContent."""
    parts = [part for content in asked["contents"] for part in content.get("parts", [])]
    told = [_text(p["functionResponse"]["response"]) for p in parts if "functionResponse" in p]
    declared = [
        one for tool in asked.get("tools", []) for one in tool.get("functionDeclarations", [])
    ]
    step = played.next({one["name"] for one in declared}, told)
    part: dict[str, Any] = {"text": '{"done": true}'}
    if step is not None:
        part = {"functionCall": {"name": step[0], "args": step[1], "id": f"call_{step[2]}"}}
    content = {"role": "model", "parts": [part]}
    yield {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
        "modelVersion": "played",
    }


class _Handler(Answering):
    played: PlayedModel

    def post(self) -> None:
        body = json.loads(self.body() or b"{}")
        path = self.path.partition("?")[0]
        self.played.paths.append(path)
        if path.endswith("/messages"):
            self._stream(messages_events(self.played, body))
        elif path.endswith("/responses"):
            self._stream(responses_events(self.played, body))
        elif path.endswith(":streamGenerateContent"):
            self._stream(gemini_events(self.played, body))
        elif path.endswith(":generateContent"):
            self.send_json(200, next(gemini_events(self.played, body)))
        elif path.endswith(("/count_tokens", ":countTokens")):
            self.send_json(200, {"input_tokens": 1, "totalTokens": 1})
        else:
            self.send_json(404, {"error": {"type": "not_found_error", "message": path}})

    def get(self) -> None:
        self.played.paths.append(f"GET {self.path}")
        self.send_json(404, {"error": {"type": "not_found_error", "message": self.path}})

    def _stream(self, events: Events) -> None:
        lines = []
        for event in events:
            named = f"event: {event['type']}\n" if "type" in event else ""
            lines.append(f"{named}data: {json.dumps(event)}\n\n")
        self.send(200, "".join(lines).encode(), content_type="text/event-stream")


@contextmanager
def playing(played: PlayedModel) -> Iterator[PlayedModel]:
    """Serve until the block ends; `url` is the base URL."""
    with serving(type("Handler", (_Handler,), {"played": played})) as played.url:
        yield played
