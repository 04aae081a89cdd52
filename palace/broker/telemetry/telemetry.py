"""What one owner counts and measures; nothing is decided by it."""

from collections import Counter

import attrs
import trio

from palace.broker.telemetry.histograms import Histograms
from palace.broker.telemetry.meter import Meter
from palace.broker.telemetry.recent_errors import RecentErrors
from palace.protocol.admission import Job
from palace.protocol.budget import Budget


@attrs.define(eq=False)
class Counters:
    requests: int = 0
    replies: int = 0
    busy: int = 0
    refused: int = 0
    connections: int = 0


@attrs.define(eq=False, kw_only=True)
class HttpCounters:
    """The HTTP listener's; `answers` counts statuses, `url` is "" while it doesn't listen.

    `socket` is where the memory contract is served besides, `tls` where over TLS, with which
    `certificate`; "" while it isn't.
    """

    token_file: str
    url: str = ""
    socket: str = ""
    tls: str = ""
    certificate: str = ""
    connections: int = 0
    sessions: int = 0
    refused: int = 0
    answers: Counter[int] = attrs.field(factory=Counter)


@attrs.define(eq=False)
class TaskNotes:
    """What is known of the tasks that agents give each other (palace/broker/task_watch.py).

    `watched` is how many ask to be watched and are not over, `ended` how many this owner has given
    up.  `heard` are claims that were told of since the last look, whether their workers are there
    at the next or not.
    """

    watched: int = 0
    ended: int = 0
    heard: set[str] = attrs.field(factory=set)


@attrs.define(eq=False)
class Telemetry:
    """All of it.  `since` is when the owner began, in UTC and for people, `started_s` by the clock.

    `http` is None where HTTP isn't served.  `budgets` are those of the parts that there are.
    """

    counters: Counters = attrs.field(factory=Counters)
    meter: Meter = attrs.field(factory=Meter)
    histograms: Histograms = attrs.field(factory=Histograms)
    errors: RecentErrors = attrs.field(factory=RecentErrors)
    http: HttpCounters | None = None
    tasks: TaskNotes = attrs.field(factory=TaskNotes)
    budgets: list[Budget] = attrs.field(factory=list)
    started_s: float = 0.0
    since: str = ""

    def budgets_named(self, name: str) -> list[Budget]:
        return [budget for budget in self.budgets if budget.name == name]

    def note_error(self, text: str) -> None:
        """Keep an error for `palace status`; the text quotes no memory."""
        self.errors.note(text, trio.current_time())

    def answered(self, job: Job, now_s: float) -> None:
        """Note that a call was answered, or given up."""
        self.counters.replies += 1
        self.meter.settled(job.tool.lane, job.admitted_s, now_s)
        if not job.cancelled:
            self.histograms.note(job.tool.lane, now_s - job.admitted_s)
