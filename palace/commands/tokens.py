"""`palace token`: what proves a process to be a workspace, wherever it runs."""

import os
from collections.abc import Mapping
from typing import Any

from palace.commands.agent import ask_broker
from palace.kernel.kernel import Kernel
from palace.protocol.errors import NotEmpty, PalaceError
from palace.protocol.workspaces import DIGITS_SHOWN, PLUGIN, WORKSPACE, digest_of
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

NONE_YET = "There is no token. Make one: palace token new workspace:ID --out FILE"


def new_token(
    paths: Paths, environment: ShimEnvironment, scope: str, *, label: str, out: str
) -> str:
    """Make a token in a new file that only this user can read; return what is told of it.

    The broker is told its digest: the token itself is nowhere but in that file.  Without a file it
    is what is returned, alone, for a program to read.
    Raises NotEmpty where there is such a file, and then no token was made.
    """
    kernel = Kernel()
    if not out:
        token = kernel.token(32)
        _register(paths, environment, scope, label=label, token=token)
        return token
    if kernel.file_id(out) is not None:
        raise NotEmpty(f"{out} exists. Name another file, or remove it: no token was made.")
    token = kernel.token(32)
    # Before it is registered: a token that counts, and that nobody has, would be left behind.
    kernel.write_durable(out, f"{token}\n".encode())
    try:
        told = _register(paths, environment, scope, label=label, token=token)
    except (PalaceError, OSError, KeyboardInterrupt):
        kernel.unlink(out)
        raise
    if scope == PLUGIN:
        return (
            f"{os.path.abspath(out)} holds a token of the memory contract's plugin role: "
            f"{told['digest'][:DIGITS_SHOWN]}. Whoever shows it over HTTP (Authorization: Bearer) "
            "makes namespaces there, and reaches those that were made in this way, and nothing "
            "else (docs/operating.md)."
        )
    return (
        f"{os.path.abspath(out)} holds a token of {told['workspace']}: "
        f"{told['digest'][:DIGITS_SHOWN]}. A shim shows it whose environment has "
        f"PALACE_WORKSPACE_TOKEN_FILE={os.path.abspath(out)}, and is confined to that workspace; "
        "over HTTP it is the bearer's."
    )


def _register(
    paths: Paths, environment: ShimEnvironment, scope: str, *, label: str, token: str
) -> dict[str, Any]:
    """Tell the broker of a token; return what it keeps of it."""
    given = {"sha256": digest_of(token), "label": label}
    if scope == PLUGIN:
        given["scope"] = PLUGIN
    else:
        given["workspace"] = scope.removeprefix(f"{WORKSPACE}:")
    told: dict[str, Any] = ask_broker(paths, environment, "palace_token_add", **given)["token"]
    return told


def tokens_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Return all tokens, one a line, by the beginnings of their digests."""
    told = ask_broker(paths, environment, "palace_token_list")["tokens"]
    return "\n".join(map(_line, told)) or NONE_YET


def revoke_token(paths: Paths, environment: ShimEnvironment, prefix: str) -> str:
    """Revoke a token; return what is told of it."""
    told = ask_broker(paths, environment, "palace_token_revoke", prefix=prefix)["token"]
    whose = told["workspace"] or PLUGIN
    return f"{told['digest'][:DIGITS_SHOWN]} of {whose} counts no more, from now on."


def _line(told: Mapping[str, Any]) -> str:
    state = "" if told["counts"] else "  (as of before a restoration)"
    if told["revoked_at"]:
        state = f"  (revoked {told['revoked_at']})"
    label = f"  {told['label']}" if told["label"] else ""
    digits = told["digest"][:DIGITS_SHOWN]
    return f"{digits}  {told['workspace'] or PLUGIN}  {told['created_at']}{label}{state}"
