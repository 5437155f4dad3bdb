"""Searches for a temperature decided again on what a run stored, with other settings and no engine.

By the other mode, by Pass@K or Reward-Pass@2, with fewer samples, on part of the grid. What is in
force before a search stays what it was in the run: its samples are of the policy that this made.

What always holds: with the run's own settings exactly the run's own decisions come out, by the same
function (`pipeline.stages.explore.decision`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.schema import Explore
from pipeline.config.selecting import RankedBy
from pipeline.errors import BadConfig
from pipeline.phases.explore import ranked_by, search_task, temperature_chosen
from pipeline.phases.order import ready_steps
from pipeline.phases.steps import ChooseTemperature
from pipeline.reports.tables import percent
from pipeline.run.events.exploration import TemperatureChosen
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.run.stored import StoredRun
from pipeline.stages.evaluate import Read
from pipeline.stages.explore import AtTemperature, SearchTask, decision


@dataclass(frozen=True)
class StoredSearch:
    """A search of a run: what was asked, and the stored samples that it was decided from."""

    step: ChooseTemperature
    task: SearchTask


def stored_searches(run: StoredRun) -> list[StoredSearch]:
    """The searches that a run has decided, in order."""
    state, found = State(), []
    for event in run.events:
        if isinstance(event, TemperatureChosen):
            (step,) = (
                step for step in ready_steps(state, run.spec) if isinstance(step, ChooseTemperature)
            )
            found.append(StoredSearch(step, search_task(step, state)))
        state.apply(event)
    return found


def decided(
    search: StoredSearch, name: str, state: State, spec: RunSpec, read: Read
) -> dict[str, Any]:
    """What a search decides by a configuration, as its event would hold it.

    name: what the configuration is called; state: the run's, which has its process reward model.

    Raises:
        BadConfig: it asks for what the run did not store.
    """
    kept, rank = _sampled(search, name, spec.config.explore), _rank(search, name, state, spec)
    changes: dict[str, Any] = {
        "figure": spec.config.explore.by,
        "mode": spec.config.explore.mode,
        "ranked_by": rank,
        "samples": spec.config.explore.samples,
    }
    asked = replace(search.task, **changes, seed=spec.config.run.seed, sampled=kept)
    step = replace(search.step, **changes)
    return temperature_chosen(step, decision(asked, spec, read)).compared()


def _sampled(search: StoredSearch, name: str, explore: Explore) -> tuple[AtTemperature, ...]:
    """What a search stored at the temperatures that a configuration compares.

    Raises:
        BadConfig: it asks for other temperatures, or more samples, than the run stored.
    """
    task = search.task
    stored = [one.temperature for one in task.sampled]
    if explore.samples > task.samples:
        raise BadConfig(
            f"{name}: explore.samples = {explore.samples}, and the search before iteration "
            f"{search.step.iteration} stored {task.samples} of each question"
        )
    grid = {*explore.grid, task.today}
    kept = tuple(one for one in task.sampled if one.temperature in grid)
    # A narrowed search sampled part of its grid; any other one, all of it.
    missing = [t for t in sorted(grid - set(stored)) if explore.nearest is None or len(kept) < 2]
    if missing:
        raise BadConfig(
            f"{name}: the search before iteration {search.step.iteration} sampled "
            f"T = {_temperatures(stored)}, not {_temperatures(missing)}"
        )
    return kept


def _temperatures(some: Sequence[float]) -> str:
    return ", ".join(f"{one:g}" for one in some)


def _rank(search: StoredSearch, name: str, state: State, spec: RunSpec) -> RankedBy | None:
    if spec.config.explore.by == "pass_at_k":
        return None
    rank = ranked_by(state, spec)
    scored = all(shard.scores for one in search.task.sampled for shard in one.shards)
    if rank == "prm" and not scored:
        raise BadConfig(
            f"{name}: Reward-Pass@2 by the process reward model needs scores, and the run scored "
            f"nothing of the search before iteration {search.step.iteration}: rank by what it "
            "stored (select.by = logprob or length)"
        )
    if rank is None:
        raise BadConfig(f"{name}: nothing ranks; add select.by=logprob, or explore.by=pass_at_k")
    return rank


def searches_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each setting: the temperature that each search chooses, the figure
    there, and its gain over the one in force where it moves."""
    table = [["setting", *(f"before iteration {one['iteration']}" for one in rows[0]["searches"])]]
    for row in rows:
        cells = []
        for one in row["searches"]:
            chosen = f"{one['temperature']:g}"
            cell = f"T = {chosen} ({percent(one['curve'][chosen]['value'])} %"
            if chosen in one["gains"]:
                cell += f", {100 * one['gains'][chosen]['gain']:+.1f}"
            cells.append(f"{cell})")
        table.append([row["setting"], *cells])
    return table
