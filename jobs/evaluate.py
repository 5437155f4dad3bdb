"""What the process reward model is good for at test time: the paper's Figure 2.

    mstar-ray evaluate --recipe digits [--policy final] [--split validation] [--samples 16]

Samples a policy of a run that has a PRM (or takes the samples that are in its store already),
grades and scores all of them, and writes to <out>/<run>/evaluate/: figure2-<policy>-<split>.json
with greedy, best-of-N, PRM-weighted and majority voting for N = 1 … K with intervals, and two
plots, votes and score distributions. The run's ledger is read, never written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.generation.engine_settings import engine_settings
from jobs.run import state_so_far
from jobs.runtime.cli import command
from jobs.runtime.figures import draw_scores, draw_votes
from jobs.runtime.prepare import images_of, load_data, out_folder, upload_images
from jobs.runtime.single_round import StageFailed, first_of
from jobs.runtime.world import REAL, Parts, check_here, run_store
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.generation.adoption import adoptable
from pipeline.generation.fleet import ShardDone
from pipeline.generation.shards import ShardSpec, shard_specs
from pipeline.grading.grade import GRADER_VERSION
from pipeline.phases.prm import NAME
from pipeline.records import Score
from pipeline.refs import PolicyRef
from pipeline.reports.comparison import named_policies
from pipeline.reports.voting import Group, figure_2
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.stages.grade import GradeDone, GradeTask, graded_rows
from pipeline.stages.score import ScoreDone, ScoreTask, Scoring, rewards_by_sample
from pipeline.stages.workers import Workers
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store


def evaluate(
    config: Config,
    name: str,
    split: str,
    *,
    samples: int,
    temperature: float,
    parts: Parts = REAL,
) -> dict[str, Any]:
    """Sample, grade, score, sum up and draw; what the JSON file holds.

    Raises:
        BadConfig: the run has no such policy or no PRM.
    """
    check_here(config)
    split = split or config.data.validation
    with ExitStack() as stack:
        store = run_store(config, print)
        state = state_so_far(config, store)
        policy, prm = chosen(state, name, config)
        dataset = load_data(config, print)
        program = RunSpec.of(config, dataset, engine_settings(config).identity(), GRADER_VERSION)
        if split not in program.splits:
            raise BadConfig(f"--split {split}: the run uses {', '.join(program.splits)}")
        upload_images(store, dataset, images_of(program))
        world = stack.enter_context(parts.workers(program, store, dataset, print))
        through = Through(program, store, world, Scoring(prm, "all", config.prm.aggregate))
        groups = through.groups(policy, split, samples, temperature)
    found = figure_2(groups) | {
        "policy": {"name": name, "version": policy.version},
        "prm": prm.version,
        "split": split,
        "temperature": temperature,
        "aggregate": config.prm.aggregate,
    }
    write(found, out_folder(config) / "evaluate", f"{name.replace('/', '-')}-{split}")
    return found


def chosen(state: State, name: str, config: Config) -> tuple[PolicyRef, PolicyRef]:
    """The policy that is meant, and the run's PRM."""
    policies = {**state.policies, **named_policies(state)}
    if NAME not in policies:
        raise BadConfig(
            f"run {config.run.name!r} has no process reward model; run it with select.reward=prm"
        )
    if name not in policies:
        there = ", ".join(sorted(set(policies) - {NAME}))
        raise BadConfig(f"--policy {name}: run {config.run.name!r} has {there}")
    return policies[name], policies[NAME]


