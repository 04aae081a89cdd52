"""palace.toml, which may be anybody's writing, and the user's settings beside the palace."""

import json
import os
from contextlib import suppress
from typing import Any

from palace.commands.config import without_keys
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_toml
from palace.protocol.errors import ConfigError
from palace.settings.checks import USER
from palace.settings.config import (
    KNOWN,
    SETTINGS,
    Loaded,
    adopt,
    checked_table,
    ignored_text,
    load_settings,
)
from palace.settings.paths import Paths
from palace.settings.recorded import RECORDED, is_agreed
from palace.settings.user_settings import read_toml, toml_text, user_settings_path
from tests.security.source import Source, steps_at_most
from tests.security.targets.records import ID, scratch

DRIVES = (
    "palace.settings.config",
    "palace.settings.checks",
    "palace.settings.user_settings",
    "palace.settings.recorded",
    "palace.settings.inherited",
    "palace.settings.given_path",
    "palace.commands.config",
)
STEPS = 400_000
VALUES: tuple[Any, ...] = (
    *(True, False, 0, 1, -1, 16, 900.5, 1e308, 2**63 - 1, 10**400, float("nan"), float("inf")),
    *("", "on", "off", "debug", "/etc/passwd", "~/x", "knowledge_graph.sqlite3", "../graph"),
    *(
        "0.0.0.0:1",
        "h:1",
        "[::]:0",
        "ssh://h",
        "ssh://-oProxyCommand=x",
        "\U000e0001",
        "a\nb",
        "\x7f",
    ),
    *([], ["a"], [0, 1000], [2**32], ["h:1"], {}, {"/a": "/b"}, {"HOME": "/x"}, {"A=": "b"}),
    *({"MEMPALACE_LANG": "en"}, {"LD_PRELOAD": "/x"}, {"MEMPALACE_EMBEDDING_MODEL": "openai"}),
    *({"MEMPALACE_EMBEDDING_MODEL": "minilm"}, {"MEMPALACE_LANG": "\U000e0001\x85"}),
)


def one(data: bytes) -> None:
    source = Source(data)
    with scratch() as base:
        paths = Paths(f"{base}/palace")
        environ = {"HOME": f"{base}/home", "XDG_STATE_HOME": f"{base}/state"}
        for path in (paths.root, f"{base}/home", f"{base}/state/palace/settings"):
            os.makedirs(path, 0o700)
        user_path = user_settings_path(paths, environ)
        _write(paths.palace_id, ID.encode())
        if source.byte() % 4:
            head = {"palace": paths.root, "palace_id": source.pick((ID, ID, "0" * 32))}
            os.makedirs(os.path.dirname(user_path), 0o700, exist_ok=True)
            _write(user_path, _document(source, head))
        lent = _document(source, {})
        _write(paths.settings, lent)
        with steps_at_most(STEPS):
            _load(paths, environ, user_path)
            _edit(lent, source)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _document(source: Source, head: dict[str, Any]) -> bytes:
    """Return settings: known keys with odd values, or bytes between such lines."""
    values = dict(head)
    for _ in range(source.below(5)):
        setting = source.pick(SETTINGS)
        values[setting.key] = source.pick((setting.default, _value(source), _value(source)))
    rows = []
    for key, value in values.items():
        try:
            rows.append(f"{key} = {_toml(value)}\n".encode("utf-8", "replace"))
        except RecursionError:
            rows.append(f"{key} = {'[' * 2000}\n".encode())
    if source.byte() % 3 == 0:
        rows.insert(source.below(len(rows) + 1), source.raw() + b"\n")
    return b"".join(rows)


def _toml(value: Any) -> str:
    """Write a value, not as palace does: texts as they are."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return (
            f"{{ {', '.join(f'{_toml(str(key))} = {_toml(one)}' for key, one in value.items())} }}"
        )
    return toml_text(value)


def _value(source: Source) -> Any:
    return source.json(2) if source.byte() % 4 == 0 else source.pick(VALUES)


def _load(paths: Paths, environ: dict[str, str], user_path: str) -> None:
    kernel = Kernel()
    try:
        loaded = load_settings(paths, environ, kernel)
    except ConfigError as error:
        if not error.message:
            raise
        return
    _check(loaded, paths, environ)
    adopt(paths, loaded, environ, kernel)
    again = load_settings(paths, environ, kernel)
    assert again.config == loaded.config, "what was written down is what counted"
    assert os.path.isfile(user_path) or loaded.user.other_id


def _check(loaded: Loaded, paths: Paths, environ: dict[str, str]) -> None:
    config, told = loaded.config, loaded.user.values
    lent = checked_table(read_toml(paths.settings, Kernel()), paths.settings)
    for setting in SETTINGS:
        value = getattr(config, setting.key)
        if setting.low is not None and not isinstance(value, bool):
            assert setting.low <= value <= (setting.high or float("inf")), setting.key
        if setting.counts != USER or setting.key in told:
            continue
        # What decides anything outside counts only as its user says, or as stock itself could.
        if setting.key not in RECORDED:
            assert value == setting.default, (setting.key, value)
        elif lent.get(setting.key):
            assert is_agreed(setting.key, lent[setting.key], paths, environ)
    assert not set(loaded.ignored) - set(KNOWN)
    assert isinstance(ignored_text(loaded.ignored, paths), str)
    assert config.batch_max >= 1


def _edit(lent: bytes, source: Source) -> None:
    """What takes keys out of it takes nothing else out; what is written is read as it was."""
    with suppress(ValueError):
        before = decode_toml(lent)
        keys = [key for key in before if source.byte() % 2]
        changed = without_keys(lent.decode(), keys)
        if changed is not None:
            after = decode_toml(changed.encode())
            assert repr(after) == repr({k: v for k, v in before.items() if k not in keys})
        for value in before.values():
            if isinstance(value, str | bool | int | float | list | dict):
                text = f"value = {toml_text(value)}\n"
                assert repr(decode_toml(text.encode())["value"]) == repr(value), text
