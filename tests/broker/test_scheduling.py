"""What the scheduler does between two calls."""

from pathlib import Path

from tests.support.brokers.owner import open_broker


async def test_a_batch_is_held_no_longer_than_there_is_a_call_for_it(short_dir: Path) -> None:
    """Else the loop would ask again and again whether it is time to begin it."""
    async with open_broker(short_dir / "palace") as running:
        scheduler = running.state.scheduler
        scheduler.admission.held = True  # for a call that was taken back meanwhile
        scheduler.start_ready()

        assert not scheduler.admission.held
