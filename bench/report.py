"""Samples into medians, a Markdown table, and the goals that are met."""

import importlib.metadata
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Measure:
    """One thing that is measured; `goal` (None: no goal) is the most it may be, or the least."""

    key: str
    title: str
    unit: str
    goal: float | None
    more: bool = False

    def met(self, value: float) -> bool:
        assert self.goal is not None
        return value >= self.goal if self.more else value <= self.goal

    @property
    def goal_text(self) -> str:
        return f"{'>=' if self.more else '<='} {self.goal:g} {self.unit}"


MEASURES = (
    Measure(key="spawn", title="spawn to `initialize`", unit="ms", goal=30),
    Measure(key="ping", title="ping", unit="us", goal=200),
    Measure(key="no_op", title="no-op tool", unit="us", goal=300),
    Measure(key="pss", title="PSS of each further client", unit="MiB", goal=6),
    Measure(key="uss", title="private part of it", unit="MiB", goal=None),
    Measure(key="load", title="no-op tool calls, 4 clients", unit="/s", goal=2000, more=True),
    Measure(key="mib", title="ping with 1 MiB", unit="ms", goal=40),
)
PALACE = "palace"


class Samples:
    """All samples, by measure and contender, in the order of first use."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, measure: str, contender: str, *values: float) -> None:
        self._values.setdefault((measure, contender), []).extend(values)

    def of(self, measure: str) -> dict[str, "Spread"]:
        return {who: spread(v) for (what, who), v in self._values.items() if what == measure}

    def to_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        keys = dict.fromkeys(measure for measure, _ in self._values)
        return {key: {who: attrs.asdict(s) for who, s in self.of(key).items()} for key in keys}


@attrs.frozen(kw_only=True)
class Spread:
    p10: float
    p50: float
    p90: float
    count: int


def spread(values: list[float]) -> Spread:
    ordered = sorted(values)
    last = len(ordered) - 1
    return Spread(
        p10=ordered[round(last * 0.1)],
        p50=statistics.median(ordered),
        p90=ordered[round(last * 0.9)],
        count=len(ordered),
    )


def table(samples: Samples) -> str:
    """Return the Markdown table; the ratio is palace's median over the row's."""
    rows = [
        "| measure | who | p50 | p10..p90 | n | palace / this | goal |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for measure in MEASURES:
        found = samples.of(measure.key)
        ours = found[PALACE].p50
        for who, seen in found.items():
            ratio = "" if who == PALACE else f"{ours / seen.p50:.2f}"
            goal = _verdict(measure, ours) if who == PALACE else ""
            span = f"{number(seen.p10)}..{number(seen.p90)}"
            cells = (f"{measure.title}, {measure.unit}", who, number(seen.p50), span)
            rows.append(f"| {' | '.join(cells)} | {seen.count} | {ratio} | {goal} |")
    return "\n".join(rows)


def _verdict(measure: Measure, value: float) -> str:
    if measure.goal is None:
        return ""
    return f"{measure.goal_text}: {'met' if measure.met(value) else '**missed**'}"


def goals(samples: Samples) -> str:
    """Return which goals are met and which are not."""
    medians = {measure: samples.of(measure.key)[PALACE].p50 for measure in MEASURES if measure.goal}
    met = [m.title for m, value in medians.items() if m.met(value)]
    missed = [f"{m.title} ({number(v)} {m.unit})" for m, v in medians.items() if not m.met(v)]
    return f"Goals met: {', '.join(met) or 'none'}\nGoals missed: {', '.join(missed) or 'none'}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine(directory: Path) -> dict[str, object]:
    """Return what the figures depend on."""
    names = ("trio", "mempalace", "chromadb")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        **{name: importlib.metadata.version(name) for name in names},
        "load_average": f"{os.getloadavg()[0]:.2f}",
        "fsync_ms": fsync_ms(directory),
    }


def _processor() -> str:
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((row.split(": ")[1] for row in rows if row.startswith("model name")), "unknown")


def fsync_ms(directory: Path) -> str:
    """Time a write of 4 KiB made durable, on the device that the palaces lie on."""
    taken = []
    path = directory / "fsync"
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1e3)
    path.unlink()
    seen = spread(taken)
    return f"{seen.p50:.2f} ({seen.p10:.2f}..{seen.p90:.2f})"
