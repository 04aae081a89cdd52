"""Settings, variables, permissions and leftovers around a palace."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from palace.canary.recording import record_death
from palace.canary.records import Owner, open_directory
from palace.commands.config import change_settings, trust_settings
from palace.commands.deaths import clear_deaths
from palace.doctor.finding import ERROR, WARNING
from palace.engine.embedding.model import MODEL_FILES, model_dir
from palace.protocol.deaths import OOM
from palace.settings.environment import ShimEnvironment
from palace.settings.stock_config import server_directory
from tests.doctor.situations.place import KERNEL, Place, Situation
from tests.support.brokers.embedder import serve_embedder
from tests.support.machines.needs import need_root

LIVED = Owner(7, "d" * 32)
DEAD_PID = 1 << 22  # above any that the kernel gives out


def other_user_may_write(place: Place) -> None:
    place.palace.chmod(0o777)


def proxied(place: Place) -> None:
    place.environ["http_proxy"] = "http://proxy.example:3128"
    place.environ["no_proxy"] = "intranet.example"


def excepted(place: Place) -> None:
    place.environ["no_proxy"] = "intranet.example,127.0.0.1,localhost,::1"


def routed_by_setting(place: Place) -> None:
    place.configure(write_routing={"hooks": "require"})


def hooks_daemon(place: Place) -> None:
    place.configure(hooks={"daemon": True})


def unconfigured(place: Place) -> None:
    place.configure()


def routed_by_variable(place: Place) -> None:
    place.environ["MEMPALACE_WRITE_ROUTING"] = "prefer"


def not_routed(place: Place) -> None:
    place.environ["MEMPALACE_WRITE_ROUTING"] = "direct"


def qdrant_backend(place: Place) -> None:
    place.configure(backend="qdrant")


def palace_is_a_file(place: Place) -> None:
    place.palace.rmdir()
    place.palace.write_text("")


def palace_is_a_directory(place: Place) -> None:
    place.palace.unlink()
    place.palace.mkdir(mode=0o700)


def exact_backend_over_chroma(place: Place) -> None:
    place.configure(backend="sqlite_exact")
    (place.palace / "chroma.sqlite3").write_bytes(b"SQLite format 3\0")


def chroma_named(place: Place) -> None:
    place.configure(backend="chroma")


def broken_config(place: Place) -> None:
    place.configure()
    place.config.write_text('{"backend": ')


def unmeant_path(place: Place) -> None:
    (place.palace / "palace.toml").write_text('graph = "${HOME}/graph.sqlite3"\n')


def died(place: Place) -> None:
    directory = open_directory(str(place.palace), KERNEL, make=True)
    record_death(directory, LIVED, {"server_pid": "7", "cause": OOM}, KERNEL)
    directory.close()


def cleared(place: Place) -> None:
    assert clear_deaths(place.paths) == 1


def deaths_of_everybody(place: Place) -> None:
    (place.palace / "deaths").mkdir()
    (place.palace / "deaths").chmod(0o777)


def no_deaths(place: Place) -> None:
    (place.palace / "deaths").rmdir()


def lent_settings(place: Place) -> None:
    (place.palace / "palace.toml").write_text('listen = "127.0.0.1:7999"\n')


def settings_trusted(place: Place) -> None:
    trust_settings(place.paths, ShimEnvironment(place.environ), yes=True)


def cut_over_to_nobody(place: Place) -> None:
    change_settings(place.paths, ShimEnvironment(place.environ), {"memory_cutover": True}, KERNEL)


def not_cut_over(place: Place) -> None:
    change_settings(place.paths, ShimEnvironment(place.environ), {"memory_cutover": False}, KERNEL)


def no_settings(place: Place) -> None:
    (place.palace / "palace.toml").unlink()


def another_by_default(place: Place) -> None:
    place.found_by = "MEMPALACE_PATH"
    other = place.home / ".mempalace" / "palace"
    other.mkdir(parents=True)
    (other / "chroma.sqlite3").write_bytes(b"SQLite format 3\0")


def one_for_both(place: Place) -> None:
    place.environ["MEMPALACE_PALACE_PATH"] = str(place.palace)


def dead_server(place: Place) -> None:
    directory = Path(server_directory(str(place.home), str(place.palace)))
    directory.mkdir(parents=True)
    told = {"pid": DEAD_PID, "port": 9, "server": "palace"}
    (directory / "serverinfo.json").write_text(json.dumps(told))


def failed_start(place: Place) -> None:
    begun = 'time=2026-01-01T00:00:00Z level=info logger=palace.serve pid=1 text="palace: epoch 1"'
    text = "palace serve: Stock holds it. End it."
    failed = f'time=2026-01-02T00:00:00Z level=error logger=palace.serve pid=2 text="{text}"'
    (place.palace / "broker.log").write_text(f"{begun}\n{failed}\n")


def failed_engine(place: Place) -> None:
    begun = 'time=2026-01-01T00:00:00Z level=info logger=palace.serve pid=1 text="palace: epoch 1"'
    error = '"StoreUnavailable: mempalace is not whole"'
    failed = f'level=error logger=palace.broker text="the engine could not be loaded" error={error}'
    (place.palace / "broker.log").write_text(f"{begun}\ntime=2026-01-02T00:00:00Z {failed}\n")


def started_since(place: Place) -> None:
    with (place.palace / "broker.log").open("a") as log:
        log.write('time=2026-01-03T00:00:00Z level=info text="palace: epoch 2 of /p"\n')


def blocked_home(place: Place) -> None:
    (place.home / ".mempalace").touch()


def moved_away(place: Place) -> None:
    (place.home / ".mempalace").rename(place.home / ".mempalace.old")


def _states(place: Place) -> Path:
    return place.home / "states"


def blocked_state(place: Place) -> None:
    place.environ["XDG_STATE_HOME"] = str(_states(place))
    _states(place).touch()


def state_of_everybody(place: Place) -> None:
    place.environ["XDG_STATE_HOME"] = str(_states(place))
    (_states(place) / "palace").mkdir(parents=True)
    (_states(place) / "palace").chmod(0o777)


def state_moved_away(place: Place) -> None:
    _states(place).rename(_states(place).with_name("states.old"))


def state_closed_to_others(place: Place) -> None:
    (_states(place) / "palace").chmod(0o700)


def graph_in_closed_directory(place: Place) -> None:
    need_root()
    graphs = place.home / "graphs"
    graphs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(graphs)]
    subprocess.run(mount, check=True)
    place.after.callback(subprocess.run, ["umount", "-l", str(graphs)], check=True)
    _set_graph(place, f"{graphs}/graph.sqlite3")


def graph_of_its_own(place: Place) -> None:
    _set_graph(place, "knowledge_graph.sqlite3")


def _set_graph(place: Place, graph: str) -> None:
    environment = ShimEnvironment(place.environ)
    change_settings(place.paths, environment, {"graph": graph}, KERNEL)


def _closed_store(place: Place) -> None:
    """Let the store be a file that nobody can write, root neither, who looks at it here."""
    need_root()
    store = str(place.palace / "chroma.sqlite3")
    Path(store).touch()
    for options in (["--bind", store, store], ["-o", "remount,bind,ro", store]):
        subprocess.run(["mount", *options], check=True)
    place.after.callback(subprocess.run, ["umount", "-l", store], check=False)


def _writable_again(place: Place) -> None:
    subprocess.run(["umount", "-l", str(place.palace / "chroma.sqlite3")], check=True)
    (place.palace / "chroma.sqlite3").unlink()


def _cut_model(place: Place) -> None:
    where = model_dir(place.home)
    where.mkdir(parents=True)
    for name in MODEL_FILES:
        (where / name).write_text("{}")
    (where / "tokenizer.json").write_text('{"version": "1.0", "tru')


def _whole_model(place: Place) -> None:
    (model_dir(place.home) / "tokenizer.json").write_text("{}")


def _embedder_gone(place: Place) -> None:
    with serve_embedder() as embedder:
        url = embedder.url
        place.configure(embedding_model="openai-compat", embedding_api_url=url)


def _embedder_there(place: Place) -> None:
    url = place.after.enter_context(serve_embedder()).url
    place.configure(embedding_model="openai-compat", embedding_api_url=url)


def _recorded(name: str) -> Callable[[Place], None]:
    """Record an embedder as `mempalace palace set-embedder --force` does."""

    def arrange(place: Place) -> None:
        identity = {"model_name": name, "dimension": 0}
        recorded = {"mempalace_closets": identity | {"model_name": "minilm"}}
        text = json.dumps(recorded | {"mempalace_drawers": identity})
        (place.palace / "mempalace_embedder.json").write_text(text)

    return arrange


SITUATIONS = {
    "another embedder is recorded than is used": Situation(
        arrange=_recorded("embeddinggemma"),
        code="embedder_mismatch",
        level=ERROR,
        text="are of the embedder embeddinggemma, and brokers use minilm: nothing can be searched",
        remedy="palace set-embedder --model minilm --force",
        heal=_recorded("minilm"),
    ),
    "the server that embeds is not there": Situation(
        arrange=_embedder_gone,
        code="embedder_silent",
        level=ERROR,
        text="can't be reached: Connection refused. Until it can, nothing can be filed",
        remedy="Start that server, or correct its address (embedding_api_url in ",
        heal=_embedder_there,
    ),
    "memories shall be at a server that nobody has named": Situation(
        arrange=cut_over_to_nobody,
        code="half_configured",
        level=WARNING,
        text="memory_plugin names no server: all memories are kept in this palace",
        remedy="palace config set memory_cutover=false",
        heal=not_cut_over,
    ),
    "the store can't be written": Situation(
        arrange=_closed_store,
        code="closed_file",
        level=ERROR,
        text="chroma.sqlite3 can't be written by this user",
        remedy="mount it read-write: mount -o remount,rw",
        heal=_writable_again,
    ),
    "the embedding model was cut": Situation(
        arrange=_cut_model,
        code="model_damaged",
        level=ERROR,
        text="tokenizer.json ends before its contents do",
        remedy="palace model",
        heal=_whole_model,
    ),
    "the graph's directory can't be written": Situation(
        arrange=graph_in_closed_directory,
        code="closed_directory",
        level=ERROR,
        text="graphs is not writable here",
        remedy="palace config set graph=knowledge_graph.sqlite3",
        heal=graph_of_its_own,
    ),
    "nothing can be remembered in the state directory": Situation(
        arrange=blocked_state,
        code="closed_state",
        level=WARNING,
        text="can't keep there what it served where",
        remedy="mv ",
        heal=state_moved_away,
    ),
    "others may write to the state directory": Situation(
        arrange=state_of_everybody,
        code="closed_state",
        level=WARNING,
        text="mode 0777",
        remedy="chmod 700",
        heal=state_closed_to_others,
    ),
    "no locks can be had in the home": Situation(
        arrange=blocked_home,
        code="closed_home",
        level=ERROR,
        text=".mempalace/locks can't hold the locks",
        remedy="mv ",
        heal=moved_away,
    ),
    "others may write": Situation(
        arrange=other_user_may_write,
        code="unsafe_palace",
        level=ERROR,
        text="mode 0777",
        remedy="chmod go-w",
        heal=None,
    ),
    "a file is named as the palace": Situation(
        arrange=palace_is_a_file,
        code="unsafe_palace",
        level=ERROR,
        text="it is not a directory",
        remedy="Name the palace's directory: --palace DIR",
        heal=palace_is_a_directory,
    ),
    "a proxy hides loopback": Situation(
        arrange=proxied,
        code="proxy",
        level=WARNING,
        text="http_proxy=http://proxy.example:3128 is set, and no_proxy excepts 127.0.0.1 not",
        remedy="export no_proxy=127.0.0.1,localhost",
        heal=excepted,
    ),
    "hooks write through the daemon, by a setting": Situation(
        arrange=routed_by_setting,
        code="write_routing",
        level=WARNING,
        text="write_routing.hooks in",
        remedy="Let them write directly",
        heal=unconfigured,
    ),
    "hooks write through the daemon, by the old switch": Situation(
        arrange=hooks_daemon,
        code="write_routing",
        level=WARNING,
        text="hooks.daemon in",
        remedy="daemon stop",
        heal=unconfigured,
    ),
    "hooks write through the daemon, by a variable": Situation(
        arrange=routed_by_variable,
        code="write_routing",
        level=WARNING,
        text="MEMPALACE_WRITE_ROUTING is 'prefer'",
        remedy="set it to direct",
        heal=not_routed,
    ),
    "another backend": Situation(
        arrange=qdrant_backend,
        code="no_journal",
        level=WARNING,
        text="in the backend qdrant",
        remedy="palace stop --hold",
        heal=unconfigured,
    ),
    "another backend than what is there": Situation(
        arrange=exact_backend_over_chroma,
        code="backend_mismatch",
        level=ERROR,
        text="says that the backend is sqlite_exact",
        remedy='"backend": "chroma"',
        heal=chroma_named,
    ),
    "stock's settings are broken": Situation(
        arrange=broken_config,
        code="settings",
        level=ERROR,
        text=".mempalace/config.json can't be understood: it is not JSON",
        remedy="if nothing in it is needed",
        heal=unconfigured,
    ),
    "a path that nobody meant": Situation(
        arrange=unmeant_path,
        code="settings",
        level=ERROR,
        text="${HOME} was not expanded",
        remedy="Write the path out in full",
        heal=no_settings,
    ),
    "palace.toml says what is for its user to decide": Situation(
        arrange=lent_settings,
        code="ignored_settings",
        level=WARNING,
        text="listen in",
        remedy="palace config trust",
        heal=settings_trusted,
    ),
    "stock would use another palace": Situation(
        arrange=another_by_default,
        code="other_palace",
        level=WARNING,
        text="MEMPALACE_PATH names",
        remedy="MEMPALACE_PALACE_PATH=",
        heal=one_for_both,
    ),
    "a killed broker is still published": Situation(
        arrange=dead_server,
        code="dead_server",
        level=WARNING,
        text=f"pid {DEAD_PID}",
        remedy="rm ",
        heal=None,
    ),
    "a broker has died": Situation(
        arrange=died,
        code="deaths",
        level=WARNING,
        text="(epoch 7): it was killed for want of memory (oom)",
        remedy="palace deaths --clear",
        heal=cleared,
    ),
    "others may write to the records of deaths": Situation(
        arrange=deaths_of_everybody,
        code="unwatched",
        level=WARNING,
        text="others may write to it (mode 0777)",
        remedy="deaths; the broker tries again by itself",
        heal=no_deaths,
    ),
    "the last broker's engine could not be loaded": Situation(
        arrange=failed_engine,
        code="last_start",
        level=WARNING,
        text="the engine could not be loaded: mempalace is not whole",
        remedy="palace logs",
        heal=started_since,
    ),
    "the last start failed": Situation(
        arrange=failed_start,
        code="last_start",
        level=WARNING,
        text="gave up at 2026-01-02T00:00:00Z: palace serve: Stock holds it. End it.",
        remedy="palace logs",
        heal=started_since,
    ),
}
