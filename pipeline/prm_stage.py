"""The driver's work on a process reward model: annotate, judge, and hand out what is to be scored.

Everything read is verified; what is corrupt or gone is named in an event and made again. Doing any
of this twice stores the same bytes: after a crash it is simply done again, and completions that are
in the store are adopted.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.annotation import (
    CARD,
    LABELS,
    VALUES,
    bar_of,
    gate_card,
    judged,
    judged_places,
    labels_key,
    labels_told,
    of_others,
    responses_to_label,
    round_of,
    valued_rows,
)
from pipeline.canonical import canonical_json
from pipeline.completions import CompletionSpec, cut_places, reached
from pipeline.errors import CorruptObject, StoreMissing
from pipeline.plan import ShardSpec
from pipeline.policies import publish_folder
from pipeline.prm_agenda import TRAINED
from pipeline.prm_gate import Scored, shortfalls
from pipeline.prm_labels import Labelled, Picked, Prefix, Reached, cost, next_prefixes
from pipeline.records import Grade, Score, StepValues, to_parquet
from pipeline.roles import PolicyRef, ScoreFailed, ScoreTask, Scoring
from pipeline.score_stage import SCORES, graded_rows
from pipeline.stages import Lost, read_rows
from pipeline.state import ShardState
from pipeline.steps import Annotate, JudgePrm, RunStopped, SampleShards
from pipeline.store import get_verified, put_content

if TYPE_CHECKING:
    from pipeline.driver import Driver


def build(driver: Driver, step: Annotate | JudgePrm) -> None:
    """One of the two steps of building a PRM that are the driver's own."""
    if isinstance(step, Annotate):
        annotate(driver, step)
    else:
        judge(driver, step)


# --- scoring shards ------------------------------------------------------------------------------


def score_task(driver: Driver, step: SampleShards, spec: ShardSpec, shard: ShardState) -> ScoreTask:
    """What a scorer is asked about a graded shard."""
    assert step.scoring is not None
    assert shard.grades is not None
    by_hash = driver.program.by_hash
    return ScoreTask(
        key=spec.key,
        rollout=shard.rollout,
        grades=shard.grades,
        queries_Q=tuple(by_hash[item] for item in spec.queries_Q if item not in shard.bad),
        prompt=spec.prompt,
        scoring=step.scoring,
        rule=step.rule,
        seed=driver.program.config.run.seed,
    )


def score_lost(
    driver: Driver, purpose: str, spec: ShardSpec, answer: ScoreFailed
) -> dict[str, Any] | None:
    """The event that names what a scorer could not read; None when it was put back.

    Raises:
        RunStopped: nothing can be made again, or it is no loss at all.
    """
    shard = driver.state.shards[purpose][spec.index]
    if answer.kind == "lost" and answer.path in (shard.rollout, shard.grades, shard.scores):
        return driver.loss(purpose, answer.path, answer.reason)
    if answer.kind == "lost" and answer.path.startswith(f"shards/{SCORES}/"):
        # Scores that were written and cannot be read: no event names them yet, so do them again.
        driver.count_loss(
            f"the scores of shard {spec.index} of {purpose}", answer.path, answer.reason
        )
        return None
    if answer.kind == "lost" and driver.mended(answer.path, answer.reason):
        return None
    raise RunStopped(f"shard {spec.index} of {purpose} could not be scored: {answer.reason}")


# --- annotation ----------------------------------------------------------------------------------


def annotate(driver: Driver, step: Annotate) -> None:
    """From graded rollouts to stored step values; one event when all of it is there."""
    try:
        responses, counts = _chosen(driver, step)
        found = _completed(driver, step, responses)
    except Lost as lost:
        _lose(driver, step.stage, lost)
        return
    rows = valued_rows(driver.program, responses, found)
    trained = sum(not row.held_out for row in rows)
    if not trained or trained == len(rows):
        raise RunStopped(_too_little(counts))
    data = to_parquet(rows, StepValues)
    path = put_content(driver.store, LABELS, labels_key(rows), data, "parquet")
    driver.commit(step.stage, [labels_told(driver.program, path, rows, counts, responses)])


def _too_little(counts: Picked) -> str:
    return (
        f"of {counts.questions} questions {counts.always_right} were always right and "
        f"{counts.never_right} never, and {counts.mixed} can be labelled: too few to train a "
        "process reward model and to judge it. Raise prm.queries or prm.samples, or set "
        "select.reward=binary"
    )


def _chosen(driver: Driver, step: Annotate) -> tuple[list[Labelled], Picked]:
    """The responses to label, read from the shards of the warm-up policy's rollouts."""
    if driver.world.decoder is None:
        raise RuntimeError("annotation needs a decoder of the policy's tokens")
    decode = driver.world.decoder(step.policy)
    rows, outcomes, shards = [], [], []
    for _, shard in sorted(driver.state.shards[step.rollouts].items()):
        assert shard.grades is not None
        graded = graded_rows(driver.store, shard.rollout, shard.grades)
        rows += graded[0]
        outcomes += [grade.outcome for grade in graded[1]]
        shards += [shard.rollout] * len(graded[0])
    responses, counts = responses_to_label(driver.program, rows, outcomes, shards, decode)
    driver.watch.say(f"{cost(responses, driver.program.config.prm.completions)}")
    return responses, counts


