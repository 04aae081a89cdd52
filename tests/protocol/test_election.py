import pytest

from palace.protocol import election
from palace.protocol.election import Election


def make(**policy: object) -> Election:
    return Election(**({"deadline_s": 60.0, "random": lambda: 0.5} | policy))  # type: ignore[arg-type]


def test_a_running_broker_is_dialled_and_nothing_is_spawned() -> None:
    machine = make()

    assert machine.handle((election.BEGIN,), 0) == [(election.DIAL,)]
    assert machine.handle((election.WELCOMED,), 0) == [(election.READY,)]
    assert machine.spawns == 0
    assert machine.handle((election.WOKE,), 1) == []


def test_nobody_there_spawns_once_and_dials_with_growing_jittered_pauses() -> None:
    machine = make()
    machine.handle((election.BEGIN,), 0)

    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 0) == [(election.SPAWN,)]
    pauses = [machine.handle((election.SPAWNED,), 0)[0][1]]
    for turn in range(8):
        assert machine.handle((election.WOKE,), turn) == [(election.DIAL,)]
        pauses.append(machine.handle((election.DIAL_FAILED, election.ABSENT), turn)[0][1])

    assert machine.spawns == 1
    assert pauses[:3] == [0.02, 0.04, 0.08]
    assert pauses[-1] == election.PAUSE_MAX_S


def test_a_lost_election_is_no_failure_and_spawns_again_only_after_a_while() -> None:
    machine = make()
    machine.handle((election.DIAL_FAILED, election.ABSENT), 0)
    machine.handle((election.SPAWNED,), 0)

    assert machine.handle((election.CHILD_EXITED, 75, ""), 0.1)[0][0] == election.SLEEP
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 0.2)[0][0] == election.SLEEP
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 5.1) == [(election.SPAWN,)]


def test_a_busy_broker_is_alive_and_nothing_is_spawned() -> None:
    machine = make()

    for turn in range(20):
        action = machine.handle((election.DIAL_FAILED, election.BUSY), turn)[0]
        assert action[0] == election.SLEEP

    assert machine.spawns == 0


def test_a_silent_broker_may_never_answer_and_another_is_spawned() -> None:
    assert make().handle((election.DIAL_FAILED, election.SILENT), 0) == [(election.SPAWN,)]


def test_the_deadline_ends_an_attempt_with_what_was_seen_last() -> None:
    machine = make(deadline_s=1.0)

    assert machine.handle((election.DIAL_FAILED, election.SILENT), 1.0) == [
        (election.FAIL, "broker_unreachable", "silent")
    ]
    assert machine.over


def test_no_spawn_fails_at_once_instead_of_waiting_for_nobody() -> None:
    machine = make(may_spawn=False)

    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 0) == [
        (election.FAIL, "no_spawn", "absent")
    ]


def test_who_may_not_spawn_waits_while_somebody_else_may() -> None:
    machine = make(may_spawn=False, others_until_s=2.0)

    [(kind, _)] = machine.handle((election.DIAL_FAILED, election.ABSENT), 1.9)
    assert kind == election.SLEEP
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 2.0) == [
        (election.FAIL, "no_spawn", "absent")
    ]


@pytest.mark.parametrize(("status", "name"), sorted(election.FINAL_EXITS.items()))
def test_a_broker_that_says_why_it_can_not_start_ends_the_attempt(status: int, name: str) -> None:
    machine = make()
    machine.handle((election.DIAL_FAILED, election.ABSENT), 0)
    machine.handle((election.SPAWNED,), 0)

    assert machine.handle((election.CHILD_EXITED, status, "why"), 1) == [
        (election.FAIL, name, "why")
    ]


def test_an_unknown_exit_with_a_report_is_told_as_it_is() -> None:
    machine = make()

    assert machine.handle((election.CHILD_EXITED, 1, "no disk"), 0) == [
        (election.FAIL, "spawn_failed", "no disk")
    ]


def test_brokers_that_die_without_a_word_lead_to_direct_mode() -> None:
    machine = make()
    machine.handle((election.DIAL_FAILED, election.ABSENT), 0)
    machine.handle((election.SPAWNED,), 0)

    for _ in range(election.SILENT_DEATHS_MAX - 1):
        assert machine.handle((election.CHILD_EXITED, -9, ""), 0.1)[0][0] == election.SLEEP
        assert machine.handle((election.DIAL_FAILED, election.ABSENT), 0.2) == [(election.SPAWN,)]
        machine.handle((election.SPAWNED,), 0.2)
    assert machine.handle((election.CHILD_EXITED, -9, ""), 0.3) == [(election.DIRECT,)]


