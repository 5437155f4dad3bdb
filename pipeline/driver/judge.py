"""The driver's work on the PRM's gate: score held-out responses, write the card, decide."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.driver.losses import give_up_shards, lose_labels, lose_object
from pipeline.errors import ArtifactLost, CorruptObject, RunStopped, StoreMissing
from pipeline.hashing import canonical_json
from pipeline.phases.prm import TRAINED
from pipeline.phases.steps import JudgePrm, SampleShards
from pipeline.prm.annotation import (
    CARD,
    bar_of,
    excluded_of,
    gate_card,
    judged,
    judged_places,
    of_others,
)
from pipeline.prm.gate import Scored, shortfalls
from pipeline.records import Score, StepValues
from pipeline.refs import PolicyRef
from pipeline.stages.score import Scoring
from pipeline.storage.artifacts import read_rows
from pipeline.storage.models import publish_folder
from pipeline.storage.trees import get_tree

if TYPE_CHECKING:
    from pipeline.driver.driver import Driver


def judge(driver: Driver, step: JudgePrm) -> None:
    """Score the held-out responses, write the card into the PRM's folder, and decide."""
    from pipeline.driver.sample import SampleStage

    assert driver.state.labels is not None
    labels_path = driver.state.labels["path"]
    try:
        labels: list[StepValues] = read_rows(driver.store, labels_path, StepValues)
    except ArtifactLost as lost:
        lose_labels(driver, step.stage, lost.path, lost.reason)
        return
    config, rollouts = driver.program.config, step.rollouts
    scoring = Scoring(step.prm, judged_places(labels), config.prm.aggregate)
    SampleStage(
        driver,
        SampleShards(step.stage, rollouts.purpose, rollouts.specs, rollouts.policy, None, scoring),
    ).run()
    shards = driver.state.shards[rollouts.purpose]
    if of_others(labels, shards.values()):
        reason = "responses were lost and came out otherwise"
        driver.commit(step.stage, give_up_shards(rollouts.purpose, shards, "scores", reason))
        lose_labels(driver, step.stage, labels_path, reason)
        return
    try:
        scores = _scores(driver, rollouts.purpose)
    except ArtifactLost as lost:
        lose_object(driver, step.stage, lost)
        return
    _decide(driver, step, list(judged(driver.program.by_hash, labels, scores)))


def _scores(driver: Driver, purpose: str) -> list[Score]:
    """All scores of a purpose's shards."""
    found: list[Score] = []
    for shard in driver.state.shards[purpose].values():
        assert shard.scores is not None
        found += read_rows(driver.store, shard.scores, Score)
    return found


def _decide(driver: Driver, step: JudgePrm, scored: Sequence[Scored]) -> None:
    prm, state = driver.program.config.prm, driver.state
    assert state.labels is not None
    card = gate_card(scored, excluded_of(state.shards[step.rollouts.purpose].values()))
    reasons = shortfalls(card, bar_of(driver.program))
    facts = {
        "policy": state.policies["warmup"].version,
        "prm": step.prm.version,
        "settings": prm.model_dump(mode="json"),
        "labels": dict(state.labels),
        "training": dict(state.jobs[TRAINED].report),
        "gate": card,
        "shortfalls": reasons,
    }
    published = with_card(driver, step.prm, facts)
    used = not reasons or prm.use_anyway
    driver.watch.say(verdict(reasons, used))
    judged = {
        "type": "prm_judged",
        "version": published.version,
        "path": published.path,
        "used": used,
        "reasons": reasons,
        "card": card,
    }
    driver.commit(step.stage, [judged])


def verdict(reasons: Sequence[str], used: bool) -> str:
    """One line on what becomes of a judged PRM."""
    if not reasons:
        return "the process reward model passes its gate and is used"
    told = "; ".join(reasons)
    if used:
        return f"the process reward model does not pass its gate ({told}); prm.use_anyway uses it"
    return f"the process reward model is not used: {told}. Responses are drawn by lot instead"


def with_card(driver: Driver, prm: PolicyRef, facts: dict[str, Any]) -> PolicyRef:
    """The PRM's folder with its card in it, in the store."""
    # Nothing in a content-addressed folder may depend on when it was written.
    plain = json.loads(canonical_json(facts))
    plain["training"].pop("seconds", None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "prm"
        try:
            get_tree(driver.store, prm.path, folder)
        except (CorruptObject, StoreMissing) as error:
            raise RunStopped(f"{prm.path} is corrupt or gone: {error}") from error
        (folder / CARD).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", "utf-8")
        return publish_folder(driver.store, folder)