class Through:
    """Sends the shards of a split through generation, grading and scoring, one stage at a time."""

    def __init__(self, program: RunSpec, store: Store, world: Workers, scoring: Scoring) -> None:
        self.program = program
        self.store = store
        self.world = world
        self.scoring = scoring

    def groups(self, policy: PolicyRef, split: str, k: int, temperature: float) -> list[Group]:
        """The samples of each question of a split, with greedy's outcome."""
        greedy = self._graded(policy, split, 1, 0.0)
        right = {
            grade.query: grade.outcome == "correct"
            for _, rollout, grades in greedy
            for grade in graded_rows(self.store, rollout, grades)[1]
        }
        found: list[Group] = []
        for spec, rollout, grades in self._graded(policy, split, k, temperature):
            found += self._scored(spec, rollout, grades, right)
        return found

    def _graded(
        self, policy: PolicyRef, split: str, k: int, temperature: float
    ) -> list[tuple[ShardSpec, str, str]]:
        specs = shard_specs(
            f"figure2/{split}",
            self.program.splits[split],
            policy=policy.version,
            sampling=self.program.sampling(k, temperature),
            engine=self.program.engine,
            run_seed=self.program.config.run.seed,
            shard_queries=self.program.config.evaluate.shard_queries,
        )
        return [(spec, *self._one(spec, policy)) for spec in specs]

    def _one(self, spec: ShardSpec, policy: PolicyRef) -> tuple[str, str]:
        """Rollouts and grades of a shard; what is in the store already is not made again."""
        done = adoptable(self.store, spec)
        if done is None:
            self.world.fleet.submit(spec, policy)
            done = first_of(self.world, self.world.fleet)
            if not isinstance(done, ShardDone):
                raise StageFailed(f"generation: {done.reason}")
        bad = {one.query for one in done.bad}
        by_hash = self.program.by_hash
        task = GradeTask(
            key=spec.key,
            rollout=done.rollout,
            queries_Q=tuple(by_hash[name] for name in spec.queries_Q if name not in bad),
            samples=spec.sampling.samples,
            prompt=spec.prompt,
            rule=None,
            seed=0,
        )
        self.world.grader.submit(task)
        graded = first_of(self.world, self.world.grader)
        if not isinstance(graded, GradeDone):
            raise StageFailed(f"grading: {graded.reason}")
        return done.rollout, graded.grades

    def _scored(
        self, spec: ShardSpec, rollout: str, grades: str, greedy: dict[str, bool]
    ) -> list[Group]:
        task = ScoreTask(
            key=spec.key,
            rollout=rollout,
            grades=grades,
            queries_Q=tuple(self.program.by_hash[name] for name in spec.queries_Q),
            prompt=spec.prompt,
            scoring=self.scoring,
            rule=None,
            seed=0,
        )
        assert self.world.scorer is not None
        self.world.scorer.submit(task)
        done = first_of(self.world, self.world.scorer)
        if not isinstance(done, ScoreDone):
            raise StageFailed(f"scoring: {done.reason}")
        rows, graded = graded_rows(self.store, rollout, grades)
        scores: list[Score] = read_rows(self.store, done.scores, Score)
        rewards = rewards_by_sample(rows, scores)
        text_of = {(row.query, row.sample_index): row.text for row in rows}
        steps = {(s.query, text_of[s.query, s.sample_index]): len(s.step_ends) for s in scores}
        made = []
        for query in dict.fromkeys(row.query for row in rows if row.query in greedy):
            mine = [pair for pair in zip(rows, graded, strict=True) if pair[0].query == query]
            made.append(
                Group(
                    query=self.program.by_hash[query],
                    greedy=greedy[query],
                    correct_K=tuple(grade.outcome == "correct" for _, grade in mine),
                    whole_K=tuple(row.finish == "stop" for row, _ in mine),
                    texts_K=tuple(row.text for row, _ in mine),
                    answers_K=tuple(grade.extracted for _, grade in mine),
                    rewards_K=tuple(rewards[row.query, row.sample_index] for row, _ in mine),
                    steps_K=tuple(steps.get((row.query, row.text), 0) for row, _ in mine),
                    tokens_K=tuple(len(row.token_ids) for row, _ in mine),
                )
            )
        return made


def write(found: dict[str, Any], folder: Path, name: str) -> None:
    """The numbers, the two plots, and the table on the terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"figure2-{name}.json"
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
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
    low, high = estimate["ci95"]
    return f"{100 * estimate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    command("evaluate")
