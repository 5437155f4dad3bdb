"""A plan in lines of text, for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.config.schema import Config
from pipeline.plan.forecast import Forecast, Stage, gpu_s, gpus_held, summed, wall_s
from pipeline.plan.measured import MeasuredRun
from pipeline.plan.memory import Need, gib, parts_text
from pipeline.reports.tables import text_table

HOUR = 3600.0


def held_gpus(config: Config, *, turns: bool) -> float:
    """GPUs that a run holds: of all roles side by side, or of the largest that takes its turn."""
    held = gpus_held(config)
    serving = held["engines"] + held["scorers"]
    return max(serving, held["ranks"]) if turns else serving + held["ranks"]


def amount(value: float) -> str:
    """A count in at most five characters: 950, 12.3k, 4.56M, 1.2G."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def _hours(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / HOUR:.2f}"


def stage_table(plan: Forecast, usd_h: float | None) -> list[list[str]]:
    """A header and a row for each stage, and their sum.

    usd_h: price of one GPU and hour; None: no cost is shown.
    """
    config, gpus = plan.config, held_gpus(plan.config, turns=False)
    header = ["stage", "samples", "tokens", "scored", "trained rows", "steps", "written B",
              "kept B", "requests", "hours"]  # fmt: skip
    header += ["GPU-h used", "GPU-h held"] if gpus else []
    header += ["USD"] if gpus and usd_h is not None else []
    stages = plan.stages
    rows = [header]
    for stage in [*stages, summed("total", stages)]:
        parts = stages if stage.name == "total" else [stage]
        wall = _sum([wall_s(one, config) for one in parts])
        cells = [stage.name, *(amount(value) for value in _counts(stage)), _hours(wall)]
        held = None if wall is None else wall * gpus
        cells += [_hours(_sum([gpu_s(one, config) for one in parts])), _hours(held)] if gpus else []
        if gpus and usd_h is not None:
            cells.append("?" if held is None else f"{held / HOUR * usd_h:,.0f}")
        rows.append(cells)
    return rows


def _counts(stage: Stage) -> tuple[float, ...]:
    return (stage.samples, stage.tokens, stage.scored, stage.rows, stage.steps, stage.written,
            stage.kept, stage.requests)  # fmt: skip


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def memory_lines(needs: Sequence[Need], gpu_name: str) -> Iterator[str]:
    """What every role needs of its GPUs, and what there is to know."""
    for need in needs:
        yield (
            f"{need.role} on {gpu_name}: {gib(need.total)} of {gib(need.room)} GiB "
            f"({parts_text(need)})"
        )
        yield from (f"  {note}" for note in need.notes)


def gpu_line(config: Config) -> str:
    """How many GPUs the roles hold."""
    held = ", ".join(f"{count:g} for {role}" for role, count in gpus_held(config).items() if count)
    both, turns = held_gpus(config, turns=False), held_gpus(config, turns=True)
    return f"GPUs: {held}: {both:g} side by side; {turns:g} where engines and ranks take turns"


def plan_lines(plan: Forecast, needs: Sequence[Need], usd_h: float | None) -> Iterator[str]:
    """All of a plan: where its rates are from, stages, GPUs, memory."""
    yield f"model: {plan.shape.name}, {plan.shape.parameters / 1e9:.3g} G parameters, from " + (
        plan.shape.source
    )
    sizes = plan.sizes
    tests = " + ".join(map(str, sizes.tests)) or "none"
    yield (
        f"queries: {sizes.pool} to train on, {sizes.validation} to validate, {tests} to test; "
        f"{sizes.images} images"
    )
    yield f"rates: {plan.rates.source}"
    yield "\n" + text_table(stage_table(plan, usd_h))
    if plan.gpu is not None:
        yield "\n" + gpu_line(plan.config)
        yield from memory_lines(needs, plan.gpu.name)
    largest = 2 * plan.policy_bytes
    yield f"a node's cache holds two policies at least: {gib(largest)} GiB of disk"


def beside_lines(plan: Forecast, run: MeasuredRun) -> Iterator[str]:
    """The plan beside what the measured run came to, stage by stage."""
    rows = [["stage", "samples", "the run's", "tokens", "the run's"]]
    done = run.samples_by_stage()
    for stage in plan.stages:
        if stage.samples and stage.name in done:
            samples, tokens = done[stage.name]
            cells = (stage.samples, samples, stage.tokens, tokens)
            rows.append([stage.name, *(f"{value:.0f}" for value in cells)])
    yield text_table(rows)
    total = summed("total", plan.stages)
    yield f"bytes in the store: {total.kept:,.0f} planned, {sum(run.stored.values()):,} there"


def comparison_table(plans: Sequence[tuple[str, Forecast]], usd_h: float | None) -> list[list[str]]:
    """Plans beside each other by what differs in them: hours, GPUs, GPU-hours, cost."""
    header = ["settings", "GPUs", "hours", "GPU-h used", "GPU-h held", "used %"]
    rows = [header + (["USD"] if usd_h is not None else [])]
    for name, plan in plans:
        wall = _sum([wall_s(stage, plan.config) for stage in plan.stages])
        used = _sum([gpu_s(stage, plan.config) for stage in plan.stages])
        gpus = held_gpus(plan.config, turns=False)
        held = None if wall is None else wall * gpus
        share = "?" if used is None or not held else f"{100 * used / held:.0f}"
        cells = [name, f"{gpus:g}", _hours(wall), _hours(used), _hours(held), share]
        if usd_h is not None:
            cells.append("?" if held is None else f"{held / HOUR * usd_h:,.0f}")
        rows.append(cells)
    return rows


def plan_json(plan: Forecast, needs: Sequence[Need], run: MeasuredRun | None) -> dict[str, Any]:
    """A plan as JSON, with what it was measured from."""
    return {
        "model": asdict(plan.shape),
        "sizes": asdict(plan.sizes),
        "rates": asdict(plan.rates),
        "gpu": None if plan.gpu is None else plan.gpu.name,
        "stages": [asdict(stage) for stage in plan.stages],
        "memory": [{"role": one.role, "parts": dict(one.parts), "room": one.room} for one in needs],
        "measured": None if run is None else run.to_dict(),
    }
