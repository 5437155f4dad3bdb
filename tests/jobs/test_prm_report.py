"""The rows of the process reward model, out of runs whose responses the process checker reads."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jobs.report import finished
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.errors import BadConfig, BadData
from pipeline.generation.shards import SamplePart, ShardSpec
from pipeline.metrics.auc import auc
from pipeline.query import Query
from pipeline.records import Rollout, Score, Selected
from pipeline.reports.prm_seeds import by_seed, prm_pooled, prm_row, scored_truly, true_values
from pipeline.reports.replay import evolved
from pipeline.reports.seeds import Finished
from pipeline.responses import step_ends
from pipeline.run.ledger import Ledger
from pipeline.run.spec import RunSpec
from pipeline.selection.rewards import reward_p
from pipeline.simulation.fleet import ENGINE, ScriptedFleet, decode, share
from pipeline.simulation.grader import GRADER
from pipeline.simulation.mail import Mail
from pipeline.simulation.scorer import ScriptedScorer
from pipeline.simulation.workers import scripted_workers
from pipeline.stages.score import ScoreTask
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import open_store
from pipeline.tasks.digits.build import build, write
from pipeline.tasks.digits.chains import explain
from pipeline.tasks.digits.checker import StepVerdict, Verdict, check
from pipeline.tasks.digits.scenes import Scene
from tests.support.jobs import mstar
from tests.support.scripted import Clock, Quiet, make_config, with_base

BUILT = build(0, {"train": 12, "validation": 5, "test": 10})
SELECT: dict[str, dict[str, Any]] = {
    "top2": {"rule": "top_k", "k": 2, "reward": "prm"},
    "random2": {"rule": "random_k", "k": 2},
    "all": {"rule": "all_correct"},
}


class DigitsFleet(ScriptedFleet):
    """As its parent; what is trained on are explanations of digits, some of another picture."""

    def response(
        self, spec: ShardSpec, query: Query, part: SamplePart, i: int, skill: float
    ) -> Rollout:
        made, seed = super().response(spec, query, part, i, skill), part.seeds[i]
        if spec.sampling.temperature == 0:
            right = share("greedy", spec.policy, query.content_hash) < 0.6
            text = f"a0\n\n# Answer\n\n{query.answer if right else 'no'}"
        elif spec.purpose.startswith("evolve/"):
            known, rng = BUILT.truth[query.query_id], Random(seed)
            scene = known.scene
            if share("misread", seed) < 0.5:
                others = tuple((digit + 1) % 10 for digit in scene.digits)
                scene = Scene(scene.layout, scene.scans, others)
            text = explain(known.question, scene, rng)
            text += "" if share("right", seed) < 0.8 else "?"
        else:
            return made
        ids = tuple(text.encode())
        return type(made)(
            **{
                **{name: getattr(made, name) for name in made.__slots__},
                "text": text,
                "token_ids": ids,
                "logprobs": (-0.5,) * len(ids),
            }
        )


class CheckerScorer(ScriptedScorer):
    """Scores by the checker, wrong about one step in five."""

    def score(self, row: Rollout, task: ScoreTask) -> Score:
        known = BUILT.truth[row.query_id]
        if "# Answer" not in row.text or row.text.startswith("a"):
            return super().score(row, task)
        ends = tuple(step_ends(row.token_ids, decode))
        verdict = check(row.text, known.question, known.scene)
        scores = tuple(
            0.5 + (0.3 if step.holds != (share(row.seed, i) < 0.2) else -0.3) + share(i) / 10
            for i, step in enumerate(verdict.steps_S)
        )
        assert len(scores) == len(ends)
        reward = reward_p(scores, task.scoring.aggregate)
        return Score(row.query, row.sample_index, ends, scores, reward)


def digits_run(folder: Path, kind: str, seed: int = 0) -> Path:
    """A finished run on digits that selects in this way; the folder it is in."""
    config: Config = make_config(
        run={"name": f"{kind}-{seed}", "seed": seed, "out": str(folder)},
        select=SELECT[kind],
        prm={"samples": 6, "completions": 3, "held_out": 0.3, "use_anyway": True},
        generate={"samples": 8},
        evolve={"iterations": 2, "interval": 0.75},
    )
    config = with_base(config, folder / "base")
    program = RunSpec.of(config, Dataset(BUILT.queries, {}), ENGINE, GRADER)
    store, random = open_store(folder / config.run.name / "store"), Random(0)
    workers = replace(
        scripted_workers(store, program).workers,
        fleet=DigitsFleet(store, program.by_hash, Mail(random), steps=True),
        scorer=CheckerScorer(store, Mail(random)),
    )
    ledger = Ledger(store, config.run.name)
    drive(RunContext(program, store, ledger, workers, Quiet(), sleep=Clock().sleep))
    return folder / config.run.name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    write(BUILT, folder / "data" / "digits")
    return {kind: digits_run(folder, kind) for kind in SELECT}


def test_a_row_says_what_the_prm_was_worth(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "prm.json"
    given = [part for kind, folder in folders.items() for part in (f"--{kind}", folder)]
    done = mstar("report", "prm", *given, "--out", out)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(out.read_text())
    (seed,) = by_seed(*([finished(folder)] for folder in folders.values()))
    right = {kind: getattr(seed, kind).outcomes("final", "test") for kind in SELECT}
    for kind in SELECT:
        assert row[f"final_{kind}"] == sum(right[kind].values()) / 10
    assert row["diff"] == pytest.approx(row["final_top2"] - row["final_random2"])
    assert row["all_diff"] == pytest.approx(row["final_top2"] - row["final_all"])
    assert row["diff_ci95"][0] <= row["diff"] <= row["diff_ci95"][1]
    assert prm_pooled([seed])["top2 - random2"].value == pytest.approx(row["diff"])
    card = seed.top2.state.prm["card"]  # type: ignore[index]
    assert row["auc_step"] == card["auc_step"]["value"]
    assert row["kept_all"] > row["kept_top2"] > 0
    assert 0 < row["closed"] < 1
    assert "top2 - all:" in done.output
    judged = scored_truly(seed.top2, BUILT.truth)
    free = [replace(one, reward=0.0) for one in judged.by_logprob]
    assert free == [replace(one, reward=0.0) for one in judged.by_prm]
    known = log_likelihoods(seed.top2)
    for one in judged.by_logprob:
        assert one.reward == pytest.approx(known[one.query, one.sample_index])
    for key in ("auc_within", "closed"):
        gain = row[key] - row[f"logprob_{key}"]
        assert row[f"{key}_minus_logprob"] == pytest.approx(gain)
        low, high = row[f"{key}_minus_logprob_ci95"]
        assert low <= gain <= high
    card = (finished(folders["top2"]).state.prm or {})["card"]
    assert row["gate"]["auc_step"] == card["auc_step"]
    assert row["gate"]["error"] == card["calibration"]["error"]
    found = card["first_wrong"]["wrong"]
    low, high = found["ci95"]
    assert f"{found['value']:.2f} [{low:.2f}, {high:.2f}] ({found['n']})" in done.output


def log_likelihoods(run: Finished) -> dict[tuple[str, int], float]:
    """Of all responses of a run's iterations, by iteration/query and sample."""
    return {
        (f"{iteration}/{row.query}", row.sample_index): sum(row.logprobs)
        for iteration, shards in evolved(run.events).items()
        for shard in shards
        for row in read_rows(run.store, shard.rollout, Rollout)
    }


