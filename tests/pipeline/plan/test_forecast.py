"""A plan's stages: by hand for a small recipe, and beside what a complete run came to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.runtime.recipes import load_recipe
from pipeline.config.load import changed_config, config_from_dict, stored_config
from pipeline.config.schema import Config
from pipeline.plan.forecast import Forecast, Sizes, gpu_s, gpus_held, summed, wall_s
from pipeline.plan.gpus import gpu_named
from pipeline.plan.measured import MeasuredRun
from pipeline.plan.models import FAMILIES, ModelShape
from pipeline.plan.rates import (
    Rates,
    Response,
    Speeds,
    default_rates,
    default_speeds,
    expected_kept,
    measured_rates,
)

ROOT = Path(__file__).resolve().parents[3]
DIGITS_RUN = ROOT / "docs" / "results" / "plan-digits.json"
DIGITS_MODEL = ModelShape("digits", 1_193_000, 0, 128, 4, 4, 4, 32, 352, 448, 96, 3)

ALIKE = Response(
    prompt_tokens=100, tokens=50, correct=0.5,
    rollout_bytes=400, grade_bytes=20, score_bytes=30, select_bytes=300,
)  # fmt: skip


def small_plan() -> Forecast:
    """1,000 queries, two iterations of a quarter of them, 4 samples each; round rates."""
    config = config_from_dict(
        {
            "warmup": {"queries": 500, "samples": 2, "epochs": 4, "epochs_per_evaluation": 2},
            "generate": {"samples": 4, "shard_queries": 10, "engines": 2},
            "select": {"reward": "prm", "rule": "top_k", "k": 2},
            "prm": {"queries": 100, "samples": 8, "completions": 16, "scorers": 2},
            "learn": {"batch_size": 10, "window": 100, "ranks": 4, "precision": "bfloat16"},
            "evolve": {"iterations": 2, "interval": 0.25, "control": False},
            "evaluate": {"samples": 8, "shard_queries": 50},
            "cluster": {"gpus_per_engine": 1, "gpus_per_rank": 1},
        }
    )
    rates = Rates(
        source="by hand",
        responses=dict.fromkeys(("warmup", "question", "greedy", "completion"), ALIKE),
        kept={"warmup": 1.0, "evolve": 1.5},
        labelled=2.0,
        trained=0.9,
        prefixes=3.0,
        speeds=Speeds(engine=1000.0, scorer=5000.0, rank=500.0),
        image_bytes=1000.0,
        event_bytes=0.0,
    )
    shape = replace(FAMILIES["SmolVLM2-256M"], parameters=1_000_000)
    return Forecast(config, Sizes(1000, 100, (200,), 1300), rates, shape, gpu_named("H100-80GB"))


def test_a_plan_by_hand() -> None:
    plan = small_plan()
    stages = {stage.name: stage for stage in plan.stages}
    assert list(stages) == [
        "prepare", "base/evaluate", "warmup/generate", "warmup/learn", "warmup/evaluate",
        "prm/generate", "prm/annotate", "prm/learn", "prm/judge", "evolve/generate",
        "evolve/learn", "evolve/evaluate", "final/evaluate",
    ]  # fmt: skip
    samples = {name: stage.samples for name, stage in stages.items() if stage.samples}
    assert samples == {
        "base/evaluate": 100 + 100 * 8 + 200,
        "warmup/generate": 500 * 2,
        # two rounds of two epochs, greedily; then the chosen one sampled and tested
        "warmup/evaluate": 100 + (100 + 100 * 8 + 200),
        "prm/generate": 100 * 8,
        # 2 responses of 100 queries are labelled, 3 steps of each completed 16 times
        "prm/annotate": 100 * 2 * 3 * 16,
        "evolve/generate": 2 * 250 * 4,
        "evolve/evaluate": 2 * (100 + 100 * 8),
        "final/evaluate": 200,
    }
    assert stages["evolve/generate"].tokens == 2000 * 50
    # the distinct correct half of each query's four samples
    assert stages["evolve/generate"].scored == 1000
    assert stages["warmup/learn"].rows == 2 * (500 * 1.0 * 2)
    assert stages["evolve/learn"].rows == 2 * 250 * 1.5
    assert stages["evolve/learn"].steps == 2 * 38  # 375 rows in batches of 10
    assert stages["prm/learn"].rows == pytest.approx(100 * 2 * 0.9)


def test_the_control_samples_chains_of_queries_that_the_warm_up_has_none_of() -> None:
    plan = small_plan()
    stages = []
    for rules in (1, 2):
        run = plan.config.run.model_copy(update={"rules": rules})
        evolve = plan.config.evolve.model_copy(update={"control": True})
        config = plan.config.model_copy(update={"run": run, "evolve": evolve})
        stages.append({stage.name: stage for stage in replace(plan, config=config).stages})
    assert "control/generate" not in stages[0]
    # two slices of 250 of 1,000, half of whose queries the warm-up has seen; two chains of each
    assert stages[1]["control/generate"].samples == 250 * 2
    assert stages[1]["control/learn"] == stages[0]["control/learn"]


def test_bytes_requests_and_seconds_by_hand() -> None:
    plan = small_plan()
    stages = {stage.name: stage for stage in plan.stages}
    policy, checkpoint = 2_000_000, 12_000_000
    assert stages["prepare"].kept == 1300 * 1000 + policy
    generate, learn = stages["evolve/generate"], stages["evolve/learn"]
    assert generate.written == 2000 * (400 + 20 + 30) + 2 * 250 * 1.5 * 300
    assert learn.written == 2 * (policy + checkpoint)
    assert learn.kept == 2 * policy + checkpoint
    # 50 shards: rollout, grade, score and selection are looked for and put, four are read, the
    # folder is listed, three entries are committed; each query's image is read twice.
    assert generate.requests == 50 * (4 * 2 + 4 + 1 + 3 * 2) + 500 * 2
    assert generate.engine_s == 2000 * 50 / 1000
    assert generate.scorer_s == (1000 * 50 + 500 * 100) / 5000
    assert learn.rank_s == 750 * 150 / 500
    assert wall_s(generate, plan.config) == max(100 / 2, 20 / 2)
    assert wall_s(learn, plan.config) == 225 / 4
    assert gpu_s(generate, plan.config) == 100 + 20
    assert gpus_held(plan.config) == {"engines": 2, "scorers": 2, "ranks": 4}


def test_speeds_that_nobody_knows_stay_unknown() -> None:
    plan = small_plan()
    unknown = replace(plan, rates=replace(plan.rates, speeds=Speeds()))
    total = summed("total", unknown.stages)
    assert total.engine_s is None
    assert total.samples == summed("total", plan.stages).samples
    assert wall_s(total, plan.config) is None


def test_what_a_rule_keeps_of_a_query() -> None:
    assert expected_kept(4, None, 0.5) == 2.0
    assert expected_kept(1, 1, 0.3) == pytest.approx(0.3)
    # none with 1/16, one with 4/16, else two
    assert expected_kept(4, 2, 0.5) == pytest.approx(4 / 16 + 2 * 11 / 16)


def test_default_speeds_are_the_roofline_at_a_stated_share() -> None:
    config = config_from_dict(
        {
            "generate": {"max_sequences": 100, "max_model_len": 4096, "lookahead": 4},
            "cluster": {"gpus_per_engine": 1, "gpus_per_rank": 1},
        }
    )
    speeds = default_speeds(config, FAMILIES["Qwen2.5-VL-7B"], gpu_named("H100-80GB"))
    # a step reads 16.6 GB of weights, and of 100 sequences of 950 tokens 57,344 bytes a token
    step_s = (2 * 8_292_166_656 + 100 * 950 * 57_344) / 3.35e12
    assert speeds.engine == pytest.approx(0.45 * 100 / step_s)
    assert speeds.scorer == pytest.approx(0.5 * 989e12 / (2 * 8_292_166_656))
    assert speeds.rank == pytest.approx(0.3 * 989e12 / (6 * 8_292_166_656))


# --- beside a complete run -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> MeasuredRun:
    """A complete run of the digits recipe: `mstar-ray plan out/RUN --json FILE` wrote it."""
    return MeasuredRun.from_dict(json.loads(DIGITS_RUN.read_text())["measured"])


def after_the_first_iteration(run: MeasuredRun) -> MeasuredRun:
    """What would have been measured then."""
    ends = next(i for i, one in enumerate(run.sets) if one.purpose == "evolve/1")
    jobs = [job for job in run.jobs if job.job.split("/")[0] in ("warmup", "prm")]
    return replace(
        run,
        sets=run.sets[:ends],
        jobs=(*jobs, next(job for job in run.jobs if job.job == "evolve/0")),
        stage_s={},
    )


def forecast(run: MeasuredRun, measured: MeasuredRun, config: Config) -> Forecast:
    sizes, data = run.sizes, config.data
    default = default_rates(config, DIGITS_MODEL, None)
    return Forecast(
        config,
        Sizes(
            sizes[data.train], sizes[data.validation], tuple(sizes[name] for name in data.test),
            run.images,
        ),
        measured_rates(measured, config, default),
        DIGITS_MODEL,
        None,
    )  # fmt: skip


def test_after_one_iteration_the_whole_digits_run_is_foretold(run: MeasuredRun) -> None:
    config = stored_config(run.config)
    plan = forecast(run, after_the_first_iteration(run), config)
    total = summed("total", plan.stages)
    samples = sum(one.samples for one in run.sets)
    tokens = sum(one.tokens for one in run.sets)
    assert samples > 70_000
    assert total.samples == pytest.approx(samples, rel=0.05)
    assert total.tokens == pytest.approx(tokens, rel=0.20)
    assert total.kept == pytest.approx(sum(run.stored.values()), rel=0.05)
    steps = sum(job.steps for job in run.jobs)
    assert total.steps == pytest.approx(steps, rel=0.05)


def test_shards_weigh_what_they_weighed(run: MeasuredRun) -> None:
    """Without policies and checkpoints, which a small model's run has most of its bytes in."""
    plan = forecast(run, after_the_first_iteration(run), stored_config(run.config))
    stages = {stage.name: stage for stage in plan.stages}
    (evolve,) = {one.stage for one in run.sets if one.purpose == "evolve/3"}
    there = sum(sum(one.bytes.values()) for one in run.sets if one.stage == evolve)
    events = 3 * sum(one.shards for one in run.sets if one.stage == evolve)
    committed = events * plan.rates.event_bytes
    assert stages[evolve].written - committed == pytest.approx(there, rel=0.05)


