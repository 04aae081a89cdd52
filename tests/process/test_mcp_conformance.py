"""The official conformance suite, in both eras of MCP, over HTTP and (bridged) over the shim.

It asks for much that palace has not: tools of its own, prompts, resources, requests to the client.
What it finds wrong must be one of those, and what applies must all be found right.
"""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import attrs
import pytest

from tests.engine.test_sdk import http_of, served
from tests.support.calls.shim_bridge import bridged
from tests.support.faults.killing import is_full
from tests.support.machines.npm import npm_packages
from tests.support.processes.clients import Site

pytestmark = [pytest.mark.engine, pytest.mark.process]

__all__ = ["served"]  # a fixture

SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
NODE = "node@24"  # the suite doesn't run on what is common
PROXY = Path(__file__).parents[1] / "support" / "calls" / "token_proxy.mjs"
NOT_OURS = {
    r"Unknown tool: test_": "a tool of the suite's own",
    r"^Tool 'json_schema_2020_12_tool' not found": "a tool of the suite's own",
    r"^Not testable: server (exposes no|does not list)": "a tool of the suite's own",
    r"^Prerequisite failed: could not get initial InputRequired": "a tool of the suite's own",
    r"^Expected InputRequiredResult": "a tool of the suite's own",
    r"(Unknown method|Method not found): (prompts|resources|completion)/": "stock has only tools",
    r"(prompts|resources)(/templates)?/list returned JSON-RPC error -32601": "stock has only tools",
    r"Unknown method: logging/setLevel": "stock has only tools",
}
# What a bridge to a shim can't show, since it is HTTP's, or goes by HTTP's headers, by check.
OF_HTTP = {
    "localhost-host-rebinding-rejected": "stdio has no Host and no Origin",
    "sep-2243-server-reject-invalid-headers": "stdio has no headers",
    "sep-2575-http-server-header-mismatch-400": "stdio has no headers",
    "sep-2575-request-meta-invalid-missing-meta": "without _meta a line is of the older era",
    "sep-2575-request-meta-invalid-missing-protocol-version": "so is one without a version",
    "sep-2575-request-meta-invalid-missing-client-capabilities": "a probe need not tell them",
    "sep-2575-http-server-meta-invalid-400": "the same lines; stdio has no statuses",
    "sep-2575-http-server-method-not-found-404-initialize": "initialize begins the older era",
    "tasks-headers-reject-mismatched-method": "stdio has no headers",
}
# Of these scenarios every check must be right.
BOTH = {
    "2026-07-28": (
        *("tools-list", "sep-2164-resource-not-found", "server-sse-multiple-streams"),
        "input-required-result-unsupported-methods",
    ),
    "2025-11-25": (
        *("server-initialize", "server-session-lifecycle", "ping", "tools-list"),
        "server-sse-multiple-streams",
    ),
}
HTTP_ALONE = {
    "2026-07-28": ("http-header-validation", "dns-rebinding-protection"),
    "2025-11-25": ("dns-rebinding-protection",),
}
RIGHT_MIN = {
    ("2026-07-28", "http"): 80,
    ("2025-11-25", "http"): 38,
    ("2026-07-28", "shim"): 65,
    ("2025-11-25", "shim"): 39,
}
# The extension's scenarios, each with how many checks must be right at least: most need tools of
# the suite's own, which last for as long as they are told to.
TASKS = {
    "tasks-lifecycle": 1,
    "tasks-capability-negotiation": 3,
    "tasks-wire-fields": 1,
    "tasks-request-state-removal": 1,
    "tasks-mrtr-input": 1,
    "tasks-request-headers": 1,
    "tasks-dispatch-and-envelope": 4,
    "tasks-required-task-error": 1,
    "tasks-mrtr-composition": 1,
}
OF_TASKS = {
    r"^Unknown tool: (greet|slow_compute|failing_job|protocol_error_job|confirm_delete)$": "tools",
    r"^Unknown tool: multi_input$": "a tool of the suite's own",
    r"no task was created by the preceding step|routing-task fixture": "it needs such a tool",
    r"^tools/call for failing_job returned error code -32602": "a tool of the suite's own",
}


@pytest.fixture(scope="module")
def suite(pytestconfig: pytest.Config) -> Path:
    if not is_full():
        pytest.skip("takes a minute: PALACE_TEST_PROFILE=full")
    return npm_packages(pytestconfig, "conformance", SUITE, NODE, scripts=True) / "node_modules"


@contextmanager
def over_http(site: Site, suite: Path) -> Iterator[str]:
    """Serve a broker's HTTP to those who have no token."""
    at, token = http_of(site)
    port = at.split(":")[2].partition("/")[0]
    argv = [str(suite / ".bin" / "node"), str(PROXY), port, token]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield f"http://127.0.0.1:{proxy.stdout.readline().strip()}/mcp"
        finally:
            proxy.kill()


@pytest.fixture(params=["http", "shim"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(served: Site, suite: Path, door: str) -> Iterator[str]:
    with over_http(served, suite) if door == "http" else bridged(served) as url:
        yield url


def scenario_of(directory: Path) -> str:
    return re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", directory.name).removeprefix("server-")


@attrs.define
class Findings:
    """What the suite found: (scenario, check, why) of what is wrong, and counts of the rest."""

    wrong: list[tuple[str, str, str]] = attrs.field(factory=list)
    right: Counter[str] = attrs.field(factory=Counter)

    @classmethod
    def of(cls, suite: Path, out: Path, *arguments: str) -> Self:
        program = suite / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
        argv = [str(suite / ".bin" / "node"), str(program), "server", *arguments, "-o", str(out)]
        # It fails for every scenario that does not apply.
        subprocess.run(argv, capture_output=True, timeout=300, check=False)
        found = cls()
        for file in sorted(out.glob("*/checks.json")):
            scenario = scenario_of(file.parent)
            for check in json.loads(file.read_text()):
                if check["status"] == "FAILURE":
                    why = str(check.get("errorMessage") or check)
                    found.wrong.append((scenario, check["id"], why))
                elif check["status"] == "SUCCESS":
                    found.right[scenario] += 1
        return found


@pytest.mark.parametrize("version", BOTH)
def test_what_the_conformance_suite_finds_wrong_is_what_palace_has_not(
    suite: Path, url: str, door: str, version: str, tmp_path: Path
) -> None:
    found = Findings.of(suite, tmp_path, "--url", url, "--spec-version", version, "--suite", "all")

    whole = BOTH[version] + (HTTP_ALONE[version] if door == "http" else ())
    unexpected = [
        (scenario, check, why)
        for scenario, check, why in found.wrong
        if not (door == "shim" and check in OF_HTTP)
        and (scenario in whole or not any(re.search(text, why) for text in NOT_OURS))
    ]
    assert unexpected == []
    assert not [scenario for scenario in whole if not found.right[scenario]]
    assert found.right.total() >= RIGHT_MIN[version, door]


def test_what_it_finds_wrong_with_tasks_needs_tools_of_its_own(
    suite: Path, url: str, door: str, tmp_path: Path
) -> None:
    found = Findings()
    for scenario in TASKS:
        one = Findings.of(suite, tmp_path / scenario, "--url", url, "--scenario", scenario)
        found.wrong += one.wrong
        found.right.update(one.right)

    unexpected = [
        (scenario, check, why)
        for scenario, check, why in found.wrong
        if not (door == "shim" and check in OF_HTTP)
        and not any(re.search(text, why) for text in NOT_OURS | OF_TASKS)
    ]
    assert unexpected == []
    assert not [scenario for scenario, least in TASKS.items() if found.right[scenario] < least]
