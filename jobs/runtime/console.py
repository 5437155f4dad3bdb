"""What a person sees of a run: bars on a terminal, plain lines anywhere else, TensorBoard beside.

Everything here only looks on. Plain lines are complete (nothing is overwritten) and few: at most
one every `EVERY_S` seconds of a stage that has nothing else to say.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from pipeline.reports.exploration.text import decision_line, dynamics_table, saturation_notices
from pipeline.reports.tables import interval, iteration_table, percent, text_table
from pipeline.reports.warnings import sampling_warnings
from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.event import Event
from pipeline.run.events.exploration import DynamicsEvaluated, TemperatureChosen
from pipeline.run.events.lifecycle import (
    DriverStarted,
    IterationClosed,
    PolicyPublished,
    PoolResized,
    RunCreated,
)
from pipeline.run.events.sampling import SamplingClosed
from pipeline.run.events.training import JobDone, WarmupChosen
from pipeline.run.state import State
from pipeline.stages.workers import Progress as Moved
from pipeline.stages.workers import Watch

EVERY_S = 10.0


def event_lines(event: Event, state: State, width: int | None = None) -> list[str]:
    """What an event means, in words; nothing for the events of single shards.

    width: characters that a line of a table may have; None: any number.
    """
    match event:
        case RunCreated():
            lines = [f"a new run, config {event.config_hash}"]
        case DriverStarted():
            done = len(state.iterations)
            lines = [f"going on where the run stopped: {done} iterations are done"]
        case PolicyPublished():
            lines = [f"{event.name} is {event.version}"]
        case PoolResized():
            lines = [f"{event.pool}s: {event.before} -> {event.after} ({event.reason})"]
        case SamplingClosed():
            lines = _sampling_lines(event)
        case Evaluated():
            lines = [_evaluated_line(event, state)]
        case JobDone():
            lines = [_job_line(event)]
        case WarmupChosen():
            lines = [f"the warm-up policy is that of {event.name}"]
        case TemperatureChosen():
            lines = [decision_line(event.compared())]
        case DynamicsEvaluated():
            table = text_table(dynamics_table(event.compared())).splitlines()
            of = f"what the policy before iteration {event.iteration} can do, on validation:"
            lines = ["", of, *table, *map(warning, saturation_notices(state)), ""]
        case IterationClosed():
            lines = ["", *text_table(iteration_table(state.iterations, width)).splitlines(), ""]
        case _:
            lines = []
    return lines


def _job_line(event: JobDone) -> str:
    speed = event.tokens / event.seconds if event.seconds else 0.0
    return (
        f"{event.job} trained: {event.steps} steps on {event.rows} responses, "
        f"loss {event.loss:.3f}, {speed:.0f} tokens/s"
    )


def warning(text: str) -> str:
    """A warning as a line."""
    return f"warning: {text}"


def _sampling_lines(event: SamplingClosed) -> list[str]:
    counts = event.coverage
    if event.purpose.of_evaluation:
        return []
    late = f", {counts.timeout} not graded in time" if counts.timeout else ""
    share = percent(counts.leaning / max(1, counts.leaning + counts.correct))
    leaning = f", {counts.leaning} more give the gold answer away ({share} % of these)"
    leaning = leaning if counts.leaning else ""
    return [
        f"{event.purpose} sampled: {counts.samples} responses to {counts.queries} queries, "
        f"{counts.correct} correct, {counts.unparsed} unparsed{late}, {counts.cut} truncated"
        f"{leaning}, {counts.kept} kept{stated_in(event.shapes)}",
        *_pseudo_lines(event),
        *map(warning, sampling_warnings(event.purpose, counts.to_dict())),
    ]


def _pseudo_lines(event: SamplingClosed) -> list[str]:
    """Of unlabelled queries: their pseudo-labels and, where it is known, how many are correct."""
    counts = event.pseudo
    if not counts:
        return []
    rate = percent(counts["correct"] / counts["known"]) if counts["known"] else ""
    known = f"; {rate} % of the {counts['known']} whose answer is known are correct" if rate else ""
    return [
        f"{event.purpose}: {counts['taken']} of {counts['queries']} queries have a pseudo-label"
        f"{known}"
    ]


def stated_in(shapes: Mapping[str, int]) -> str:
    """How many answers were stated in another shape than ours, in words; "" for none."""
    if not shapes:
        return ""
    counts = ", ".join(f"{count} {shape}" for shape, count in sorted(shapes.items()))
    return f"; answers stated otherwise than under '# Answer': {counts}"


def _evaluated_line(event: Evaluated, state: State) -> str:
    result, name = event.result, series_names(event, state)[-1]
    late = f", {result['timeouts']} not graded in time" if result["timeouts"] else ""
    if "greedy" in result:
        return (
            f"{name} on {event.split}: greedy {percent(result['greedy'])} % "
            f"{interval(result['ci95'])}, n = {result['n']}{late}"
        )
    k, best = list(result["pass_at"].items())[-1]
    return (
        f"{name} on {event.split}: Pass@{k} {percent(best['value'])} % "
        f"{interval(best['ci95'])}, n = {result['n']}{late}"
    )


def series_names(event: Evaluated, state: State) -> list[str]:
    """What the measured policy is called, oldest name first."""
    names = [name for name, ref in state.policies.items() if ref.version == event.version]
    return names or [event.version]


class PlainConsole(Watch):
    """Whole lines, for logs."""

    def __init__(
        self,
        write: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._clock = clock
        self._last = clock()
        self._waits: set[str] = set()

    def event(self, event: Event, state: State) -> None:
        for line in event_lines(event, state):
            self.say(line)

    def progress(self, progress: Moved) -> None:
        # What there is to wait for is said at once the first time, and later as all else is.
        waits = progress.done == progress.total == 0
        new_wait = waits and progress.note not in self._waits | {""}
        if new_wait or self._clock() - self._last >= EVERY_S:
            self._waits.add(progress.note)
            of = f" of {progress.total}" if progress.total else ""
            note = f", {progress.note}" if progress.note else ""
            self.say(f"{progress.stage}: {progress.done}{of} {progress.unit}{note}")

    def say(self, text: str) -> None:
        self._last = self._clock()
        self._write(text)


class RichBars(Watch):
    """One bar for what is going on, lines above it for what happened."""

    def __init__(self, console: RichConsole | None = None) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[note]}"),
            TimeElapsedColumn(),
            console=console or RichConsole(),
            transient=True,
        )
        self._bars.start()
        self._stage = ""
        self._task: TaskID | None = None

    def event(self, event: Event, state: State) -> None:
        for line in event_lines(event, state, self._bars.console.width):
            self.say(line)

    def progress(self, progress: Moved) -> None:
        name = f"{progress.stage} {progress.unit}"
        if name != self._stage or self._task is None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._stage = name
            self._task = self._bars.add_task(progress.stage, unit=progress.unit, note="")
        total = progress.total or None
        self._bars.update(self._task, completed=progress.done, total=total, note=progress.note)

    def say(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._bars.stop()


def make_console(kind: str) -> Watch:
    """`rich`, `plain`, or `auto`: bars when standard output is a terminal."""
    rich = kind == "rich" or (kind == "auto" and sys.stdout.isatty())
    return RichBars() if rich else PlainConsole()
