"""`python -m images`: the tag of a build, its arguments, and whether what is pinned is behind.

    tag     prints the tag; what can't be resolved is named on stderr
    args    prints NAME=VALUE for --build-arg, one a line: commits and digests in place of names
    refs    prints what is pinned and what it would be today; --write pins that, --check only says

Both `tag` and `args` take NAME=VALUE for other arguments than the Dockerfile's defaults, and what
`args` has printed leads to the same tag.
"""

import argparse
import re
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from images.inputs import DOCKERFILE, NotUnderstood, arguments, overridden, read_files
from images.references import Reference, Unresolved, parse_image, resolve_all, resolve_image
from images.tag import image_tag

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT_DAYS_MAX = 35
EPOCH = "SOURCE_DATE_EPOCH"  # the time of whatever would else have that of the build
_SNAPSHOT_FORMAT = "%Y%m%dT%H%M%SZ"


def main(words: list[str]) -> int:
    """Run one command; return its exit code: 1 where pins are behind, 2 for wrong usage."""
    options = _parse(words)
    try:
        if options.command == "refs":
            return show_pins(ROOT, write=options.write, check=options.check)
        given = dict(word.partition("=")[::2] for word in options.argument)
        given.pop(EPOCH, None)  # it follows from the others
        references = look_up(ROOT, given)
        if options.command == "tag":
            print(image_tag(read_files(ROOT), references, secrets.token_hex))
        else:
            print("\n".join(build_arguments(references)))
    except (NotUnderstood, OSError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m images")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("tag", "print the tag"), ("args", "print what --build-arg takes")):
        command = commands.add_parser(name, help=text)
        command.add_argument("argument", nargs="*", metavar="NAME=VALUE")
    refs = commands.add_parser("refs", help="compare what is pinned with today")
    refs.add_argument("--write", action="store_true", help=f"pin it in {DOCKERFILE}")
    refs.add_argument("--check", action="store_true", help="exit code 1 where a pin is behind")
    return parser.parse_args(words)


def look_up(directory: Path, given: Mapping[str, str]) -> dict[str, Reference]:
    """Return what the arguments of a build stand for; says on stderr what can't be resolved."""
    defaults = arguments((directory / DOCKERFILE).read_text())
    references = resolve_all(overridden(defaults, given))
    for name, each in references.items():
        if isinstance(each, Unresolved):
            print(f"images: {name} is not resolved, so the tag is new: {each.why}", file=sys.stderr)
    return references


def build_arguments(references: Mapping[str, Reference]) -> list[str]:
    """Return what makes a build use what was looked up, and have no time of its own."""
    moment = references["DEBIAN_SNAPSHOT"].value
    try:
        epoch_s = int(_when(moment).timestamp())
    except ValueError:
        epoch_s = 0
    values = {name: each.value for name, each in references.items()}
    return [f"{name}={value}" for name, value in (values | {EPOCH: str(epoch_s)}).items()]


def _when(moment: str) -> datetime:
    return datetime.strptime(moment, _SNAPSHOT_FORMAT).replace(tzinfo=UTC)


def show_pins(directory: Path, *, write: bool, check: bool) -> int:
    """Print the pinned base image and moment beside today's; return 1 where a pin is behind."""
    path = directory / DOCKERFILE
    text = path.read_text()
    pinned = arguments(text)
    name = pinned["BASE_IMAGE"].partition("@")[0]
    current = resolve_image(name)
    if isinstance(current, Unresolved):
        print(f"images: {name} is not resolved: {current.why}", file=sys.stderr)
        return 2
    today = datetime.now(UTC)
    old = _is_old(pinned["DEBIAN_SNAPSHOT"], today)
    behind = current.value != pinned["BASE_IMAGE"] or old
    moment = today.strftime("%Y%m%dT000000Z") if behind else pinned["DEBIAN_SNAPSHOT"]
    print(f"BASE_IMAGE       {pinned['BASE_IMAGE']}\n  today          {current.value}")
    print(f"DEBIAN_SNAPSHOT  {pinned['DEBIAN_SNAPSHOT']}{'  behind' if old else ''}")
    if write and behind:
        path.write_text(repin(text, {"BASE_IMAGE": current.value, "DEBIAN_SNAPSHOT": moment}))
        print(f"{DOCKERFILE} has {parse_image(current.value).digest} and {moment} now.")
    return 1 if check and behind else 0


def _is_old(moment: str, today: datetime) -> bool:
    try:
        return (today - _when(moment)).days > SNAPSHOT_DAYS_MAX
    except ValueError:
        return True  # none is pinned


def repin(dockerfile: str, values: Mapping[str, str]) -> str:
    """Return the Dockerfile with other defaults of arguments, and no other change."""
    for name, value in values.items():
        dockerfile = re.sub(
            rf"^ARG {name}=.*$", f"ARG {name}={value}", dockerfile, flags=re.MULTILINE
        )
    return dockerfile


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
