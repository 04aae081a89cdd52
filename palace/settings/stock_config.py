"""mempalace's config.json, read as stock 3.11 reads it, but never passed over.

Stock goes on with its defaults where the file can't be understood.  For a palace that would mean
another directory, another store and another graph than the file names, so here it is an error.

Standard library only, and light: the shim imports this where nothing else names the palace.
"""

from palace.protocol.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def config_file(directory: str) -> str:
    """Return where stock's settings stand in its configuration directory."""
    return f"{directory}/config.json"


def read_stock_config(directory: str) -> "dict[str, Any]":
    """Return what config.json says, {} where there is none; raises ConfigError."""
    path = config_file(directory)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    import json

    try:
        # With the byte order mark that editors on Windows write.
        settings = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"it is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _unreadable(path, "it is nested too deeply") from None
    except ValueError as error:
        raise _unreadable(path, f"it is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise _unreadable(path, f"it holds no JSON object, but {type(settings).__name__}")
    return settings


def _unreadable(path: str, why: str) -> ConfigError:
    return ConfigError(
        f"mempalace's settings {path} can't be understood: {why}. They may name another palace "
        "than the default, so none is opened. Correct the file; or remove it, if nothing in it "
        "is needed."
    )
