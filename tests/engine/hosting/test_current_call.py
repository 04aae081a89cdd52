"""A thread knows its own call and no other thread's, and nothing of a call that has ended."""

import threading

from palace.engine.hosting.current_call import CurrentCall
from palace.engine.hosting.writes import DrawerBatch


def state(current: CurrentCall) -> tuple[object, ...]:
    return current.read_only, current.batch, current.stored, current.query_is_embedded


NONE = (False, None, None, False)


def test_a_call_is_known_in_its_thread_alone() -> None:
    current, batch, seen = CurrentCall(), DrawerBatch([{}], lambda _writes: None), []
    current.begin(read_only=True, batch=batch)

    other = threading.Thread(target=lambda: seen.append(state(current)))
    other.start()
    other.join()

    assert state(current) == (True, batch, None, False)
    assert seen == [NONE]


def test_nothing_of_a_call_reaches_the_next_one() -> None:
    current = CurrentCall()
    current.begin(read_only=True, batch=DrawerBatch([{}], lambda _writes: None))
    current.query_is_embedded = True

    current.end()

    assert state(current) == NONE
    current.query_is_embedded = True
    current.begin(read_only=False, batch=None)
    assert state(current) == NONE


def test_the_host_leaves_the_journals_part_alone() -> None:
    current = CurrentCall()
    current.groups = {}

    current.begin(read_only=False, batch=None)

    assert current.groups == {}
