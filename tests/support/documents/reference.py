"""Writes docs/reference/ from the code; `just reference` runs it, tests/test_docs.py checks it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from palace.cli.app import app
from palace.engine.stores.journalled import CANDIDATES_JOURNALLED, JOURNALLED, OWN_JOURNALLED
from palace.protocol import errors
from palace.protocol.tools import BASIC_TOOLS, CANDIDATE_TOOLS, OWN_TOOLS, OWNER_TOOLS, TOOLS
from palace.settings.checks import PALACE, USER
from palace.settings.config import SETTINGS
from palace.shim.usage import USAGE
from tests.doctor.situations.table import ELSEWHERE, SITUATIONS, TRIED_BY
from tests.promises.table import page as promises
from tests.security.threats import page as tries

ROOT = Path(__file__).parent.parent.parent.parent
VARIABLES = (
    (
        "MEMPALACE_PATH",
        "The palace, or its parent directory. Takes precedence over stock's variables.",
    ),
    (
        "MEMPALACE_PALACE_PATH",
        "The palace, as for stock, like MEMPALACE_PALACE and the older MEMPAL_PALACE_PATH.",
    ),
    (
        "MEMPALACE_CONFIG_DIR",
        "mempalace's configuration directory, until it is fixed.",
    ),
    (
        "MEMPALACE_BROKER",
        "A broker, as `unix:PATH`, `wss://HOST:PORT` or `ssh://[USER@]HOST[:PORT][/PALACE]`. It is "
        "used as given: without fallback, and without starting another.",
    ),
    ("MEMPALACE_MCP_READ_ONLY", "This session may not change the palace."),
    ("PALACE_NO_SPAWN", "With 1, never start a broker; the error says so."),
    (
        "PALACE_NO_DOWNLOAD",
        "With 1, the embedding model is never fetched: neither by a broker that this process "
        "starts, nor by `palace model` without `--wheel`. Models of Hugging Face aren't, either.",
    ),
    (
        "PALACE_PROVISION_CONCURRENCY",
        "How many of a provider's commands `palace workspace on` and `off` run at once: 3 unless "
        "set, 0 for all. What is no such number is told, and taken for 3.",
    ),
    (
        "PALACE_BACKFILL_CONCURRENCY",
        "How many namespaces `palace memory backfill` copies or verifies at once: 4 unless set, 0 "
        "for all. What is no such number is told, and taken for 4.",
    ),
    ("PALACE_IDLE_S", "`idle_s` for a broker that this process starts."),
    ("PALACE_TRACE", "A file to which the process and its brokers append the protocol's steps."),
    (
        "PALACE_TOKEN_FILE",
        "A file with the token for a `wss:` broker whose record can't be read here.",
    ),
    (
        "PALACE_WORKSPACE_TOKEN_FILE",
        "A file with a workspace's token (`palace token new`): this session is that workspace, "
        "confined.",
    ),
    ("PALACE_BRIDGE_CONFIG", "`bridge_config` for this shim."),
    ("PALACE_BRIDGE_COMMAND", "`bridge_command` for this shim."),
    (
        "XDG_STATE_HOME",
        "Where your settings are, what `palace own --here` and `palace install` keep, and what was "
        "served where; ~/.local/state.",
    ),
    ("XDG_RUNTIME_DIR", "Where the socket is created if the palace's path is too long for one."),
)


FOUND = dict.fromkeys(("graph", "config_dir"), "found as stock does")


WHERE = {USER: "yours", PALACE: "yours, palace.toml"}


def settings() -> str:
    rows = ["| key | default | range | where it counts | meaning |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        low, high = setting.low, setting.high
        span = f"{low:g} to {high:g}" if low is not None and high is not None else ""
        default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        shown = f"`{default}`" if default != "" else FOUND.get(setting.key, "")
        rows.append(
            f"| `{setting.key}` | {shown} | {span} | {WHERE[setting.counts]} | {setting.text} |"
        )
    variables = ["| variable | meaning |", "|---|---|"]
    variables += [f"| `{name}` | {text} |" for name, text in VARIABLES]
    return (
        "# Settings\n\nGenerated from palace/settings/config.py by `just reference`.\n\n"
        "## Yours, and the palace's\n\n"
        "`palace config` shows what counts; `palace config set KEY=VALUE` and `unset KEY` change\n"
        "your settings of a palace on this machine, in `$XDG_STATE_HOME/palace/settings`, for\n"
        "the palace with that identity at that path. palace.toml lies in the palace, which may be\n"
        "lent to containers, so only what tunes counts there, and what you set counts before it.\n"
        "What is ignored there is named by the doctor, the status, the log and the errors;\n"
        "`palace config trust` shows it and makes it yours. Where the data are (`graph`,\n"
        "`config_dir`, `environment`) is fixed in both at the first start; palace.toml's copy is\n"
        "compared, and taken where stock's own rules could say the same.\n"
        "A broker reads both when it starts\n"
        "([decision 29](../decisions/0029-settings-are-the-users.md)).\n\n"
        + "\n".join(rows)
        + "\n\n"
        "## Environment\n\nVariables of a shim or a command.\n\n" + "\n".join(variables) + "\n\n"
        "## Where the palace is\n\n"
        "`--palace`, `$MEMPALACE_PATH`, `$MEMPALACE_PALACE_PATH`, `$MEMPALACE_PALACE`,\n"
        "`$MEMPAL_PALACE_PATH`, `palace_path` in mempalace's config.json, `palace` in its\n"
        "configuration directory: the first that is set. The configuration directory is\n"
        "`$MEMPALACE_CONFIG_DIR`, `~/.mempalace` if that is in use,\n"
        "`$XDG_CONFIG_HOME/mempalace`, `~/.config/mempalace`.\n"
    )


def all_errors() -> list[type[errors.PalaceError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in found if issubclass(kind, errors.PalaceError)]
    return sorted(kinds, key=lambda kind: -kind.wire_code)


ENDED_WITH = "0.1.0"  # the last version with the old codes


def exit_codes() -> str:
    rows = ["| code | meaning |", "|---|---|", "| 0 | done |", "| 2 | wrong usage |"]
    codes: dict[int, list[str]] = {}
    for kind in all_errors():
        if issubclass(kind, errors.RequestError | errors.OutcomeUnknown):
            continue  # these answer requests, and end no process
        codes.setdefault(kind.exit_code, []).append(f"`{kind.name}`")
    rows += [f"| {code} | {', '.join(names)} |" for code, names in sorted(codes.items())]
    wire = ["| code | name | retry | meaning |", "|---|---|---|---|"]
    last = min(kind.wire_code for kind in all_errors())
    old = ", ".join(f"{code - 1000} for {code}" for code in (errors.RequestError.wire_code, last))
    for kind in all_errors():
        text = (kind.__doc__ or "").split("\n")[0]
        wire.append(f"| {kind.wire_code} | `{kind.name}` | {kind.retry} | {text} |")
    return (
        "# Exit codes and error codes\n\n"
        "Generated from palace/protocol/errors.py by `just reference`.\n\n"
        "## Exit codes\n\n" + "\n".join(rows) + "\n\n"
        "`palace shim` exits with 0 when its client closes stdin, whatever happened before.\n"
        "A broker that its watchdog ends exits with 70 or 1.\n\n"
        "## Errors in replies\n\n"
        "JSON-RPC error codes of palace itself; `data.palace` holds the name, `data.retry`\n"
        "whether to retry, and is what programs should read. Stock's own codes (-32700 to\n"
        "-32600, -32000 to -32005) pass unchanged, but for requests of MCP 2026-07-28: those get\n"
        "-31000 to -31005, since nothing may be assumed of the others there.\n\n"
        + "\n".join(wire)
        + "\n\nMCP 2026-07-28 reserves -32020 to -32099, where the codes of palace were in\n"
        f"version {ENDED_WITH}: each was 1,000 lower ({old}).\n"
    )


def tools() -> str:
    rows = ["| tool | kind | lane |", "|---|---|---|"]
    rows += [f"| `{n}` | {tool.kind.value} | {tool.lane.value} |" for n, tool in TOOLS.items()]
    own, candidates, owners = (
        [*rows[:2], *(f"| `{n}` | {t.kind.value} | {t.lane.value} |" for n, t in table.items())]
        for table in (OWN_TOOLS, CANDIDATE_TOOLS, OWNER_TOOLS)
    )
    return (
        "# Tools\n\nGenerated from palace/protocol/tools.py by `just reference`.\n\n"
        "A *query* runs again after a broker's death. A *mutation* gets its recorded reply, or\n"
        "runs again; without a journal, or with one on trial, its outcome may be unknown. An\n"
        "*external* effect is never sent twice: if it may have run, the client is told that its\n"
        "outcome is unknown. A tool that is not listed counts as a mutation. Large calls of five\n"
        "tools go to the lanes `long` and `large` (`classify_call`).\n\n" + "\n".join(rows) + "\n\n"
        "## Tools of a palace with workspaces\n\n"
        "Listed behind stock's, once there is a workspace.\n\n" + "\n".join(own) + "\n\n"
        "A confined session has these, and of stock's the basic ones, which reach nothing but the\n"
        "memories of its namespaces then: "
        + ", ".join(f"`{name}`" for name in TOOLS if name in BASIC_TOOLS)
        + ".\n\n"
        "## Tools of a palace that pulls from others\n\n"
        "Listed behind those, once there is a remote; no confined session has them.\n\n"
        + "\n".join(candidates)
        + "\n\n"
        "## The owner's tools\n\n"
        "palace's commands (`palace workspace`) call these, and no MCP client may: they are on no\n"
        "list, and change palace's own register.\n\n" + "\n".join(owners) + "\n"
    )


def journal() -> str:
    rows = ["| tool | kinds of entities |", "|---|---|"]
    tools = {**JOURNALLED, **OWN_JOURNALLED, **CANDIDATES_JOURNALLED}
    rows += [f"| `{n}` | {', '.join(f'`{k}`' for k in kinds)} |" for n, kinds in tools.items()]
    return (
        "# What is journalled\n\n"
        "Generated from palace/engine/stores/journalled.py by `just reference`.\n\n"
        "Each changed entity is journalled in full, before it is changed; `palace history` shows\n"
        "them with their kinds. A tool of an agent's that is not listed changes nothing in the\n"
        "palace; its owner's tools, which agents don't have, change `palace:...`.\n\n"
        "| kind | an entity is |\n|---|---|\n"
        "| `chroma:NAME` | a record of that collection (text, metadata, vector), whichever backend "
        "keeps it |\n"
        "| `chroma-collection` | a collection's settings |\n"
        "| `graph:...`, `log:...` | a row of the knowledge graph, or of events and artifacts |\n"
        "| `tunnel`, `hallway` | an entry of the file of that name |\n"
        "| `file` | a small file of mempalace, when the palace is opened or closed |\n"
        "| `palace:...` | a row of palace's own register; `palace:audit` is of what was decreed "
        "|\n\n" + "\n".join(rows) + "\n"
    )


def named_commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield commands, and those of groups behind them, with their names."""
    for name, command in group.commands.items():
        yield f"{before}{name}", command
        if hasattr(command, "commands"):
            yield from named_commands(command, f"{before}{name} ")


