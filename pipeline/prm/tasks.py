"""The parts of building a PRM that read or write stored shards: annotation and the gate.

As every task (`pipeline.stages.tasks`) they are done outside the driver's process and may be done
twice. Both start from the rows in the store each time, so nothing is kept between two rounds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.fields import hashed_section
from pipeline.errors import RunStopped
from pipeline.hashing import canonical_json
from pipeline.prm.annotation import (
    CARD,
    LABELS,
    follow_rounds,
    gate_card,
    judged,
    judged_places,
    labels_key,
    labels_told,
    responses_to_label,
    shortfalls_of,
    valued_rows,
)
from pipeline.prm.completions import CompletionSpec, cut_places, reached
from pipeline.prm.labels import Cost, Labelled, Picked, Prefix, Reached, cost
from pipeline.records import Grade, Score, StepValues
from pipeline.refs import PolicyRef
from pipeline.run.events.prm import LabelsMade
from pipeline.run.spec import RunSpec
from pipeline.stages.evaluate import StoredShard
from pipeline.stages.grade import graded_rows
from pipeline.stages.tasks import StageTask, TaskContext
from pipeline.storage.artifacts import get_verified, needed, put_content, read_rows
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store
from pipeline.storage.trees import fetch_tree


@dataclass(frozen=True)
class NextRound:
    """Completions that are still to be sampled before every step has its value."""

    number: int
    specs: tuple[CompletionSpec, ...]
    cost: Cost


@dataclass(frozen=True)
class AnnotateTask(StageTask):
    """The next round of completions or, where none is needed any more, the step values.

    policy: the one that sampled. shards: the graded rollouts whose steps are labelled, in plan
    order. rounds: of every round of completions that is over the keys of its shards, and the
    shards, in plan order.
    """

    policy: PolicyRef
    shards: tuple[StoredShard, ...]
    rounds: tuple[tuple[tuple[str, StoredShard], ...], ...]

    def run(self, context: TaskContext) -> NextRound | LabelsMade:
        """Choose the responses, and follow the rounds as far as they are over: gives the next one
        or, with the step values stored, the event that says so.

        Raises:
            ArtifactLost: an object is corrupt or gone.
            RunStopped: too few responses to train on and to judge by.
        """
        spec = context.spec
        responses, counts = self._chosen(context)

        def completed(
            number: int, specs: tuple[CompletionSpec, ...]
        ) -> dict[Prefix, Reached] | None:
            over = self.rounds[number] if number < len(self.rounds) else ()
            if [one.key for one in specs] != [key for key, _ in over]:
                return None
            values: dict[Prefix, Reached] = {}
            for one, (_, shard) in zip(specs, over, strict=True):
                values |= _values_of(context.store, one, shard)
            return values

        values, number, specs = follow_rounds(spec, self.policy, responses, completed)
        if specs:
            return NextRound(number, specs, cost(responses, spec.config.prm.completions))
        rows = valued_rows(spec, responses, values)
        if sum(row.held_out for row in rows) in (0, len(rows)):
            raise RunStopped(_too_few(counts))
        data = to_parquet(rows, StepValues)
        path = put_content(context.store, LABELS, labels_key(rows), data, "parquet")
        return labels_told(spec, path, rows, counts, responses)

    def _chosen(self, context: TaskContext) -> tuple[list[Labelled], Picked]:
        """The responses to label."""
        if context.decoder is None:
            raise RuntimeError("annotation needs a decoder of the policy's tokens")
        rows, outcomes, paths = [], [], []
        for shard in self.shards:
            graded = graded_rows(context.store, shard.rollout, shard.grades)
            rows += graded[0]
            outcomes += [grade.outcome for grade in graded[1]]
            paths += [shard.rollout] * len(graded[0])
        decode = context.decoder(self.policy)
        return responses_to_label(context.spec, rows, outcomes, paths, decode)


def _values_of(store: Store, spec: CompletionSpec, shard: StoredShard) -> dict[Prefix, Reached]:
    with needed(shard.rollout):
        truncated = cut_places(get_verified(store, shard.rollout))
    return reached(spec, read_rows(store, shard.grades, Grade), truncated)


def _too_few(counts: Picked) -> str:
    return (
        f"of {counts.questions} questions {counts.always_right} were always right and "
        f"{counts.never_right} never, and {counts.mixed} can be labelled: too few to train a "
        "process reward model and to judge it. Raise prm.queries or prm.samples, or set "
        "select.reward=binary"
    )


@dataclass(frozen=True)
class HeldOutTask(StageTask):
    """The responses that the gate scores, from the step values at `labels`."""

    labels: str

    def run(self, context: TaskContext) -> tuple[tuple[str, int], ...]:
        """Query and sample index of each held-out response.

        Raises:
            ArtifactLost: the step values are corrupt or gone.
        """
        return judged_places(read_rows(context.store, self.labels, StepValues))


@dataclass(frozen=True)
class Verdict:
    """A PRM with its card inside, and why it should not be used (`reasons`, empty: it passes)."""

    published: PolicyRef
    card: dict[str, Any]
    reasons: list[str]


@dataclass(frozen=True)
class JudgeTask(StageTask):
    """Compare a PRM's scores with the step values of the held-out responses, and write its card.

    labels: the state's `labels`. shards: the scored rollouts, in plan order. excluded: of each
    shard how many responses have no score, by reason. policy: version of the warm-up policy.
    training: report of the PRM's job.
    """

    prm: PolicyRef
    policy: str
    labels: Mapping[str, Any]
    training: Mapping[str, Any]
    shards: tuple[StoredShard, ...]
    excluded: tuple[Mapping[str, int], ...]

    def run(self, context: TaskContext) -> Verdict | None:
        """The verdict; None: the step values are of other responses than the shards hold now.

        Raises:
            ArtifactLost: an object is corrupt or gone.
        """
        labels: list[StepValues] = read_rows(context.store, self.labels["path"], StepValues)
        rollouts = {shard.rollout for shard in self.shards}
        if any(row.rollout_shard not in rollouts for row in labels):
            return None
        paths = [shard.scores for shard in self.shards if shard.scores is not None]
        scores = [row for path in paths for row in read_rows(context.store, path, Score)]
        scored = list(judged(context.spec.by_hash, labels, scores))
        card = gate_card(context.spec, scored, self.excluded)
        reasons = shortfalls_of(context.spec, card)
        published = self._with_card(context, card, reasons)
        return Verdict(published, card, reasons)

    def _with_card(
        self, context: TaskContext, card: Mapping[str, Any], reasons: Sequence[str]
    ) -> PolicyRef:
        """The PRM's folder with its card in it, in the store."""
        facts = self._facts(context.spec, card, reasons)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "prm"
            with needed(self.prm.path):
                fetch_tree(context.store, self.prm.path, folder)
            (folder / CARD).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")
            return publish_folder(context.store, folder)

    def _facts(self, spec: RunSpec, card: Mapping[str, Any], reasons: Sequence[str]) -> Any:
        """What the card's file holds."""
        facts = {
            "policy": self.policy,
            "prm": self.prm.version,
            "settings": hashed_section(spec.config, "prm"),
            "labels": dict(self.labels),
            # Nothing in a content-addressed folder may depend on when it was written.
            "training": {k: v for k, v in self.training.items() if k != "seconds"},
            "gate": dict(card),
            "shortfalls": list(reasons),
        }
        return json.loads(canonical_json(facts))
