"""Between loop and roles: rows of step values, headed starts, scoring through a pool, plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.model.value_head import read_head
from actors.scoring.pool_scorer import PoolScorer, asked, scorer_pool
from actors.supervision.outcomes import Failure
from actors.supervision.pool import Result
from actors.training.learner import GroupLearner
from actors.training.rows import RowMaker
from jobs.evaluate import table, write
from pipeline.prompts import prompt_hash, question_text
from pipeline.records import Grade, Rollout, Score, Selected, StepValues
from pipeline.refs import PolicyRef
from pipeline.reports.voting import figure_2
from pipeline.selection.rules import Rule
from pipeline.stages.score import ScoreDone, ScoreFailed, ScoreTask, Scoring, scored_how
from pipeline.storage.artifacts import put_content, read_rows
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store
from pipeline.training.job import LearnJob, PrmLearning
from tests.actors.training.test_learner import SIZES, FakeGroup, FakeProcessor, run
from tests.pipeline.reports.test_voting import GROUPS
from tests.support.models import make_policy
from tests.support.scripted import make_config, make_program
from tests.support.scripted_world import ENGINE

CONFIG = make_config(learn={**SIZES})

PROGRAM = make_program(CONFIG)

QUERY = PROGRAM.by_hash[PROGRAM.pool[0]]

PROMPT = tuple(map(ord, f"<{question_text(QUERY)}>"))

SOFT = PrmLearning("soft", "bce", ("*vision*",))


@pytest.fixture
def store() -> Store:
    return open_store("memory://")


def values(index: int, *, held_out: bool = False) -> StepValues:
    return StepValues(
        query=QUERY.content_hash, query_id=QUERY.query_id, sample_index=index, rollout_shard="r",
        prompt_sha256=prompt_hash(PROMPT), prompt_tokens=len(PROMPT), correct=True,
        held_out=held_out, token_ids=tuple(range(10, 22)), step_ends=(3, 7),
        values=(0.75, 0.0), completions=(4, 4),
    )  # fmt: skip


def test_rows_of_step_values_hold_one_token_more_than_their_last_step(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    rows = [values(0), values(1, held_out=True), values(2)]
    path = put_content(store, "labels", "k", to_parquet(rows, StepValues), "parquet")
    maker = RowMaker(store, PROGRAM.by_hash, lambda folder: FakeProcessor())  # type: ignore[arg-type, return-value]
    soft = maker.rows(tmp_path, (path,), SOFT).rows
    assert len(soft) == 2
    assert soft[0].token_ids_T == tuple(range(10, 18))
    assert (soft[0].step_ends_S, soft[0].targets_S, soft[0].units) == ((3, 7), (0.75, 0.0), 2)
    hard = maker.rows(tmp_path, (path,), replace(SOFT, labels="hard")).rows
    assert hard[0].targets_S == (1.0, 0.0)


def test_a_prm_job_starts_from_the_policy_with_a_head(store: Store, tmp_path: Path) -> None:
    """The group is told the objective, and its folder has a head of zeros."""
    seen: list[Any] = []

    class HeadGroup(FakeGroup):
        def _open(self, policy: Path, checkpoint: Path | None) -> None:
            self.policy = policy
            seen.append((self.settings.objective, self.settings.frozen, read_head(policy)))
            self.digest, self.step = "", 0

    policy = publish_folder(store, make_policy(tmp_path / "policy", 0))
    path = put_content(store, "labels", "k", to_parquet([values(0)] * 6, StepValues), "parquet")
    learner = GroupLearner(
        CONFIG, store, PROGRAM.by_hash, tmp_path / "learner",
        HeadGroup,
        processors=lambda folder: FakeProcessor(),  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    job = LearnJob("prm/0", None, policy, (path,), 0, 1, None, 1e-3, prm=SOFT)
    events = run(learner, job)
    learner.close()
    assert events[-1].job == "prm/0"
    assert not isinstance(events[-1], Failure)
    ((objective, frozen, head),) = seen
    assert (objective, frozen) == ("steps", ("*vision*",))
    assert not head.any()


# --- scoring through a pool ----------------------------------------------------------------------


class StubPool:
    """Gives the same scores for every shard, or a failure."""

    def __init__(self, store: Store, scores: Sequence[Score], excluded: dict[str, int]) -> None:
        self.store, self.scores, self.excluded = store, scores, excluded
        self.specs: list[dict[str, Any]] = []
        self.failure: Failure | None = None

    def submit(self, spec: dict[str, Any]) -> None:
        self.specs.append(spec)

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        specs, self.specs = self.specs, []
        found = []
        for spec in specs:
            path = put_content(
                self.store, "score", spec["key"], to_parquet(list(self.scores), Score), "parquet"
            )
            value = {"scores": path, "excluded": self.excluded, "seconds": 1.0}
            found.append(Result(spec["id"], value, self.failure, 1, 1.0, "scorer-0"))
        return found


def shard(store: Store, outcomes: Sequence[str]) -> ScoreTask:
    rows = [
        Rollout(
            QUERY.content_hash, QUERY.query_id, i, i, "policy-1", 1.0, 1.0, "p", 4, (1, 2, 3),
            (-0.5,) * 3, f"way {i}", "stop",
        )
        for i in range(len(outcomes))
    ]  # fmt: skip
    grades = [Grade(QUERY.content_hash, i, outcome, "x") for i, outcome in enumerate(outcomes)]
    return ScoreTask(
        key="shard-1",
        rollout=put_content(store, "rollout", "k", to_parquet(rows, Rollout), "parquet"),
        grades=put_content(store, "grade", "k", to_parquet(grades, Grade), "parquet"),
        queries_Q=(QUERY,),
        prompt="question",
        scoring=Scoring(PolicyRef("prm-1", "policies/prm"), "right", "min"),
        rule=Rule("top_k", 1),
        seed=0,
    )


def score(index: int, reward: float) -> Score:
    return Score(QUERY.content_hash, index, (2,), (reward,), reward)


def test_right_responses_are_scored_and_the_best_is_kept(store: Store) -> None:
    pool = StubPool(store, [score(0, 0.2), score(2, 0.7)], {"too_long": 1})
    scorer = PoolScorer(store, pool, ENGINE, "head")
    scorer.submit(shard(store, ["correct", "wrong", "correct", "correct"]))
    scorer.submit(shard(store, ["correct", "wrong", "correct", "correct"]))  # under way already
    (spec,) = pool.specs
    assert spec["rows"] == [(QUERY.content_hash, i) for i in (0, 2, 3)]
    assert spec["queries"] == {QUERY.content_hash: asked(QUERY)}
    (done,) = scorer.poll()
    assert isinstance(done, ScoreDone)
    assert done.excluded == {"too_long": 1}
    assert done.selected is not None
    kept = read_rows(store, done.selected, Selected)
    assert [(row.sample_index, row.reward) for row in kept] == [(2, 0.7)]
    assert done.choice["dropped"] == {"responses": 1, "tokens": 3, "steps": 1}
    assert done.coverage is not None
    assert (done.coverage.correct, done.coverage.kept) == (3, 1)


def test_a_score_that_is_missing_without_a_reason_is_a_loss(store: Store) -> None:
    scorer = PoolScorer(store, StubPool(store, [score(0, 0.2)], {}), ENGINE, "head")
    scorer.submit(shard(store, ["correct", "correct"]))
    (failed,) = scorer.poll()
    assert isinstance(failed, ScoreFailed)
    assert failed.kind == "lost"
    assert "holds 1 scores of 2 responses, and 0 are excluded" in failed.reason


def test_the_engine_that_is_asked_for_scores_and_is_part_of_the_scores_identity(
    store: Store, tmp_path: Path
) -> None:
    keys = set()
    for engine in ("vllm", "transformers"):
        config = make_config(select={"reward": "prm"}, prm={"engine": engine})
        (settings,) = scorer_pool(config, store, str(tmp_path), print)._args
        assert settings.backend == engine
        pool = StubPool(store, [score(0, 0.2)], {})
        PoolScorer(store, pool, ENGINE, scored_how(config)).submit(shard(store, ["correct"]))
        keys.add(pool.specs[0]["key"])
    assert len(keys) == 2


def test_a_shard_without_right_responses_asks_no_scorer(store: Store) -> None:
    pool = StubPool(store, [], {})
    scorer = PoolScorer(store, pool, ENGINE, "head")
    scorer.submit(shard(store, ["wrong", "unparsed"]))
    assert not pool.specs
    (done,) = scorer.poll()
    assert isinstance(done, ScoreDone)
    assert done.coverage is not None
    assert done.coverage.kept == 0


def test_failures_and_lost_shards_come_back_as_values(store: Store) -> None:
    pool = StubPool(store, [], {})
    pool.failure = Failure("user", "it scores nan")
    scorer = PoolScorer(store, pool, ENGINE, "head")
    task = shard(store, ["correct"])
    scorer.submit(task)
    (failed,) = scorer.poll()
    assert failed == ScoreFailed("shard-1", "it scores nan", "user")
    store.delete(task.grades)
    scorer.submit(task)
    (failed,) = scorer.poll()
    assert isinstance(failed, ScoreFailed)
    assert (failed.kind, failed.path) == ("lost", task.grades)


# --- what people see -----------------------------------------------------------------------------


def test_figure_2_is_written_as_numbers_and_plots(tmp_path: Path) -> None:
    found = figure_2(GROUPS, reps=50) | {
        "policy": {"name": "final", "version": "p"}, "split": "validation", "aggregate": "min",
    }  # fmt: skip
    write(found, tmp_path, "final-validation")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "figure2-final-validation.json", "votes-final-validation.png", "scores-final-validation.png"
    }  # fmt: skip
    for name in names - {"figure2-final-validation.json"}:
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    told = json.loads((tmp_path / "figure2-final-validation.json").read_text())
    assert told["votes"]["majority"]["4"]["value"] == 0.5
    assert any("50.0" in line for line in table(found))
