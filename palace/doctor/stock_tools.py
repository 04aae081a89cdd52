"""Do stock's own tools find the broker: as they are set, and by the way that they take."""

import http.client
import os
from collections.abc import Iterator, Mapping

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import OK, WARNING, Finding, Fix
from palace.ownership.holders import daemon_stop
from palace.protocol.decoding import decode_json
from palace.protocol.errors import ConfigError
from palace.settings.paths import holds_store, home_dir, stock_default
from palace.settings.stock_config import config_file, read_stock_config, server_directory

ADDRESS = "127.0.0.1"
DIAL_S = 2.0
LOOPBACK = "127.0.0.1,localhost,::1"
_ROUTING = ("MEMPALACE_HOOK_WRITE_ROUTING", "MEMPALACE_CLI_WRITE_ROUTING")
_ROUTING_ALL = "MEMPALACE_WRITE_ROUTING"
_OLD_SWITCH = "MEMPALACE_HOOKS_DAEMON"
_DIRECT = ("", "direct", "0", "false", "no", "off")


def check_stock_tools(found: Diagnostics) -> Iterator[Finding]:
    """Yield what keeps stock's tools from the broker, or sends them to another palace."""
    if found.foreign is not None or found.is_anothers or found.config is None:
        return
    yield from _proxies(found.environ)
    yield from _routing(found)
    yield from _other_palace(found)
    yield from _published(found)


def _proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at proxies as urllib does, which stock's tools dial the broker with."""
    proxies: dict[str, str] = {}
    for upper in (True, False):  # the lower case name counts where both are set
        for name, value in environ.items():
            if name.lower().endswith("_proxy") and (name != name.lower()) == upper:
                proxies[name[: -len("_proxy")].lower()] = value
    proxy = proxies.get("http", "")
    excepted = [name.strip().lstrip(".") for name in proxies.get("no", "").split(",")]
    if proxy and not {ADDRESS, "*"} & set(excepted):
        yield Finding(
            level=WARNING,
            code="proxy",
            text=f"http_proxy={proxy} is set, and no_proxy excepts {ADDRESS} not: stock's tools "
            "ask that proxy for the broker, don't find it, and are refused; a save hook then loses "
            "the conversation without a word.",
            remedy=f"export no_proxy={LOOPBACK} (added to what is in it) wherever http_proxy is "
            "set, the environment of the agents included",
        )


def _routing(found: Diagnostics) -> Iterator[Finding]:
    assert found.config is not None
    directory = found.config.config_dir
    settings = read_stock_config(directory)
    said = {name: found.environ.get(name, "") for name in (*_ROUTING, _ROUTING_ALL, _OLD_SWITCH)}
    routing, hooks = settings.get("write_routing") or {}, settings.get("hooks") or {}
    for of, keys in (("write_routing", ("hooks", "cli", "default")), ("hooks", ("daemon",))):
        for key in keys:
            table = routing if of == "write_routing" else hooks
            if isinstance(table, dict):
                said[f"{of}.{key} in {config_file(directory)}"] = str(table.get(key) or "")
    for where, value in said.items():
        if value.strip().lower() not in _DIRECT:
            yield Finding(
                level=WARNING,
                code="write_routing",
                text=f"{where} is {value!r}: stock's hooks or commands hand their writes to "
                "mempalace's daemon, which can't have the palace beside a broker: they wait, or "
                "are dropped.",
                remedy=f"Let them write directly, which leads to the broker: remove {where}, or "
                "set it to direct; and end a daemon that runs: "
                f"{daemon_stop(found.paths)}",
            )


def _other_palace(found: Diagnostics) -> Iterator[Finding]:
    """Look whether stock, by its own rules, would open another palace that exists."""
    named = ("MEMPALACE_PALACE_PATH", "MEMPALACE_PALACE", "MEMPAL_PALACE_PATH")
    if found.paths.found_by in ("default", *named):
        return
    given = next((found.environ[name] for name in named if found.environ.get(name)), "")
    try:
        other = (
            os.path.realpath(os.path.expanduser(given)) if given else stock_default(found.environ)
        )
    except ConfigError:
        return  # told where the settings are
    if other != found.paths.root and holds_store(other):
        yield Finding(
            level=WARNING,
            code="other_palace",
            text=f"{found.paths.found_by} names {found.paths.root}, and stock's tools, which don't "
            f"know it, use {other}: what their hooks save is there.",
            remedy=f"Name one palace for both: MEMPALACE_PALACE_PATH={found.paths.root} in the "
            f'agents\' environment, or "palace_path" in {config_file(found.config_dir)}',
        )


def _published(found: Diagnostics) -> Iterator[Finding]:
    """Dial the broker's HTTP port as stock would."""
    home = home_dir(found.environ)
    directory = server_directory(home, found.paths.root)
    path = f"{directory}/serverinfo.json"
    told = _told(found, path)
    running = (found.status or {}).get("http") or {}
    if found.status is None:
        pid = told.get("pid")
        dead = isinstance(pid, int) and found.kernel.process_of(pid) is None
        if told.get("server") == "palace" and dead:
            yield Finding(
                level=WARNING,
                code="dead_server",
                text=f"{path} names a broker that was killed, pid {pid}. Stock passes "
                "it over until another process has that pid.",
                remedy=f"rm {path}",
                fix=Fix(text=f"remove {path}", act=lambda: found.kernel.unlink(path)),
            )
        return
    if found.full is not None:
        return  # palace/doctor/serving.py says so: it turns away who dials
    if not running.get("url") or found.status["engine"]["state"] != "ready":
        return
    if not told:
        yield Finding(
            level=WARNING,
            code="not_published",
            text=f"The broker listens at {running['url']}, and {path}, where stock's tools would "
            "learn that, is gone: they open the palace by themselves, and are refused.",
            remedy="Let the next broker publish it again: palace stop",
        )
    elif not os.access(f"{directory}/token", os.R_OK):
        yield Finding(
            level=WARNING,
            code="no_token",
            text=f"{directory}/token can't be read, so stock's tools can't log in to the broker.",
            remedy="Let the next broker make it again: palace stop",
        )
    else:
        port = told.get("port")
        yield _dialled(port if isinstance(port, int) else 0, path)


def _told(found: Diagnostics, path: str) -> dict[str, object]:
    try:
        told = decode_json(found.kernel.read_hint(path) or b"{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _dialled(port: int, path: str) -> Finding:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=DIAL_S)
    try:
        connection.request("GET", "/healthz")
        why = "" if connection.getresponse().status == 200 else "it answers otherwise"
    except (OSError, http.client.HTTPException) as error:
        why = str(error)
    finally:
        connection.close()
    if not why:
        return Finding(level=OK, code="stock's way in", text=f"http://{ADDRESS}:{port}, in {path}")
    return Finding(
        level=WARNING,
        code="http_unreachable",
        text=f"{path} sends stock's tools to {ADDRESS}:{port}, and no broker answers there: {why}. "
        "Another network namespace (a container), or a firewall, may lie between.",
        remedy="Run the broker where the tools run, or register palace shim in their agents",
    )
