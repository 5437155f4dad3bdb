"""Results of runs of several seeds, as the tables in docs/ show them, out of the runs themselves.

    mstar-ray report loop out/digits-0 out/digits-1 out/digits-2 [--out loop.json]
    mstar-ray report prm --top2 out/top2-0 --random2 out/random2-0 --all out/all-0   (…)
    mstar-ray report dynamics out/digits-adaptive [--out FOLDER]
    mstar-ray report searches [--count N]      (simulated searches, without any run)

What is given are folders of finished runs (`<run.out>/<run.name>`, with the store inside). What is
read is checked, nothing is changed, and no engine is needed; `prm` needs the truth that lies beside
the digits data. Written is one row for each seed, in the order given; printed are a table in
markdown and the paired differences of all seeds together, with the
interval about questions and the one over seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.runtime.cli import command, say, write_json
from jobs.runtime.exploration_figures import draw_exploration, draw_simulated
from jobs.runtime.prepare import DIGITS
from jobs.runtime.stores import find_run
from pipeline.errors import BadConfig
from pipeline.reports.exploration.curves import cost_lines, dynamics_csv, exploration_report
from pipeline.reports.exploration.text import curve_table, decision_line, dynamics_table
from pipeline.reports.prm_seeds import (
    by_seed,
    free_table,
    gate_table,
    prm_pooled,
    prm_row,
    prm_table,
)
from pipeline.reports.seeds import (
    Finished,
    loop_pooled,
    loop_row,
    loop_table,
    markdown,
    pooled_lines,
    seed_lines,
)
from pipeline.reports.tables import percent
from pipeline.simulation.searches import simulated_searches
from pipeline.tasks.digits.build import read_truth


def loop(runs: Sequence[str | Path], out: Path) -> None:
    """Warm-up, control and final of runs of the self-evolving loop."""
    found = [finished(folder) for folder in runs]
    different_seeds(found)
    rows = [loop_row(run) for run in found]
    write(rows, out)
    print(markdown(loop_table(rows)))
    keys = {"final - warmup": "diff", "final - control": "control_diff"}
    print("\n".join(["", *pooled_lines(loop_pooled(found), len(found)), *seed_lines(rows, keys)]))


def prm(
    top2: Sequence[str], random2: Sequence[str], all_: Sequence[str], data: Path | None, out: Path
) -> None:
    """What the process reward model was worth: runs of the same seeds with and without it.

    data: the digits data with their truth; None: those beside the first run.
    """
    seeds = by_seed(*([finished(one) for one in part] for part in (top2, random2, all_)))
    truth = read_truth(data or Path(top2[0]).parent / "data" / DIGITS)
    rows = [prm_row(runs, truth) for runs in seeds]
    write(rows, out)
    print("\n\n".join(markdown(table(rows)) for table in (prm_table, free_table, gate_table)))
    keys = {
        "top2 - random2": "diff",
        "top2 - all": "all_diff",
        "within-question AUC, PRM - log-likelihood": "auc_within_minus_logprob",
        "closed, PRM - log-likelihood": "closed_minus_logprob",
    }
    print("\n".join(["", *pooled_lines(prm_pooled(seeds), len(seeds)), *seed_lines(rows, keys)]))


def dynamics(place: str, out: Path, run: str | None = None) -> None:
    """What a run, finished or not, has found out across temperatures: data, plots, tables, cost.

    run: its name, where the store holds several.

    Raises:
        BadConfig: there is no run, or none that has searched or evaluated dynamics yet.
    """
    stored = find_run(place, run)
    state = stored.state
    if not state.temperatures and not state.dynamics:
        raise BadConfig(
            f"run {stored.name!r} has neither searched for a temperature (explore.every) nor "
            "evaluated dynamics (dynamics.every) yet"
        )
    found = exploration_report(stored)
    write_json(out / "exploration.json", found)
    with (out / "dynamics.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(dynamics_csv(found))
    if state.temperatures:
        print(markdown(curve_table(state.temperatures)) + "\n")
        print("\n".join([*map(decision_line, state.temperatures), ""]))
    for one in state.dynamics:
        print(f"after {one['iteration']} iterations:\n\n{markdown(dynamics_table(one))}\n")
    print("\n".join([*cost_lines(found["cost"]), *found["saturation"]]))
    for path in [out / "exploration.json", out / "dynamics.csv", *draw_exploration(found, out)]:
        print(path)


def searches(count: int, out: Path) -> None:
    """What each rule does in simulated searches whose truth is known: data, a plot and a table."""
    found = simulated_searches(count)
    write_json(out / "simulated.json", found)
    draw_simulated(found, out / "simulated.png")
    for name, what in (("flat", "temperatures compared, none better"), ("gain", "true gain")):
        rows = [[str(x), percent(one["sound"]), percent(one["argmax"])]
                for x, one in found[name].items()]  # fmt: skip
        print(markdown([[what, "sound moves %", "argmax moves %"], *rows]) + "\n")
    print(out / "simulated.json", out / "simulated.png", sep="\n")


def finished(folder: str | Path, run: str | None = None) -> Finished:
    """The run in a folder, out of its store. run: its name, where the store holds several.

    Raises:
        BadConfig: there is no run, or none that is finished. StoreError: an object of it is corrupt
            or gone.
    """
    stored = find_run(str(folder), run)
    if stored.state.finished is None:
        raise BadConfig(f"{folder}: this run is not finished; start it again and it goes on")
    return Finished(stored.store, stored.name)


def different_seeds(runs: Sequence[Finished]) -> None:
    """Refuse one seed twice: it would count as more evidence than it is.

    Raises:
        BadConfig: naming the runs.
    """
    first: dict[int, str] = {}
    for run in runs:
        if run.seed in first:
            raise BadConfig(f"runs {first[run.seed]!r} and {run.name!r} both have seed {run.seed}")
        first[run.seed] = run.name


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The rows as a JSON list."""
    write_json(path, rows)
    say(f"{len(rows)} rows written to {path}")


if __name__ == "__main__":
    command("report")
