"""The official conformance suite against a broker's HTTP, in both eras of MCP.

It asks for much that palace has not: tools of its own, prompts, resources, requests to the client.
What it finds wrong must be one of those, and what applies must all be found right.
"""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_sdk import http_of, served
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
# Of these scenarios every check must be right.
APPLY = {
    "2026-07-28": (
        *("tools-list", "http-header-validation", "dns-rebinding-protection"),
        *("sep-2164-resource-not-found", "server-sse-multiple-streams"),
        "input-required-result-unsupported-methods",
    ),
    "2025-11-25": (
        *("server-initialize", "server-session-lifecycle", "ping", "tools-list"),
        *("server-sse-multiple-streams", "dns-rebinding-protection"),
    ),
}
RIGHT_MIN = {"2026-07-28": 80, "2025-11-25": 38}


@pytest.fixture(scope="module")
def suite(pytestconfig: pytest.Config) -> Path:
    if not is_full():
        pytest.skip("takes a minute: PALACE_TEST_PROFILE=full")
    return npm_packages(pytestconfig, "conformance", SUITE, NODE, scripts=True) / "node_modules"


@pytest.fixture
def url(served: Site, suite: Path) -> Iterator[str]:
    """Where the broker answers those who have no token."""
    at, token = http_of(served)
    port = at.split(":")[2].partition("/")[0]
    argv = [str(suite / ".bin" / "node"), str(PROXY), port, token]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield f"http://127.0.0.1:{proxy.stdout.readline().strip()}/mcp"
        finally:
            proxy.kill()


def scenario_of(directory: Path) -> str:
    return re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", directory.name).removeprefix("server-")


@pytest.mark.parametrize("version", APPLY)
def test_what_the_conformance_suite_finds_wrong_is_what_palace_has_not(
    suite: Path, url: str, version: str, tmp_path: Path
) -> None:
    program = suite / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    subprocess.run(
        [
            *(str(suite / ".bin" / "node"), str(program), "server", "--url", url),
            *("--spec-version", version, "--suite", "all", "-o", str(tmp_path)),
        ],
        capture_output=True,
        timeout=300,
        check=False,  # it fails for every scenario that does not apply
    )
    wrong: list[tuple[str, Any]] = []
    right: Counter[str] = Counter()
    for file in sorted(tmp_path.glob("*/checks.json")):
        scenario = scenario_of(file.parent)
        for check in json.loads(file.read_text()):
            if check["status"] == "FAILURE":
                wrong.append((scenario, check.get("errorMessage") or check))
            elif check["status"] == "SUCCESS":
                right[scenario] += 1

    unexpected = [
        (scenario, why)
        for scenario, why in wrong
        if scenario in APPLY[version] or not any(re.search(text, str(why)) for text in NOT_OURS)
    ]
    assert unexpected == []
    assert not [scenario for scenario in APPLY[version] if not right[scenario]]
    assert right.total() >= RIGHT_MIN[version]