def test_what_is_measured_is_what_was_kept(folders: dict[str, Path]) -> None:
    """The shares again, from the rows that the run trained on and the truth alone."""
    run = finished(folders["top2"])
    row = prm_row(by_seed(*([finished(one)] for one in folders.values()))[0], BUILT.truth)
    false_ones: dict[tuple[str, str], dict[int, bool]] = defaultdict(dict)
    kept: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for event in run.wires:
        if event["type"] != "shard_scored" or not event["purpose"].startswith("evolve/"):
            continue
        selected = read_rows(run.store, event["selected"], Selected)
        (rollout,) = {one.rollout_shard for one in selected}
        false: dict[tuple[str, int], bool] = {}
        texts: set[tuple[str, str]] = set()
        for one in read_rows(run.store, rollout, Rollout):
            known = BUILT.truth[one.query_id]
            verdict_ = check(one.text, known.question, known.scene)
            false[one.query, one.sample_index] = not verdict_.process_true
            if not one.text.endswith("?") and (one.query, one.text) not in texts:
                texts.add((one.query, one.text))
                name = event["purpose"], one.query
                false_ones[name][one.sample_index] = not verdict_.process_true
        for one in selected:
            kept[event["purpose"], one.query].append(false[one.query, one.sample_index])
    asked = [name for name, found in false_ones.items() if len(found) >= 3]
    assert row["questions"] == len(asked) > 5

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    drawn = mean([mean([float(x) for x in false_ones[name].values()]) for name in asked])
    assert row["wrong_process"]["random"] == pytest.approx(drawn)
    top = mean([mean([float(x) for x in kept[name]]) for name in asked])
    assert row["wrong_process"]["top"] == pytest.approx(top)
    best = mean([max(0, 2 - list(false_ones[name].values()).count(False)) / 2 for name in asked])
    assert row["wrong_process"]["oracle"] == pytest.approx(best)
    assert row["closed"] == pytest.approx((drawn - top) / (drawn - best))


