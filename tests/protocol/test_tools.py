import pytest

from palace.protocol.tools import TOOLS, UNKNOWN, Kind, classify_call


def test_a_call_is_what_its_tool_is() -> None:
    message = {"method": "tools/call", "params": {"name": "mempalace_search"}}

    assert classify_call(message) is TOOLS["mempalace_search"]


@pytest.mark.parametrize(
    "message",
    [
        None,
        {},
        {"params": [1]},
        {"params": {}},
        {"params": {"name": ["x"]}},
        {"params": {"name": "of_tomorrow"}},
    ],
)
def test_what_can_not_be_told_is_a_mutation(message: object) -> None:
    assert classify_call(message) is UNKNOWN
    assert UNKNOWN.kind is Kind.MUTATION
