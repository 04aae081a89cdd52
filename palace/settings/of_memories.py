"""The settings of memories of namespaces: how they are kept and shown, and by whom."""

import attrs

from palace.settings.checks import USER, about


@attrs.frozen(kw_only=True)
class MemorySettings:
    """A part of `Config`."""

    redact: str = attrs.field(
        default="memories",
        metadata=about(
            "Where secrets are taken out: in namespaces, in `all` that tools file, or nowhere.",
            counts=USER,
            choices=("memories", "all", "off"),
        ),
    )
    wrap: str = attrs.field(
        default="shared",
        metadata=about(
            "Which memories are shown behind a prefix: shared ones, or an organisation's (`org`).",
            counts=USER,
            choices=("shared", "org"),
        ),
    )
    own_tools: str = attrs.field(
        default="auto",
        metadata=about(
            "Whether sessions that aren't confined have palace's own tools: with workspaces alone; "
            "those for candidates with remotes.",
            counts=USER,
            choices=("auto", "on", "off"),
        ),
    )
    memory_contract: str = attrs.field(
        default="auto",
        metadata=about(
            "Whether the memory contract is served below /v1, and at http.sock: with workspaces or "
            "plugin tokens, and never without http.",
            counts=USER,
            choices=("auto", "on", "off"),
        ),
    )
    serve_http: str = attrs.field(
        default="",
        metadata=about(
            "HOST:PORT where the memory contract is served over TLS, to programs with a token of "
            "`palace token new`, and the mesh to peers; empty: nowhere.",
            counts=USER,
            form="address",
        ),
    )
    memory_plugin: str = attrs.field(
        default="",
        metadata=about(
            "Server of the memory contract that holds teams' and organisations' namespaces, once "
            "memory_cutover is on: unix:/PATH, https://HOST[:PORT] or http://HOST[:PORT].",
            counts=USER,
            form="text",
        ),
    )
    memory_plugin_token_file: str = attrs.field(
        default="",
        metadata=about(
            "File with the token that memory_plugin is shown, readable by its owner alone.",
            counts=USER,
            form="path",
        ),
    )
    memory_plugin_certificate: str = attrs.field(
        default="",
        metadata=about(
            "PEM file of whom to trust for memory_plugin's certificate; empty: the system's.",
            counts=USER,
            form="path",
        ),
    )
    memory_plugin_kinds: tuple[str, ...] = attrs.field(
        default=("team", "org"),
        metadata=about(
            "Which namespaces memory_plugin holds: team, org, workspace or custom.",
            counts=USER,
            form="namespace kind",
        ),
    )
    memory_cutover: bool = attrs.field(
        default=False,
        metadata=about(
            "Whether memory_plugin is asked and written; until then all memories are here.",
            counts=USER,
        ),
    )
