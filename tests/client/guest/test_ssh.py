"""What ssh says when it fails: which of it is final, and what only looks like it."""

import pytest

from palace.client.guest.ssh import LOST_EXIT, Target, problem_of

FINAL = [
    "Host key verification failed.",
    "ada@example.org: Permission denied (publickey,password).",
    "ssh: Could not resolve hostname nowhere: Name or service not known",
    "Bad owner or permissions on /home/ada/.ssh/config",
    "/home/ada/.ssh/config: line 3: Bad configuration option: hsot",
    "command-line: line 0: Bad configuration option: nosuch",
    "Can't open user config file /nowhere: No such file or directory",
]
PASSING = [
    "ssh: connect to host example.org port 22: Connection refused",
    "ssh: Could not resolve hostname home: Temporary failure in name resolution",
    "kex_exchange_identification: Connection closed by remote host",
    "",
]
NOISE = [
    "Warning: Identity file /home/ada/.ssh/old not accessible: No such file or directory.",
    "bash: warning: setlocale: LC_ALL: cannot change locale (de_DE): No such file or directory",
    "/home/ada/.bashrc: line 7: /opt/env: Permission denied",
    "* Permission denied? Ask ada@example.org. Host key verification failed? Ask her, too. *",
    "git: Host key verification failed.",
    "cat: /etc/motd.local: No such file or directory",
]


def is_final(said: str) -> bool:
    return problem_of(Target("ssh://example.org"), LOST_EXIT, said).final


@pytest.mark.parametrize("line", FINAL)
def test_what_ssh_says_for_good_is_final_whatever_stands_around_it(line: str) -> None:
    assert is_final(line)
    assert is_final("\r\n".join([*NOISE, f"{line}\r", ""]))


@pytest.mark.parametrize("line", PASSING)
def test_a_network_that_comes_and_goes_is_not_final_whatever_stands_around_it(line: str) -> None:
    assert not is_final(line)
    assert not is_final("\n".join([*NOISE, line]))


def test_what_is_no_trouble_is_not_said() -> None:
    assert "-oLogLevel=ERROR" in Target("ssh://example.org").argv(command="true")
