"""The driver's work on a process reward model: annotate, judge, and hand out what is to be scored.

Everything read is verified; what is corrupt or gone is named in an event and made again. Doing any
of this twice stores the same bytes: after a crash it is simply done again, and completions that are
in the store are adopted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

from pipeline.driver.losses import give_up_shards, lose_object
from pipeline.errors import ArtifactLost, CorruptObject, RunStopped, StoreMissing
from pipeline.phases.steps import Annotate, SampleShards
from pipeline.prm.annotation import (
    LABELS,
    labels_key,
    labels_told,
    responses_to_label,
    round_of,
    valued_rows,
)
from pipeline.prm.completions import CompletionSpec, cut_places, reached
from pipeline.prm.labels import Labelled, Picked, Prefix, Reached, cost, next_prefixes
from pipeline.records import Grade, StepValues
from pipeline.refs import PRM_VALUES, ShardSet
from pipeline.stages.grade import graded_rows
from pipeline.storage.artifacts import get_verified, put_content, read_rows
from pipeline.storage.parquet import to_parquet

if TYPE_CHECKING:
    from pipeline.driver.driver import Driver


# --- annotation ----------------------------------------------------------------------------------


def annotate(driver: Driver, step: Annotate) -> None:
    """From graded rollouts to stored step values; one event when all of it is there."""
    try:
        responses, counts = _chosen(driver, step)
        found = _completed(driver, step, responses)
    except ArtifactLost as lost:
        lose_object(driver, step.stage, lost)
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
    from pipeline.driver.sample import SampleStage

    prm = driver.program.config.prm
    found: dict[Prefix, Reached] = {}
    for number in count():
        wanted = next_prefixes(responses, found, early_stop=prm.early_stop)
        if not wanted:
            break
        purpose = ShardSet(PRM_VALUES, number)
        specs = round_of(driver.program, step.policy, number, wanted)
        _drop_others(driver, step.stage, purpose, specs)
        there = driver.state.shards.get(purpose, {})
        if purpose not in driver.state.closed or any(spec.index not in there for spec in specs):
            SampleStage(driver, SampleShards(step.stage, purpose, specs, step.policy, None)).run()
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
        driver.commit(stage, give_up_shards(purpose, others, "rollout", reason))


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
            raise ArtifactLost(shard.rollout, str(error)) from error
        found |= reached(spec, read_rows(driver.store, shard.grades, Grade), cut)
    return found
