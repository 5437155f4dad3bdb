"""What a person sees: words for events, few plain lines, bars, TensorBoard points."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as RichConsole
from tensorboardX.proto.event_pb2 import Event

from jobs.runtime.console import PlainConsole, RichBars, make_console
from jobs.runtime.tensorboard import Board
from jobs.runtime.watchers import Watchers
from pipeline.refs import CheckpointRef, PolicyRef, ShardSet
from pipeline.reports.tables import (
    ITERATION_COLUMNS,
    comparison_rows,
    difference_lines,
    iteration_cells,
    iteration_table,
    text_table,
)
from pipeline.run.events import event as run_event
from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.events.sampling import SamplingClosed, ShardAccepted
from pipeline.run.events.training import JobDone
from pipeline.run.state import State
from pipeline.selection.coverage import Coverage
from pipeline.stages.workers import Progress
from pipeline.training.job import StepPoint
from tests.support.scripted import Clock

EVOLVE = ShardSet("evolve", 0)

COUNTS = Coverage(queries=4, samples=4, correct=4, unparsed=4, cut=4, leaning=4, kept=4)

ROW: dict[str, Any] = {
    "iteration": 0,
    "greedy": 0.5,
    "n": 100,
    "ci95": [0.4, 0.6],
    "pass_at": {"1": {"value": 0.5}, "16": {"value": 0.75}},
    "coverage": 0.9,
    "kept": 12,
    "correct": 0.3,
    "cut": 0.01,
    "unparsed": 0.02,
    "timeout": 0.0,
    "samples": 2000,
    "steps": 3,
    "loss": 0.25,
    "generate_tokens_per_s": 1234.5,
    "learn_tokens_per_s": None,
    "generate_s": 1.0,
    "learn_s": 2.0,
    "evaluate_s": 3.0,
    "choice": {
        "excluded": {},
        "kept": {"responses": 12, "tokens": 40.5, "steps": 3.0},
        "dropped": {"responses": 0, "tokens": None, "steps": None},
    },
}


def evaluated(version: str, split: str, result: dict[str, Any]) -> Evaluated:
    return Evaluated(
        version, split, "greedy", ShardSet(f"evaluate/{version}/{split}/greedy"), [], result
    )


def job_done(job: str, tokens: int, seconds: float) -> JobDone:
    checkpoint = CheckpointRef("checkpoints/c", "sha", job, 3, 3)
    policy = PolicyRef("policy-1", "p")
    return JobDone(job, checkpoint, policy, 3, 9, tokens, 0.5, seconds, key="learn-1")


def lines_of(event: run_event.Event, state: State) -> list[str]:
    lines: list[str] = []
    PlainConsole(lines.append).event(event, state)
    return lines


def test_events_in_words() -> None:
    state = State(policies={"warmup": PolicyRef("policy-1", "p")}, iterations=[ROW])
    sampled = SamplingClosed(EVOLVE, COUNTS, 4, 40)
    assert "4 correct, 4 unparsed, 4 truncated" in lines_of(sampled, state)[0]
    assert lines_of(replace(sampled, purpose=ShardSet("evaluate/p/test/greedy")), state) == []
    greedy = {"greedy": 0.5, "n": 100, "ci95": [0.4, 0.6], "timeouts": 0}
    line = "warmup on test: greedy 50.0 % [40.0, 60.0], n = 100"
    assert lines_of(evaluated("policy-1", "test", greedy), state) == [line]
    passes = {"pass_at": {"16": {"value": 0.75, "ci95": [0.7, 0.8]}}, "n": 9, "timeouts": 0}
    assert "Pass@16 75.0 %" in lines_of(evaluated("policy-1", "test", passes), state)[0]
    job = job_done("evolve/0", tokens=100, seconds=2.0)
    assert "loss 0.500, 50 tokens/s" in lines_of(job, state)[0]
    table = lines_of(IterationClosed(0, ROW), state)
    assert any("50.0 [40.0, 60.0]" in line and "75.0 (K=16)" in line for line in table)
    accepted = ShardAccepted(EVOLVE, 0, "k", "r", 4, 40, 1.0, "e", adopted=False)
    assert lines_of(accepted, state) == []


def test_plain_lines_are_few() -> None:
    clock = Clock()
    lines: list[str] = []
    console = PlainConsole(lines.append, clock)
    for second in range(60):
        clock.now = float(second)
        console.progress(Progress("evolve/0/generate", second, 60, "shards", "5 tokens"))
    assert len(lines) == 5
    assert lines[0] == "evolve/0/generate: 10 of 60 shards, 5 tokens"


def test_what_there_is_to_wait_for_is_said_the_first_time() -> None:
    lines: list[str] = []
    console = PlainConsole(lines.append, Clock())
    for job in ("evolve/0/learn", "evolve/1/learn"):
        for note in ("starting the learner", "comparing log-probabilities"):
            console.progress(Progress(job, 0, 0, "steps", note))
        console.progress(Progress(job, 1, 4, "steps", "loss 0.5"))
    assert lines == [
        "evolve/0/learn: 0 steps, starting the learner",
        "evolve/0/learn: 0 steps, comparing log-probabilities",
    ]


def test_bars_show_what_moves_and_keep_the_lines() -> None:
    out = io.StringIO()
    bars = RichBars(RichConsole(file=out, force_terminal=True, width=120))
    bars.progress(Progress("warmup/generate", 1, 4, "shards"))
    bars.progress(Progress("warmup/learn", 3, 0, "steps", "loss 0.5"))
    bars.say("a line [that] is kept")
    bars.close()
    assert "a line [that] is kept" in out.getvalue()


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_iteration_table_fits_the_terminal(width: int) -> None:
    out = io.StringIO()
    bars = RichBars(RichConsole(file=out, width=width))
    bars.event(IterationClosed(0, ROW), State(iterations=[ROW]))
    bars.close()
    assert "greedy" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_auto_is_plain_without_a_terminal() -> None:
    assert isinstance(make_console("auto"), PlainConsole)
    rich = make_console("rich")
    assert isinstance(rich, RichBars)
    rich.close()


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What lies on disk: by name, step and value."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        while len(data) >= 12 and len(data) >= 16 + int.from_bytes(data[:8], "little"):
            # A record: its length, a checksum, the event, a checksum.
            end = 12 + int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12:end]), data[end + 4 :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_gets_a_point_for_each_iteration_job_and_evaluation(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    lines: list[str] = []
    both = Watchers(PlainConsole(lines.append), board)
    policies = {
        name: PolicyRef(f"policy-{name}", name) for name in ("base", "warmup/1", "evolve/0")
    }
    policies["warmup"] = policies["warmup/1"]
    state = State(iterations=[ROW], policies=policies)
    greedy = {"greedy": 0.5, "n": 100, "ci95": [0.4, 0.6], "timeouts": 0}
    pass_at = {"1": {"value": 0.5}, "4": {"value": 0.75, "ci95": [0.7, 0.8]}}
    passes = {"pass_at": pass_at, "n": 9, "timeouts": 0}
    events: list[run_event.Event] = [
        IterationClosed(0, ROW),
        job_done("warmup/1", tokens=1, seconds=1.0),
        evaluated("policy-base", "test", greedy),
        evaluated("policy-warmup/1", "test", greedy),
        evaluated("policy-evolve/0", "ood", passes),
        evaluated("policy-other", "ood", greedy),
    ]
    for event in events:
        both.event(event, state)
    curve = tuple(StepPoint(n, 1.0 / n, 0.25, 1e-3) for n in (5, 6))
    both.progress(Progress("evolve/1/learn", 6, 6, "steps", curve=curve))
    # Before it is closed: a run is looked at while it works, and may be killed.
    end = time.monotonic() + 60.0
    while "policy-other/ood/greedy" not in (found := points(tmp_path / "board")):
        assert time.monotonic() < end
        time.sleep(0.05)
    both.close()
    assert found["iteration/greedy"] == [(0, 0.5)]
    assert found["iteration/pass_at_16"] == [(0, 0.75)]
    assert found["iteration/kept_tokens"] == [(0, 40.5)]
    assert found["warmup/loss"] == [(1, 0.5)]
    assert found["evolve/step/grad_norm"] == [(5, 0.25), (6, 0.25)]
    assert [step for step, _ in found["evolve/step/loss"]] == [5, 6]
    assert set(found) >= {"evolve/step/learning_rate"}
    assert found["base/test/greedy"] == [(0, 0.5)]
    assert found["warmup/test/greedy"] == [(1, 0.5)]
    assert found["evolve/ood/pass_at_4"] == [(0, 0.75)]
    assert found["policy-other/ood/greedy"] == [(0, 0.5)]
    assert "evolve/ood/greedy" not in found
    assert lines


def test_cells_match_the_columns() -> None:
    assert len(iteration_cells(ROW)) == len(ITERATION_COLUMNS)
    bare = {**ROW, "pass_at": {}, "loss": None, "greedy": None, "ci95": None}
    assert len(iteration_cells(bare)) == len(ITERATION_COLUMNS)
    table = text_table([ITERATION_COLUMNS, iteration_cells(ROW), iteration_cells(bare)])
    assert len(table.splitlines()) == 4


def test_answers_that_were_not_graded_in_time_are_shown_where_there_are_some() -> None:
    late = {**ROW, "timeout": 3 / 2000}
    closed = IterationClosed(0, late)
    without = lines_of(closed, State(iterations=[ROW, ROW]))
    assert not any("timed out" in line for line in without)
    table = lines_of(closed, State(iterations=[ROW, late]))
    header, first, second = table[1], *table[3:5]
    assert header.endswith("  timed out")
    assert (first.split()[-1], second.split()[-1]) == ("0", "3")
    assert iteration_table([ROW]) == [list(ITERATION_COLUMNS), iteration_cells(ROW)]

    sampled = SamplingClosed(EVOLVE, COUNTS, 4, 40)
    assert "in time" not in lines_of(sampled, State())[0]
    sampled = replace(sampled, coverage=replace(COUNTS, timeout=2))
    assert "4 unparsed, 2 not graded in time, 4 truncated" in lines_of(sampled, State())[0]

    result = {"greedy": 0.5, "n": 9, "ci95": [0.4, 0.6], "timeouts": 1}
    assert lines_of(evaluated("p", "test", result), State())[0].endswith(
        "n = 9, 1 not graded in time"
    )


def test_the_final_comparison_has_every_policy_and_family() -> None:
    def result(greedy: float) -> dict[str, Any]:
        part = {"greedy": greedy, "n": 10, "ci95": [0.0, 1.0], "chance": 0.1}
        return {"test": {**part, "families": {"digits/sum": part}}}

    found: dict[str, Any] = {
        "base": result(0.1),
        "warmup": result(0.4),
        "final": result(0.7),
        "comparisons": {
            "final - warmup": {
                "test": {"diff": 0.3, "n": 10, "ci95": [0.1, 0.5], "families": {"digits/sum": 0.3}}
            }
        },
    }
    rows = comparison_rows(found, ["test", "ood"])
    assert rows[0] == ["split", "family", "n", "chance", "base", "warmup", "final"]
    assert rows[2][:2] == ["test", "digits/sum"]
    assert rows[2][4:] == ["10.0", "40.0", "70.0"]
    assert difference_lines(found) == [
        "final - warmup on test: 30.0 points [10.0, 50.0], paired by image, n = 10; "
        "1 of 1 families rise"
    ]
