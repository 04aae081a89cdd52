"""`python -m images.pushed PLATFORM TRIED PUSHED`: whether what was pushed is what was tried.

TRIED is what `docker image inspect` says of the one, PUSHED what `docker buildx imagetools inspect`
says of the other's configuration.  Images are the same where their layers are, as digests of what
is in them, and what is run is: the rest is of when they were made, and where they are kept.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

RUN = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir")


def differences(platform: str, tried: Mapping[str, Any], pushed: Mapping[str, Any]) -> list[str]:
    """Return in what two images differ, in words."""
    pushed = pushed.get(platform, pushed)  # of an image for several platforms, by platform
    ours, theirs = tried["RootFS"]["Layers"], pushed["rootfs"]["diff_ids"]
    found = [] if ours and ours == theirs else [f"its layers are {theirs}, and not {ours}"]
    for name in RUN:
        one, other = tried["Config"].get(name) or None, pushed["config"].get(name) or None
        if one != other:
            found.append(f"its {name} is {other}, and not {one}")
    return found


def main(words: list[str]) -> int:
    """Say in what they differ; return 1 where they do."""
    platform, tried, pushed = words
    found = differences(platform, json.loads(tried), json.loads(pushed))
    for text in found:
        print(f"images: what was pushed is not what was tried: {text}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
