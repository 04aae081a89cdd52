"""What a broker inherits of the session that happens to start it, and what palace.toml fixes."""

import importlib.util
import itertools
import re
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.config import adopt, load_config, load_settings
from palace.settings.embedder import configured_embedder
from palace.settings.environment import ShimEnvironment
from palace.settings.inherited import (
    FIXED,
    INHERITED,
    broker_environment,
    inherited,
    matches,
)
from palace.settings.paths import Paths
from palace.settings.process import QUIET
from palace.settings.user_settings import read_user_settings

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
EMBEDDER = {"MEMPALACE_EMBEDDING_MODEL": "openai-compat", "MEMPALACE_EMBEDDING_API_MODEL": "stub"}
OF_A_SESSION = (
    *("LD_PRELOAD", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONUSERBASE", "VIRTUAL_ENV", "TMPDIR"),
    *("MEMPALACE_BROKER", "MEMPALACE_MCP_READ_ONLY", "MEMPALACE_MCP_ALLOW_PEER_WRITER"),
    *(
        "PALACE_NO_SPAWN",
        "PALACE_TOKEN_FILE",
        "PALACE_WORKSPACE_TOKEN_FILE",
        "PALACE_BRIDGE_COMMAND",
        "PALACE_BRIDGE_CONFIG",
    ),
    *("CHROMA_SERVER_HOST", "ANONYMIZED_TELEMETRY", "OMP_NUM_THREADS", "GIT_DIR", "SSH_AUTH_SOCK"),
    *(
        "MEMPALACE_DOES_NOT_EXIST_YET",
        "OPENAI_API_KEY",
        "CLAUDECODE",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
)
KERNEL = Kernel()


def at_home(root: Path) -> dict[str, str]:
    return {"HOME": "/home/me", "XDG_STATE_HOME": f"{root.parent}/{root.name}-state"}


def settle(root: Path, **environ: str) -> dict[str, str]:
    """Adopt a palace in an environment; return that of its broker."""
    paths, given = Paths(str(root)), at_home(root) | environ
    loaded = load_settings(paths, given, KERNEL)
    adopt(paths, loaded, given, KERNEL)
    return broker_environment(given, loaded.config.environment)


def test_only_what_is_listed_is_inherited() -> None:
    session = dict.fromkeys(OF_A_SESSION, "1")
    kept = {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_TIME": "C",
        "PIP_INDEX_URL": "i",
        "PALACE_IDLE_S": "1",
    }

    assert inherited(session | kept) == kept
    assert ShimEnvironment(session | kept).for_broker() == kept
    assert broker_environment(session | kept, {}) == kept | QUIET


def test_a_started_broker_is_told_what_it_may_have_to_fix() -> None:
    assert ShimEnvironment(EMBEDDER).for_broker() == EMBEDDER
    assert inherited(EMBEDDER) == {}


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("excepted", ["", "no_proxy", "NO_PROXY"])
def test_a_proxy_never_stands_before_loopback(name: str, excepted: str) -> None:
    given = {name: "http://proxy:1"} | ({excepted: "corp, ::1"} if excepted else {})

    found = inherited(given)

    wanted = "corp,::1,127.0.0.1,localhost" if excepted else "127.0.0.1,localhost,::1"
    assert found == {name: "http://proxy:1", "no_proxy": wanted, "NO_PROXY": wanted}


def test_without_a_proxy_nothing_is_excepted() -> None:
    assert inherited({"PATH": "/bin"}) == {"PATH": "/bin"}


def test_a_sessions_place_for_temporary_files_is_taken_over_where_there_is_no_other(
    tmp_path: Path,
) -> None:
    """Else it may be gone with that session, while the broker lives."""
    given = {"TMPDIR": "/a/sessions"}
    assert inherited(given, str(tmp_path)) == {}
    assert inherited(given, str(tmp_path / "absent")) == given


# palace.toml.


def test_the_first_owner_fixes_its_embedder_for_all(tmp_path: Path) -> None:
    first = settle(tmp_path, **EMBEDDER)
    bare = settle(tmp_path)
    other = settle(tmp_path, MEMPALACE_EMBEDDING_MODEL="minilm", HF_HOME="/elsewhere")

    assert first.items() >= EMBEDDER.items()
    assert bare == other == first


def test_that_nothing_was_set_is_fixed_as_well(tmp_path: Path) -> None:
    first = settle(tmp_path)

    assert settle(tmp_path, **EMBEDDER) == first
    assert "environment = {}" in (tmp_path / "palace.toml").read_text()


def test_a_file_that_its_user_wrote_is_completed_and_stays_valid(tmp_path: Path) -> None:
    text = '# mine\nidle_s = 5\n[path_map]\n"/a" = "/b"\n'
    (tmp_path / "palace.toml").write_text(text)

    first = settle(tmp_path, **EMBEDDER)

    assert (tmp_path / "palace.toml").read_text().endswith(text)
    assert first.items() >= EMBEDDER.items()
    assert settle(tmp_path) == first
    assert load_settings(Paths(str(tmp_path)), at_home(tmp_path), KERNEL).ignored == {
        "path_map": {"/a": "/b"}
    }


def test_lines_appended_to_the_file_are_still_settings(tmp_path: Path) -> None:
    settle(tmp_path, **EMBEDDER)
    with (tmp_path / "palace.toml").open("a") as file:
        file.write("idle_s = 7\n")

    assert load_config(Paths(str(tmp_path)), at_home(tmp_path), KERNEL).idle_s == 7


def test_a_session_without_an_embedder_does_not_shut_out_the_one_that_has_it(
    tmp_path: Path,
) -> None:
    identity = '{"mempalace_drawers": {"model_name": "openai-compat", "dimension": 384}}'
    (tmp_path / "mempalace_embedder.json").write_text(identity)

    settle(tmp_path)
    settle(tmp_path, HF_HOME="/h")
    assert "environment" not in (tmp_path / "palace.toml").read_text()

    assert settle(tmp_path, **EMBEDDER).items() >= EMBEDDER.items()
    assert settle(tmp_path).items() >= EMBEDDER.items()


@pytest.mark.parametrize(("recorded", "fixed"), [("minilm", False), ("openai-compat:stub", True)])
def test_an_embedder_that_did_not_make_the_vectors_is_not_fixed(
    tmp_path: Path, recorded: str, fixed: bool
) -> None:
    identity = f'{{"mempalace_drawers": {{"model_name": "{recorded}", "dimension": 384}}}}'
    (tmp_path / "mempalace_embedder.json").write_text(identity)

    found = settle(tmp_path, MEMPALACE_LANG="de", **EMBEDDER)

    assert (found.items() >= EMBEDDER.items()) is fixed
    assert found["MEMPALACE_LANG"] == "de"


def test_a_user_may_set_any_variable_for_all_but_not_what_is_settled_before(tmp_path: Path) -> None:
    path = Path(read_user_settings(Paths(str(tmp_path)), at_home(tmp_path), KERNEL).path)
    path.parent.mkdir(parents=True)
    head = f'palace = "{tmp_path}"\n'
    path.write_text(f'{head}environment = {{ TMPDIR = "/var/tmp", ORT_DISABLE_TELEMETRY = "0" }}\n')
    found = settle(tmp_path)
    assert (found["TMPDIR"], found["ORT_DISABLE_TELEMETRY"]) == ("/var/tmp", "0")

    for text in ('{ HOME = "/x" }', '{ XDG_STATE_HOME = "/x" }', '{ MEMPALACE_PATH = "/x" }'):
        path.write_text(f"{head}environment = {text}\n")
        with pytest.raises(ConfigError, match="variables other than"):
            settle(tmp_path)
    for text in ("{ A = 1 }", "7", '{ A = "\\u0000" }'):
        path.write_text(f"{head}environment = {text}\n")
        with pytest.raises(ConfigError, match="a table of texts"):
            settle(tmp_path)


# The embedder.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{}", "minilm"),
        ('{"embedding_model": null}', "minilm"),
        ('{"embedding_model": "all-minilm-l6-v2"}', "minilm"),
        ('{"embedding_model": " OpenAI-Compat"}', "openai-compat"),
        ('\ufeff{"embedding_model": "embeddinggemma"}', "embeddinggemma"),
        ('{"embedding_model": "embeddinggemma2"}', "embeddinggemma2"),
    ],
)
def test_the_embedder_is_read_as_stock_reads_it(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")

    assert configured_embedder(str(tmp_path), {}) == name
    named = {"MEMPALACE_EMBEDDING_MODEL": " OpenAI-compat "}
    assert configured_embedder(str(tmp_path), named) == "openai-compat"


@pytest.mark.parametrize("text", ["", "{broken", "[]"])
def test_a_configuration_that_names_who_knows_what_is_no_minilm(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(ConfigError, match="can't be understood"):
        configured_embedder(str(tmp_path), {})


# The document.


def test_the_manual_lists_what_is_inherited_and_what_is_fixed_and_why() -> None:
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", OPERATING.read_text(), re.MULTILINE)
    found = {why: tuple(re.findall(r"`([^`]+)`", names)) for names, why in rows}
    wanted = {**INHERITED, **FIXED}

    assert {why: found.get(why) for why in wanted} == wanted


# What stock reads and a broker does without, and why none of it changes what a broker answers.
OF_ITS_OWN_PROCESSES = {
    "its own server's": (
        *("MEMPALACE_MCP_ALLOW_PEER_WRITER", "MEMPALACE_MCP_ALLOW_STALE_LIBRARY"),
        *("MEMPALACE_MCP_HTTP_ALLOW_INSECURE_NO_TOKEN", "MEMPALACE_MCP_IDLE_HOURS"),
        "MEMPALACE_MCP_READ_ONLY",
        *("MEMPALACE_MCP_TLS_CERT", "MEMPALACE_MCP_TLS_KEY", "MEMPALACE_MCP_WRITER_WAIT_SECONDS"),
        *("MEMPALACE_MCP_WRITE_STALL_EXIT_SECS", "MEMPALACE_MCP_WRITE_STALL_WARN_SECS"),
        *("MEMPALACE_EAGER_WARMUP", "MEMPALACE_HUB_FORWARD", "MEMPALACE_LOG_FILE"),
    ),
    "its command line's": ("MEMPALACE_BACKEND_EXPLICIT", "MEMPALACE_SOURCE_DIR", "MEMPAL_DIR"),
    "its hooks'": (
        *("MEMPALACE_CLI_WRITE_ROUTING", "MEMPALACE_HOOK_WRITE_ROUTING", "MEMPALACE_WRITE_ROUTING"),
        *("MEMPALACE_HOOKS_AUTO_SAVE", "MEMPALACE_HOOKS_DAEMON", "MEMPALACE_MINE_PID_FILE"),
        *("MEMPALACE_MINE_TIMEOUT_HOURS", "MEMPALACE_PYTHON"),
    ),
    "its daemon's": (
        *("MEMPALACE_DAEMON_LOCK_BACKOFF_SECONDS", "MEMPALACE_DAEMON_RETENTION_DAYS"),
        "MEMPALACE_DAEMON_STATE_ROOT",
    ),
    "its plugin's for Hermes": ("MEMPALACE_IDENTITY_PATH", "MEMPALACE_WING"),
    "its tests', and the beginning of others": (
        *("MEMPALACE_PGVECTOR_LIVE_URL", "MEMPALACE_EMBEDDING_API_"),
    ),
}


@pytest.mark.engine
def test_every_variable_that_stock_reads_is_inherited_or_fixed_or_known_not_to_matter() -> None:
    spec = importlib.util.find_spec("mempalace")
    assert spec is not None
    assert spec.origin is not None
    source = "\n".join(path.read_text() for path in Path(spec.origin).parent.rglob("*.py"))
    read = set(re.findall(r"\bMEMPAL(?:ACE)?_[A-Z0-9_]+\b", source))
    without = set(itertools.chain(*OF_ITS_OWN_PROCESSES.values()))
    ours = tuple(itertools.chain(*INHERITED.values(), *FIXED.values()))

    assert without <= read, "no longer read"
    assert sorted(name for name in read - without if not matches(name, ours)) == []
    assert not {name for name in without if matches(name, ours)}


def test_no_variable_is_in_both_lists() -> None:
    names = list(itertools.chain(*INHERITED.values(), *FIXED.values()))
    assert len(names) == len(set(names))
