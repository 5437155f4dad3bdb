"""How well a policy answers: greedy accuracy and Pass@K on any data, votes where there is a PRM.

    mstar-ray evaluate --recipe digits --policy final --split test
    mstar-ray evaluate out/mine --policy evolve/2 --data other/questions.jsonl
    mstar-ray evaluate --recipe own --policy my/model --data my/questions.jsonl      (without a run)

Samples the policy (or takes the samples that are in the store already), grades all of them, and
writes <out>/<run>/evaluate/evaluation-<policy>-<split>.json. For a policy of a run that has a
process reward model it also writes the paper's Figure 2, figure2-<policy>-<split>.json with greedy,
best-of-N, PRM-weighted and majority voting for N = 1 … K, and two plots. The run's ledger is read,
never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.generation.engine_settings import engine_settings
from jobs.run import state_so_far
from jobs.runtime.cli import command, did_you_mean, write_json
from jobs.runtime.console import warning
from jobs.runtime.evaluation import Through
from jobs.runtime.figures import draw_scores, draw_votes
from jobs.runtime.prepare import (
    data_path,
    images_of,
    load_data,
    out_folder,
    reading,
    upload_images,
)
from jobs.runtime.stored_outputs import StoredOutputs
from jobs.runtime.world import REAL, Parts, check_here, run_store
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset, load_dataset
from pipeline.datasets.images import Limits
from pipeline.datasets.published import AUTO
from pipeline.errors import BadConfig, download_hint
from pipeline.generation.slices import labelled
from pipeline.grading.grade import grader_version
from pipeline.phases.prm import NAME
from pipeline.query import Query
from pipeline.refs import PolicyRef
from pipeline.reports.comparison import named_policies
from pipeline.reports.tables import interval, percent, text_table
from pipeline.reports.voting import figure_2
from pipeline.reports.warnings import evaluation_warnings
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.stages.score import Scoring
from pipeline.storage.models import check_trusted, publish_folder
from pipeline.storage.store import Store


def evaluate(
    config: Config,
    name: str = "final",
    split: str = "",
    *,
    samples: int,
    temperature: float,
    data: str | None = None,
    parts: Parts = REAL,
) -> dict[str, Any]:
    """Sample, grade, (with a PRM) score, sum up and draw; what the JSON file holds.

    name: a policy of the run, or a model folder. split: of the data; empty: the first test split
    (validation where there is none), or all of `data`. samples: K; 0: greedy only. data: other data
    than the run's.

    Raises:
        BadConfig: the run has no such policy, and no folder is there; the data has no such split.
    """
    check_here(config)
    store = run_store(config, print)
    policy = chosen(state_so_far(config, store), name, config, store)
    config = policy.config
    split, dataset, queries = questions(config, split, data)
    identity = engine_settings(config).identity()
    grader = grader_version(config.prompt.shapes)
    program = RunSpec(config, {split: tuple(queries)}, identity, grader)
    parts.check_models(config)
    parts.check_queries(program, dataset, print, warmup=False)
    upload_images(store, dataset, images_of(program))
    reference = policy.reference or _published(store, config)
    scoring = None if policy.prm is None else Scoring(policy.prm, "all", config.prm.aggregate)
    with parts.workers(program, store, dataset, print) as workers:
        through = Through(program, store, workers, scoring)
        found = figures(through, name, reference, samples, temperature)
    warnings = evaluation_warnings(name, split, queries, found["greedy"])
    found |= {"data": data or config.data.path, "warnings": warnings}
    write(found, out_folder(config) / "evaluate")
    StoredOutputs(out_folder(config), store, config.run.name).copy()
    return found


def _published(store: Store, config: Config) -> PolicyRef:
    return publish_folder(store, Path(config.policy.path), settings=config.model_settings)


def figures(
    through: Through, name: str, policy: PolicyRef, samples: int, temperature: float
) -> dict[str, Any]:
    """What is measured of a policy on the one split of `through`, and which policy that is."""
    (split,) = through.program.splits
    version = {"name": name, "version": policy.version}
    about = {"policy": version, "split": split, "temperature": temperature}
    found: dict[str, Any] = about | through.measured(policy, split, samples, temperature)
    if through.scoring is not None and samples:
        groups = through.groups(policy, split, samples, temperature)
        prm, aggregate = through.scoring.prm.version, through.scoring.aggregate
        found["figure_2"] = figure_2(groups) | about | {"prm": prm, "aggregate": aggregate}
    return found


@dataclass(frozen=True)
class Chosen:
    """The policy that is meant: of the run (`reference`, and its PRM), or the folder that `config`
    names."""

    config: Config
    reference: PolicyRef | None = None
    prm: PolicyRef | None = None


def chosen(state: State, name: str, config: Config, store: Store) -> Chosen:
    """The policy of the run that has this name, else the model folder that is there.

    Raises:
        BadConfig: neither is there, saying which policies the run has.
        BadModel: its own code is run, and `config` does not let it.
    """
    policies = {**state.policies, **named_policies(state)}
    prm = policies.pop(NAME, None) if config.select.reward == "prm" else None
    if name in policies:
        stored = filter(None, (policies[name], prm))
        check_trusted(store, stored, config.policy.trust_remote_code)
        return Chosen(config if prm else _without_prm(config), policies[name], prm)
    if Path(name).is_dir():
        policy = config.policy.model_copy(update={"path": name})
        warmup = config.warmup.model_copy(update={"checkpoint": None})
        changed = config.model_copy(update={"policy": policy, "warmup": warmup})
        return Chosen(_without_prm(changed))
    if state.config is None:
        raise BadConfig(
            f"--policy {name}: {store.url} holds no run {config.run.name!r}, and there is no such "
            f"model folder{download_hint(name, 'model', '--policy')}"
        )
    raise BadConfig(
        f"--policy {name}: no such model folder, and run {config.run.name!r} has no such policy"
        f"{did_you_mean(name, policies)} It has {', '.join(sorted(policies))}"
    )


def _without_prm(config: Config) -> Config:
    """The same without scorers, which nothing would be asked of."""
    select = config.select.model_copy(update={"reward": "binary", "rule": "all_correct"})
    return config.model_copy(update={"select": select})


def questions(config: Config, split: str, data: str | None) -> tuple[str, Dataset, Sequence[Query]]:
    """What is asked: the split's name ("all" for all of `data`), the data set, the queries.

    Raises:
        BadConfig: the data has no such split, or no answer to compare with.
    """
    if data is None:
        dataset = load_data(config, print)
        spec = RunSpec.of(config, dataset, engine_settings(config).identity(), "")
        splits, tests = spec.splits, (*spec.test_splits, config.data.validation)
        split = split or tests[0]  # never the questions that chose the policy, if there are others
        if split not in splits:
            raise BadConfig(f"--split {split}: the run uses {', '.join(splits)}")
        return split, dataset, splits[split]
    other = config.model_copy(update={"data": config.data.model_copy(update={"path": data})})
    limits = Limits(max_pixels=config.data.max_image_pixels)
    how = replace(reading(config), format=AUTO)
    dataset = load_dataset(data_path(other, print), how, limits=limits)
    queries = labelled(dataset.split(split) if split else dataset.queries)
    if not queries:
        names = ", ".join(sorted({query.split for query in dataset.queries}))
        raise BadConfig(f"--split {split}: {data} has no labelled query there; it has {names}")
    return split or "all", dataset, queries


def write(found: dict[str, Any], folder: Path) -> None:
    """The figures as files, and in words on the terminal."""
    policy = found["policy"]["name"].strip("/").replace("/", "-")
    name = f"{policy}-{found['split']}"
    if found["data"] != "digits":
        name += f"-{Path(found['data']).stem}"
    if "figure_2" in found:
        write_figure_2(found["figure_2"], folder, f"{policy}-{found['split']}")
    path = folder / f"evaluation-{name}.json"
    write_json(path, found)
    for line in [*lines(found), *map(warning, found["warnings"])]:
        print(line)
    print(path)


def lines(found: dict[str, Any]) -> list[str]:
    """Accuracy of the split and its families in percent, with 95 % intervals."""
    greedy, sampled = found["greedy"], found["sampled"]
    passes = list(sampled["pass_at"].items())[-1] if sampled else None
    rows = [["family", "n", "chance", "greedy", "unreadable"]]
    rows += [
        [
            family,
            str(one["n"]),
            percent(one["chance"]),
            f"{percent(one['greedy'])} {interval(one['ci95'])}",
            percent(one["unparsed"]),
        ]
        for family, one in {"all": greedy, **greedy["families"]}.items()
    ]
    shown = [f"{found['policy']['name']} on {found['split']} of {found['data']}, in percent:"]
    shown += text_table(rows).splitlines()
    if passes is not None:
        k, estimate = passes
        shown.append(f"Pass@{k} at T = {found['temperature']:g}: {_percent(estimate)}")
    return shown


def write_figure_2(found: dict[str, Any], folder: Path, name: str) -> None:
    """The paper's Figure 2: its numbers, the two plots, and the table on the terminal."""
    path = folder / f"figure2-{name}.json"
    write_json(path, found)
    draw_votes(found, folder / f"votes-{name}.png")
    draw_scores(found, folder / f"scores-{name}.png")
    for line in table(found):
        print(line)
    print(path)


def table(found: dict[str, Any]) -> Sequence[str]:
    """Votes by N in percent, with 95 % intervals."""
    sizes = list(found["votes"]["best"])
    lines = [f"{'N':>10}" + "".join(f"{size:>20}" for size in sizes)]
    for how, row in found["votes"].items():
        lines.append(f"{how:>10}" + "".join(f"{_percent(row[size]):>20}" for size in sizes))
    lines.append(f"{'greedy':>10}{_percent(found['greedy']):>20}")
    lines.append(f"Reward-Pass@2 {_percent(found['reward_pass_2'])}, of distinct responses "
                 f"{_percent(found['reward_pass_2_distinct'])}")  # fmt: skip
    return lines


def _percent(estimate: dict[str, Any]) -> str:
    return f"{percent(estimate['value'])} {interval(estimate['ci95'])}"


if __name__ == "__main__":
    command("evaluate")