def test_a_reward_model_that_did_not_pass_its_gate_scores_no_iteration(run: MeasuredRun) -> None:
    """The run went on by log-likelihood; with `use_anyway` it would not have."""
    config = stored_config(run.config)
    assert config.select.reward == "prm"
    anyway = changed_config(config, ["prm.use_anyway=true"])
    at_first = replace(run, sets=run.sets[:1])  # nobody knows yet
    scored = [
        {stage.name: stage for stage in forecast(run, measured, one).stages}["evolve/generate"]
        for measured, one in ((run, config), (run, anyway), (at_first, config))
    ]
    assert [stage.scored > 0 for stage in scored] == [False, True, True]


def test_twice_the_samples_are_twice_the_tokens(run: MeasuredRun) -> None:
    config = stored_config(run.config)
    generate = config.generate.model_copy(update={"samples": 2 * config.generate.samples})
    twice = forecast(run, run, config.model_copy(update={"generate": generate}))
    plan = forecast(run, run, config)
    assert twice.rates.kept["evolve"] > plan.rates.kept["evolve"]
    tokens = [
        {stage.name: stage for stage in one.stages}["evolve/generate"].tokens
        for one in (plan, twice)
    ]
    assert tokens[1] == pytest.approx(2 * tokens[0])


def test_what_searches_and_dynamics_ask_for_alike_is_planned_once() -> None:
    """Of 250 questions 8 samples: twice five temperatures, and three after the last iteration, as
    the run of this recipe sampled (docs/results/adaptive/exploration.json)."""
    config = load_recipe("digits-adaptive")
    plan = replace(small_plan(), config=config, sizes=Sizes(4000, 250, (540,), 5000))
    samples = {stage.name: stage.samples for stage in plan.stages}
    cost = json.loads((ROOT / "docs/results/adaptive/exploration.json").read_text())["cost"]
    for name in ("explore", "dynamics", "evolve"):
        assert samples[f"{name}/generate"] == cost[name]["rollouts"]
    narrow = changed_config(config, ["explore.nearest=2", "dynamics.every=0"])
    stages = {stage.name: stage.samples for stage in replace(plan, config=narrow).stages}
    assert stages["explore/generate"] == (5 + 2) * 250 * 8
    assert "dynamics/generate" not in stages