def test_without_direct_mode_the_deaths_are_told() -> None:
    machine = make(may_direct=False)
    for _ in range(election.SILENT_DEATHS_MAX - 1):
        machine.handle((election.CHILD_EXITED, -9, ""), 0)

    action = machine.handle((election.CHILD_EXITED, -9, ""), 0)[0]

    assert action[:2] == (election.FAIL, "spawn_failed")


def test_a_kernel_that_will_not_spawn_leads_to_direct_mode_and_then_to_failure() -> None:
    machine = make()

    assert machine.handle((election.SPAWN_FAILED, "EAGAIN"), 0) == [(election.DIRECT,)]
    assert machine.handle((election.SPAWN_FAILED, "EAGAIN"), 0) == [
        (election.FAIL, "spawn_failed", "EAGAIN")
    ]


def test_spawn_refused_without_direct_mode_fails() -> None:
    machine = make(may_direct=False)

    assert machine.handle((election.SPAWN_FAILED, "EAGAIN"), 0)[0][0] == election.FAIL


def test_a_direct_child_that_loses_goes_back_to_dialling() -> None:
    machine = make()
    machine.handle((election.SPAWN_FAILED, "x"), 0)

    assert machine.handle((election.CHILD_EXITED, 75, ""), 1)[0][0] == election.SLEEP
    assert machine.handle((election.WOKE,), 2) == [(election.DIAL,)]


def test_a_direct_child_that_fails_or_hangs_up_ends_the_attempt() -> None:
    failed, silent = make(), make()
    for machine in (failed, silent):
        machine.handle((election.SPAWN_FAILED, "x"), 0)

    assert failed.handle((election.CHILD_EXITED, 1, ""), 1)[0][0] == election.FAIL
    assert silent.handle((election.DIAL_FAILED, election.ABSENT), 1)[0][0] == election.FAIL


def test_a_refusal_ends_the_attempt_with_its_own_words() -> None:
    machine = make()

    assert machine.handle((election.REFUSED, "wrong_palace", "another"), 0) == [
        (election.FAIL, "wrong_palace", "another")
    ]


def test_a_guest_container_waits_before_it_spawns() -> None:
    machine = make(wait_before_spawn_s=2.0)

    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 10)[0][0] == election.SLEEP
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 11.9)[0][0] == election.SLEEP
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 12) == [(election.SPAWN,)]


def test_an_unknown_event_is_a_fault_of_ours() -> None:
    with pytest.raises(AssertionError):
        make().handle(("nonsense",), 0)


def test_a_pause_is_between_half_and_one_and_a_half_of_what_it_was_to_be() -> None:
    for chance, pause_s in ((0.0, 0.01), (0.5, 0.02), (1.0, 0.03)):
        machine = make(random=lambda chance=chance: chance)

        assert machine.handle((election.SPAWNED,), 0) == [(election.SLEEP, pause_s)]


def test_a_direct_child_that_does_not_answer_or_dies_is_the_end() -> None:
    def direct() -> Election:
        machine = make(deadline_s=60.0)
        for _ in range(election.SILENT_DEATHS_MAX):
            action = machine.handle((election.CHILD_EXITED, -9, ""), 0)
        assert action == [(election.DIRECT,)]
        return machine

    assert direct().handle((election.DIAL_FAILED, election.ABSENT), 1) == [
        (election.FAIL, "spawn_failed", "the direct broker did not answer")
    ]
    assert direct().handle((election.CHILD_EXITED, 3, ""), 1) == [
        (election.FAIL, "spawn_failed", "direct broker: exit 3")
    ]
    assert direct().handle((election.CHILD_EXITED, 3, "no disk"), 1) == [
        (election.FAIL, "spawn_failed", "no disk")
    ]


def test_who_waits_before_it_spawns_does_so_once_and_only_at_first() -> None:
    machine = make(wait_before_spawn_s=1.0)

    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 0)[0][0] == election.SLEEP
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 0.99)[0][0] == election.SLEEP
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 1.0) == [(election.SPAWN,)]
    machine.handle((election.SPAWNED,), 1.0)
    machine.handle((election.CHILD_EXITED, 75, ""), 1.1)
    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 6.0) == [(election.SPAWN,)]
    assert machine.spawns == 2


def test_who_need_not_wait_spawns_at_once() -> None:
    machine = make(wait_before_spawn_s=0.0)

    assert machine.handle((election.DIAL_FAILED, election.ABSENT), 0.0) == [(election.SPAWN,)]
