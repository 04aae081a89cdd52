from palace.protocol.lifecycle import EngineState, Lifecycle, Phase, Reason


def make(idle_s: float = 10.0) -> Lifecycle:
    life = Lifecycle(idle_s=idle_s, grace_s=30.0)
    life.begin(100.0)
    life.loaded(101.0)
    return life


def test_idle_means_no_request_for_so_long() -> None:
    life = make()

    assert life.tick(110.9, busy=False) is None
    drain = life.tick(111.0, busy=False)
    assert drain is not None
    assert (drain.reason, drain.grace_s) == (Reason.IDLE, 30.0)
    assert life.phase is Phase.DRAINING


def test_a_request_and_a_running_call_put_the_idle_exit_off() -> None:
    life = make()
    life.active(110.0)

    assert life.tick(119.0, busy=False) is None
    assert life.tick(119.5, busy=True) is None
    assert life.tick(129.0, busy=False) is None
    assert life.tick(129.5, busy=False) is not None


def test_zero_is_never() -> None:
    life = make(idle_s=0)

    assert life.tick(1e9, busy=False) is None


def test_the_first_reason_stands() -> None:
    life = make()

    assert life.stop(Reason.STOP, grace_s=0.0, text="SIGTERM") is not None
    assert life.stop(Reason.UPGRADE) is None
    assert life.tick(1e9, busy=False) is None
    assert life.drain is not None
    assert (life.drain.reason, life.drain.grace_s) == (Reason.STOP, 0.0)


def test_a_failed_engine_lingers_to_say_so_and_then_leaves() -> None:
    life = Lifecycle(idle_s=10.0, grace_s=30.0)
    life.begin(0.0)
    life.load_failed("no model", 5.0)

    assert life.engine is EngineState.FAILED
    assert life.tick(6.0, busy=True) is None
    drain = life.tick(7.0, busy=True)
    assert drain is not None
    assert (drain.reason, drain.text) == (Reason.FAILED, "no model")


def test_an_owner_that_waits_for_the_store_says_for_whom_and_then_loads() -> None:
    life = Lifecycle(idle_s=10.0, grace_s=30.0)

    life.waits("stock has it")
    assert (life.engine, life.waiting, life.failure) == (EngineState.WAITING, "stock has it", "")
    life.waits("stock has it", refusing=True)
    assert life.failure == "stock has it"
    life.waits("")
    assert (life.engine, life.waiting, life.failure) == (EngineState.LOADING, "", "")


def test_an_owner_is_idle_from_its_beginning_and_ready_once_loaded() -> None:
    life = Lifecycle(idle_s=0.5, grace_s=30.0)
    life.begin(100.0)
    assert life.idle_for_s(100.25) == 0.25
    life.loaded(101.0)

    assert life.engine is EngineState.READY
    assert life.tick(101.25, busy=False) is None
    assert life.tick(101.5, busy=False) is not None


def test_a_drain_without_a_text_has_none() -> None:
    drain = make().stop(Reason.STOP)

    assert drain is not None
    assert (drain.grace_s, drain.text) == (30.0, "")
