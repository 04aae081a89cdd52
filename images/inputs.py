"""What a build reads: the Dockerfile's arguments, and the files that it takes from here.

Pure but for `read_files`.  Only as much of the Dockerfile's language is known as the tag needs;
what looks like more is refused: a file that is copied and not hashed would go stale in silence.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DOCKERFILE = "Dockerfile.base"
RECIPE = "images/apko"  # of the same image by other tools, which take the same files beside it
IGNORE = ".dockerignore"
_GLOB = re.compile(r"[*?\[]")
_ANYWHERE = re.compile(r"\*\*/(\*?)([\w.-]+)")


class NotUnderstood(ValueError):
    """The Dockerfile or .dockerignore says what this module can't follow; the text says where."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction with its continuation lines joined; `stage` counts FROMs, 0 before any."""

    line: int
    stage: int
    name: str
    text: str


def instructions(dockerfile: str) -> list[Instruction]:
    """Return a Dockerfile's instructions; raises NotUnderstood for parser directives."""
    found: list[Instruction] = []
    pending: list[str] = []
    begun = stage = 0
    for number, line in enumerate(dockerfile.splitlines(), 1):
        text = line.strip()
        if re.match(r"#\s*(syntax|escape)\s*=", text, re.IGNORECASE) and not found:
            raise NotUnderstood(f"line {number}: {text}: take the parser directive away")
        if not text or text.startswith("#"):
            continue
        begun = begun or number
        pending.append(text.removesuffix("\\"))
        if text.endswith("\\"):
            continue
        name, _, rest = " ".join(pending).strip().partition(" ")
        stage += name.upper() == "FROM"
        found.append(Instruction(line=begun, stage=stage, name=name.upper(), text=rest.strip()))
        pending, begun = [], 0
    if pending:
        raise NotUnderstood(f"line {begun}: the last instruction is not ended")
    return found


def arguments(dockerfile: str) -> dict[str, str]:
    """Return the defaults of the arguments that stand before the first FROM."""
    found = {}
    for each in instructions(dockerfile):
        if each.name != "ARG":
            continue
        name, equals, value = each.text.partition("=")
        if each.stage == 0:
            found[name] = value.strip("\"'")
        elif equals or name not in found:
            raise NotUnderstood(
                f"line {each.line}: ARG {each.text}: give the default before the first FROM, where "
                "the tag looks for it"
            )
    return found


def sources(dockerfile: str) -> list[str]:
    """Return the paths that COPY and bind mounts take from the build's directory, sorted."""
    found = set()
    for each in instructions(dockerfile):
        if each.name == "ADD" or "<<" in each.text:
            raise NotUnderstood(
                f"line {each.line}: {each.name}: use COPY, and scripts of their own"
            )
        if each.name == "COPY":
            words = each.text.split()
            options = [word for word in words if word.startswith("--")]
            if not any(word.startswith("--from=") for word in options):
                found |= set(words[len(options) : -1])
        elif each.name == "RUN":
            found |= set(_mounted(each))
    for path in found:
        if _GLOB.search(path) or path.startswith(("/", '["')) or ".." in path.split("/"):
            raise NotUnderstood(f"COPY {path}: name files and directories as they are")
    return sorted(path.rstrip("/") for path in found)


def _mounted(run: Instruction) -> Iterator[str]:
    for word in shlex.split(run.text):
        if not word.startswith("--mount="):
            continue
        options = dict(
            part.partition("=")[::2] for part in word.removeprefix("--mount=").split(",")
        )
        kind = options.get("type", "bind")
        if kind == "bind" and "from" not in options:
            yield options.get("source") or options.get("src") or "."
        elif kind not in ("bind", "secret"):
            raise NotUnderstood(f"line {run.line}: {word}: a cache would not be part of the tag")


@dataclass(frozen=True)
class Ignored:
    """The patterns of a .dockerignore: `**/NAME` and `**/*END`, which is all that is needed."""

    names: frozenset[str]
    ends: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Ignored":
        """Return the patterns; raises NotUnderstood for any other."""
        names: set[str] = set()
        ends: set[str] = set()
        for line in text.splitlines():
            pattern = line.strip()
            if not pattern or pattern.startswith("#"):
                continue
            matched = _ANYWHERE.fullmatch(pattern)
            if matched is None:
                raise NotUnderstood(f"{IGNORE}: {pattern}: write **/NAME or **/*END")
            (ends if matched[1] else names).add(matched[2])
        return cls(frozenset(names), tuple(sorted(ends)))

    def covers(self, path: str) -> bool:
        parts = path.split("/")
        return any(part in self.names or part.endswith(self.ends) for part in parts)


def read_files(directory: Path) -> dict[str, str]:
    """Return, by path, a digest of each file that a build in `directory` reads.

    A digest covers a file's content and whether it may be executed, and a link's target; empty
    directories have none.  The Dockerfile and .dockerignore are among the files, and so is the
    recipe for other tools.  Raises FileNotFoundError for a missing source, and NotUnderstood.
    """
    dockerfile = (directory / DOCKERFILE).read_text()
    ignore = directory / IGNORE
    ignored = Ignored.read(ignore.read_text() if ignore.exists() else "")
    found = {DOCKERFILE: _digest(directory / DOCKERFILE)}
    if ignore.exists():
        found[IGNORE] = _digest(ignore)
    recipe = [RECIPE] if (directory / RECIPE).is_dir() else []
    for source in sources(dockerfile) + recipe:
        for path in _walk(directory / source):
            name = path.relative_to(directory).as_posix()
            if not ignored.covers(name):
                found[name] = _digest(path)
    return found


def _walk(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for entry in path.iterdir():
        yield from _walk(entry)


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    kind = "program" if path.stat().st_mode & 0o100 else "file"
    return f"{kind} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def overridden(defaults: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the arguments with others in place of defaults; NotUnderstood for unknown names."""
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        known = ", ".join(sorted(defaults))
        raise NotUnderstood(f"{DOCKERFILE} has no argument {', '.join(unknown)}. It has: {known}")
    return {**defaults, **given}
