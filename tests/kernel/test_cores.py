"""Core dumps of a process hold nothing of its memory; those of a broker aren't made at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from palace.kernel.cores import empty_cores, forbid_cores

SECRET = "whatever-is-remembered"
SCRIPT = """
import os, resource, sys
from palace.kernel import cores
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
open("/proc/self/coredump_filter", "w").write("0x33")  # whatever the tests' process has set
secret = sys.stdin.read()
for name in sys.argv[1:]:
    getattr(cores, name)()
print(open("/proc/self/coredump_filter").read(), resource.getrlimit(resource.RLIMIT_CORE)[0])
sys.stdout.flush()
os.abort()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("names", [(), (empty_cores.__name__,), (forbid_cores.__name__,)])
def test_a_core_holds_no_memory(tmp_path: Path, names: tuple[str, ...]) -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        input=SECRET,
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGABRT, ended.stderr
    mask, limit = ended.stdout.split()
    cores = [path.read_bytes() for path in tmp_path.iterdir()]  # where the kernel puts them here
    assert (int(mask, 16) == 0) == (names == ("empty_cores",))
    assert (limit == "0") == (names == ("forbid_cores",)) or limit == "0"
    if names:
        assert not any(SECRET.encode() in core for core in cores)
    if names == ("forbid_cores",):
        assert (limit, cores) == ("0", [])
