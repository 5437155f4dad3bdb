"""The record that every bench gives, how two things are compared, and how it is shown.

Two things are measured by turns, A B, B A, A B, …, so that what the machine does besides falls on
both; the ratio is taken within each turn, and its median and range are what is reported. A first
turn is not counted. Starting up is measured apart.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.config.schema import Config
from pipeline.reports.tables import text_table

ROUNDS = 5


@dataclass(frozen=True)
class Options:
    """How a bench is to be run.

    config: the recipe whose model, data and settings are used. folder: where it may write what it
    does not keep. rounds: turns that count. small: sizes for trying the bench itself out; its
    figures then mean nothing. row: which row of the table is measured.
    """

    config: Config
    folder: Path
    rounds: int = ROUNDS
    small: bool = False
    say: Callable[[str], None] = print
    row: str = ""


@dataclass(frozen=True)
class Result:
    """What a bench found.

    what: in a few words. unit: of `values`. values: by label, one of each counted turn, in the
    order of the turns. compared: the two labels of the ratio (first over second), if there is one.
    bar: what the ratio has to reach, or to stay under where `better` is "lower". start_s: seconds
    until each was ready. peak_mib: the most that the job and all it started held (PSS), without
    what is only there to be compared with. too_little: of what too little was measured for the bar
    to be reached, "" where it was enough. notes: whatever else explains the figures.
    """

    name: str
    what: str
    unit: str
    values: Mapping[str, Sequence[float]]
    compared: tuple[str, str] | None = None
    bar: float | None = None
    better: Literal["higher", "lower"] = "higher"
    start_s: Mapping[str, float] = field(default_factory=dict)
    peak_mib: float | None = None
    too_little: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """First over second, turn by turn."""
        if self.compared is None:
            return []
        ours, theirs = (self.values[label] for label in self.compared)
        return [a / b for a, b in zip(ours, theirs, strict=True)]

    @property
    def reached(self) -> bool | None:
        """Whether the median ratio reaches the bar, over enough work; None without a bar."""
        if self.bar is None or not self.ratios:
            return None
        if self.too_little:
            return False
        ratio = statistics.median(self.ratios)
        return ratio >= self.bar if self.better == "higher" else ratio <= self.bar

    def to_dict(self) -> dict[str, Any]:
        """Plain form, with medians and ranges spelled out."""
        return asdict(self) | {
            "median": {label: statistics.median(v) for label, v in self.values.items()},
            "ratio": spread(self.ratios) if self.ratios else None,
            "reached": self.reached,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def by_turns(rounds: int, **measured: Callable[[int], float]) -> dict[str, list[float]]:
    """Measure these by turns, each called with the number of the turn; the order turns around every
    time. Turn 0 is not counted."""
    values: dict[str, list[float]] = {label: [] for label in measured}
    for turn in range(rounds + 1):
        labels = list(measured) if turn % 2 else list(measured)[::-1]
        for label in labels:
            value = measured[label](turn)
            if turn:
                values[label].append(value)
    return values


def machine() -> dict[str, Any]:
    """Where the figures were taken. load: processes that ran or waited to, over the last minute."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }


def table(results: Sequence[Result]) -> str:
    """One line for each."""
    header = ("bench", "measured", "ratio", "range", "bar", "", "start", "peak")
    return text_table([header, *(_cells(result) for result in results)])


def _cells(result: Result) -> tuple[str, ...]:
    medians = [
        f"{label} {statistics.median(values):.4g}" for label, values in result.values.items()
    ]
    ratios = result.ratios
    sign = "≥" if result.better == "higher" else "≤"
    words = {None: "", True: "reached", False: "NOT REACHED"}
    return (
        result.name,
        f"{', '.join(medians)} {result.unit}",
        f"{statistics.median(ratios):.3f}" if ratios else "",
        f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios else "",
        f"{sign} {result.bar:g}" if result.bar is not None else "",
        result.too_little or words[result.reached],
        ", ".join(f"{label} {seconds:.0f} s" for label, seconds in result.start_s.items()),
        f"{result.peak_mib:.0f} MiB" if result.peak_mib is not None else "",
    )
