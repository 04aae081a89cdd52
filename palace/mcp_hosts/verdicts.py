"""What hosts decide by rules of their own: whether a folder is trusted, which tools are denied.

Pure: values of files in, a verdict out.  They were read about, in the hosts' documentation and
sources; docs/hosts.md says which were seen at work.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

from palace.mcp_hosts.values import value_at

_TRUSTING = ("TRUST_FOLDER", "TRUST_PARENT")


def is_trusted_by_gemini(directory: str, rules: Any, enabled: Any) -> bool:
    """Tell whether Gemini CLI connects to servers in a folder.

    `rules` are those of trustedFolders.json, of which the one with the longest path counts;
    `enabled` is the setting, which is on by default in newer versions and off in older ones.  A
    folder of which no rule speaks is not trusted until its user is asked: that is only certain
    where they have switched it on.
    """
    if enabled is False or not directory:
        return True
    here = os.path.realpath(directory)
    found, longest = "", -1
    for path, level in rules.items() if isinstance(rules, dict) else ():
        if level != "DO_NOT_TRUST" and level not in _TRUSTING:
            continue
        root = os.path.realpath(os.path.dirname(path) if level == "TRUST_PARENT" else path)
        is_within = f"{here}/".startswith(f"{root.rstrip('/')}/")
        if is_within and len(path) > longest:
            found, longest = str(level), len(path)
    return found in _TRUSTING or (not found and enabled is not True)


def denied_by_opencode(name: str, files: Iterable[tuple[str, Any]]) -> str:
    """Return the file whose rule denies all tools of a server, "" where some are offered.

    `files` are paths with their values, as opencode merges them.  A tool is called
    SERVER_TOOL there.  The last rule that fits counts: those of `tools`, the older form, come
    before those of `permission`.
    """
    tools: dict[str, tuple[bool, str]] = {}
    permissions: dict[str, tuple[bool, str]] = {}
    for path, values in files:
        told = value_at(values, ("tools",))
        for pattern, offered in told.items() if isinstance(told, dict) else ():
            if isinstance(offered, bool):
                tools[pattern] = (not offered, path)
        told = value_at(values, ("permission",))
        told = {"*": told} if isinstance(told, str) else told
        for pattern, action in told.items() if isinstance(told, dict) else ():
            whole = action.get("*") if isinstance(action, dict) else action
            if isinstance(whole, str):
                permissions[pattern] = (whole == "deny", path)
    last, prefix = "", re.sub(r"[^a-zA-Z0-9_-]", "_", name) + "_"
    for pattern, (is_denied, path) in (*tools.items(), *permissions.items()):
        if _fits(pattern, prefix + "\0"):  # and so each tool that the server could have
            last = path if is_denied else ""
        elif not is_denied and pattern.startswith(prefix):
            last = ""  # an exception: what it fits is offered
    return last


def _fits(pattern: str, tool: str) -> bool:
    parts = (".*" if sign == "*" else "." if sign == "?" else re.escape(sign) for sign in pattern)
    return re.fullmatch("".join(parts), tool, re.DOTALL) is not None