def test_the_reward_is_ranked_within_a_question_and_an_iteration(folders: dict[str, Path]) -> None:
    responses = scored_truly(finished(folders["top2"]), BUILT.truth).by_prm
    assert {one.query.partition("/")[0] for one in responses} == {"0", "1"}
    groups: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
    for one in responses:
        groups[one.query][one.process_right].append(one.reward)
    found = [auc(g[True], g[False]) for g in groups.values() if g[True] and g[False]]
    row = prm_row(by_seed(*([finished(one)] for one in folders.values()))[0], BUILT.truth)
    assert row["auc_within"] == pytest.approx(sum(found) / len(found))
    assert row["auc_within_n"] == len(found)


def test_runs_of_other_rules_or_seeds_and_other_truths_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    runs = {kind: finished(folder) for kind, folder in folders.items()}
    with pytest.raises(BadConfig, match=r"'top2-0' is no random2"):
        by_seed([runs["top2"]], [runs["top2"]], [runs["all"]])
    with pytest.raises(BadConfig, match="random2: one run of each of the seeds 0 is needed"):
        by_seed([runs["top2"]], [], [runs["all"]])
    with pytest.raises(BadData, match="the truth that was given is not about it"):
        scored_truly(runs["top2"], {})
    others = dict(zip(BUILT.truth, reversed(BUILT.truth.values()), strict=True))
    with pytest.raises(BadData, match="the truth that was given is not about it"):
        scored_truly(runs["top2"], others)
    given = [part for kind, folder in folders.items() for part in (f"--{kind}", folder)]
    done = mstar("report", "prm", *given, "--data", tmp_path, "--out", tmp_path / "prm.json")
    assert (done.exit_code, "truth.json" in done.output) == (2, True)


def as_if(run: Finished, **facts: Any) -> Finished:
    """A run that is or has done something else."""
    other = Finished(run.store, run.name)
    vars(other).update({"state": run.state, "spec": run.spec, **facts})
    return other


def test_runs_that_differ_in_more_than_what_they_keep_are_refused(
    folders: dict[str, Path],
) -> None:
    runs = {kind: finished(folder) for kind, folder in folders.items()}

    def with_config(section: str, **changes: Any) -> list[Finished]:
        config = runs["random2"].spec.config
        inside = getattr(config, section).model_copy(update=changes)
        other = config.model_copy(update={section: inside})
        return [as_if(runs["random2"], spec=replace(runs["random2"].spec, config=other))]

    top2, all_ = [runs["top2"]], [runs["all"]]
    assert by_seed(top2, with_config("generate", kv_cache_gib=3.0), all_)
    assert by_seed(top2, with_config("prm", samples=3), all_)
    assert by_seed(top2, with_config("policy", path="elsewhere"), all_)
    with pytest.raises(BadConfig, match=r"more than select and prm:\n.*learn\.learning_rate"):
        by_seed(top2, with_config("learn", learning_rate=0.5), all_)
    with pytest.raises(BadConfig, match=r"generate\.temperature"):
        by_seed(top2, with_config("generate", temperature=0.7), all_)

    def with_state(run: Finished, **changes: Any) -> list[Finished]:
        return [as_if(run, state=replace(run.state, **changes))]

    policies = runs["all"].state.policies | {"warmup": runs["all"].state.policies["base"]}
    with pytest.raises(BadConfig, match=r"'top2-0' and 'all-0' start from other warm-up policies"):
        by_seed(top2, [runs["random2"]], with_state(runs["all"], policies=policies))
    with pytest.raises(BadConfig, match="are of other data"):
        by_seed(top2, [runs["random2"]], with_state(runs["all"], data={"sha256": "other"}))


def verdict(*holds: bool) -> Verdict:
    return Verdict(tuple(StepVerdict("", one, True, True) for one in holds), True)


@pytest.mark.parametrize(
    ("holds", "steps", "values"),
    [
        ((True, True), 2, (1.0, 1.0)),
        ((True, False, True), 3, (1.0, 0.0, None)),
        ((False, True), 2, (0.0, None)),
        ((True, True, True), 2, (None, None)),
    ],
)
def test_steps_are_true_up_to_the_first_that_does_not_hold(
    holds: tuple[bool, ...], steps: int, values: tuple[float | None, ...]
) -> None:
    assert true_values(verdict(*holds), steps) == values