def paragraph(text: str) -> str:
    """Return a paragraph of help as Markdown; one that keeps its lines is a block of code."""
    if text.startswith("\b\n"):
        lines = "\n".join(line.strip() for line in text.splitlines()[1:])
        return f"```sh\n{lines}\n```"
    return " ".join(text.split())


def commands() -> str:
    """Describe the commands as data, since how help is laid out differs between versions."""
    parts = ["# Commands\n\nGenerated from palace/cli by `just reference`.\n"]
    for name, command in named_commands(typer.main.get_command(app)):
        if command.hidden:
            continue
        text = "\n\n".join(map(paragraph, command.help.split("\n\n")))
        rows = [f"## palace {name}\n\n{text}"]
        rows += ["\n| option | meaning |\n|---|---|"] if command.params else []
        for option in command.params:
            value = f" {option.metavar}" if option.metavar else ""
            rows.append(f"| `{option.opts[0]}{value}` | {option.help} |")
        parts.append("\n".join(rows) + "\n")
    parts.append(f"## What `palace shim --help` says\n\n```text\n{USAGE}```\n")
    return "\n".join(parts)


def doctor() -> str:
    rows = [
        f"| `{one.code}` | {one.level} | {name} | {one.text} | {one.remedy} | `{TRIED_BY}` |"
        for name, one in SITUATIONS.items()
    ]
    rows += [
        f"| `{c}` | | {name} | | | `{test.partition('::')[0]}` |"
        for c, (name, test) in ELSEWHERE.items()
    ]
    return (
        "# What the doctor finds\n\n"
        "Generated from tests/doctor/situations/table.py by `just reference`.\n\n"
        "Each situation is brought about by the test that is named; it reads what `palace doctor`\n"
        "says, does what the remedy asks for, and looks again.\n\n"
        "| finding | level | situation | it says | and to do | tried by |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(sorted(rows)) + "\n"
    )


PAGES = {
    "settings.md": settings,
    "exit-codes.md": exit_codes,
    "tools.md": tools,
    "journal.md": journal,
    "commands.md": commands,
    "doctor.md": doctor,
    "promises.md": promises,
    "tries.md": tries,
}


def main() -> None:
    for name, page in PAGES.items():
        (ROOT / "docs" / "reference" / name).write_text(page())


if __name__ == "__main__":
    main()