def _completed(
    driver: Driver, step: Annotate, responses: Sequence[Labelled]
) -> dict[Prefix, Reached]:
    """Rounds of completions until every prefix that matters has its value."""
    from pipeline.sampling import Sampling

    prm = driver.program.config.prm
    found: dict[Prefix, Reached] = {}
    for number in count():
        wanted = next_prefixes(responses, found, early_stop=prm.early_stop)
        if not wanted:
            break
        purpose = f"{VALUES}/{number}"
        specs = round_of(driver.program, step.policy, number, wanted)
        _drop_others(driver, step.stage, purpose, specs)
        there = driver.state.shards.get(purpose, {})
        if purpose not in driver.state.closed or any(spec.index not in there for spec in specs):
            Sampling(driver, SampleShards(step.stage, purpose, specs, step.policy, None)).run()
        found |= _values_of(driver, purpose, specs)
    return found


def _drop_others(driver: Driver, stage: str, purpose: str, specs: Sequence[CompletionSpec]) -> None:
    """Give up shards that this round does not ask for any more.

    What prefixes were chosen by (rollouts, grades, earlier rounds) may have been lost and, without
    `run.deterministic`, have come out otherwise when it was made again.
    """
    keys = {spec.index: spec.key for spec in specs}
    shards = driver.state.shards.get(purpose, {})
    others = {index: shard for index, shard in shards.items() if shard.key != keys.get(index)}
    if others:
        reason = "it completes prefixes that are not asked for any more"
        driver.watch.say(f"{len(others)} shards of {purpose}: {reason}")
        driver.commit(stage, _given_up(purpose, others, "rollout", reason))


def _given_up(
    purpose: str, shards: Mapping[int, ShardState], what: str, reason: str
) -> list[dict[str, Any]]:
    """Events that give up one object of each of some shards: their `rollout`, or their `scores`."""
    return [
        {"type": "object_lost", "purpose": purpose, "index": index}
        | {"path": getattr(shard, what), "reason": reason}
        for index, shard in shards.items()
    ]


def _values_of(
    driver: Driver, purpose: str, specs: Sequence[CompletionSpec]
) -> dict[Prefix, Reached]:
    found: dict[Prefix, Reached] = {}
    for spec in specs:
        shard = driver.state.shards[purpose][spec.index]
        assert shard.grades is not None
        try:
            cut = cut_places(get_verified(driver.store, shard.rollout))
        except (CorruptObject, StoreMissing) as error:
            raise Lost(shard.rollout, str(error)) from error
        found |= reached(spec, read_rows(driver.store, shard.grades, Grade), cut)
    return found


def _lose(driver: Driver, stage: str, lost: Lost) -> None:
    """Name a lost object of whichever purpose of the PRM it belongs to."""
    for purpose, shards in driver.state.shards.items():
        for shard in shards.values():
            if lost.path in (shard.rollout, shard.grades, shard.scores):
                driver.commit(stage, [driver.loss(purpose, lost.path, lost.reason)])
                return
    raise RunStopped(f"{lost.path} is corrupt or gone, and nothing can make it again: {lost}")


def lose_labels(driver: Driver, stage: str, path: str, reason: str) -> None:
    """The step values cannot be used any more: they are made again from what they were made of.

    Raises:
        RunStopped: they are lost again and again, or it is not they that are lost.
    """
    if driver.state.labels is None or path != driver.state.labels["path"]:
        raise RunStopped(f"{path} is corrupt or gone, and nothing can make it again: {reason}")
    driver.count_loss("the step values", path, reason)
    driver.commit(stage, [{"type": "labels_lost", "path": path, "reason": reason}])


# --- the gate ------------------------------------------------------------------------------------


def judge(driver: Driver, step: JudgePrm) -> None:
    """Score the held-out responses, write the card into the PRM's folder, and decide."""
    from pipeline.sampling import Sampling

    assert driver.state.labels is not None
    labels_path = driver.state.labels["path"]
    try:
        labels: list[StepValues] = read_rows(driver.store, labels_path, StepValues)
    except Lost as lost:
        lose_labels(driver, step.stage, lost.path, lost.reason)
        return
    config, rollouts = driver.program.config, step.rollouts
    scoring = Scoring(step.prm, judged_places(labels), config.prm.aggregate)
    Sampling(
        driver,
        SampleShards(step.stage, rollouts.purpose, rollouts.specs, rollouts.policy, None, scoring),
    ).run()
    shards = driver.state.shards[rollouts.purpose]
    if of_others(labels, shards.values()):
        reason = "responses were lost and came out otherwise"
        driver.commit(step.stage, _given_up(rollouts.purpose, shards, "scores", reason))
        lose_labels(driver, step.stage, labels_path, reason)
        return
    try:
        scores = _scores(driver, rollouts.purpose)
    except Lost as lost:
        _lose(driver, step.stage, lost)
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
    card = gate_card(scored, state.shards[step.rollouts.purpose].values())
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
            driver.store.get_tree(prm.path, folder)
        except (CorruptObject, StoreMissing) as error:
            raise RunStopped(f"{prm.path} is corrupt or gone: {error}") from error
        (folder / CARD).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", "utf-8")
        return publish_folder(driver.store, folder)
