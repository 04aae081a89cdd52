"""What each of palace's processes does first, before it imports anything that it could do without.

Standard library only, and of that only what the interpreter has loaded by then.
"""

import os
import sys

# No process of ours reports to the vendor of a library: onnxruntime, chromadb, huggingface_hub.
QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def prepare_process() -> None:
    """Let only what is installed be imported from here on, and nothing report to vendors.

    No file that is made from here on can be written to by everybody.

    A session's PYTHONPATH may name another interpreter's packages, its current directory a file
    that is called as a module of ours, its user's site another version.  The directory of palace
    itself stays, wherever it lies, but comes last.
    """
    os.environ.update(QUIET)
    os.umask(os.umask(0o077) | 0o002)  # nothing of ours is everybody's to write
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    given = os.environ.pop("PYTHONPATH", "").split(os.pathsep)
    site = sys.modules.get("site")
    foreign = {os.path.abspath(entry) for entry in given if entry}
    if users := getattr(site, "USER_SITE", None):
        foreign.add(os.path.abspath(users))
    if not sys.flags.safe_path:
        foreign.add(os.path.abspath(sys.path[0]))  # the current directory, or the program's
    installed = {os.path.dirname(os.__file__), *(site.getsitepackages() if site else ())}
    first = [entry for entry in sys.path if os.path.abspath(entry) not in foreign]
    last = [
        entry
        for entry in sys.path
        if os.path.abspath(entry) in foreign and os.path.abspath(entry) in {ours, *installed}
    ]
    if ours in foreign and ours not in first:
        os.environ["PYTHONPATH"] = ours  # for brokers
    sys.path[:] = first + last
