"""The methods of palace/protocol/extras.py, for those who only look whether one is meant.

Rule for this file: pure and light, since every shim imports it.
"""

METHODS = frozenset(
    {
        *("resources/list", "resources/templates/list", "resources/read"),
        *("prompts/list", "prompts/get", "completion/complete"),
    }
)
CAPABILITIES: "dict[str, dict[str, object]]" = {"resources": {}, "prompts": {}, "completions": {}}
