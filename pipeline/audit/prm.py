"""A process reward model under audit: its completions, labels and verdict, derived again.

What always holds: everything is derived from rows in the store by the very functions that the
driver uses (`pipeline.prm.annotation`), and compared with what the ledger tells; nothing is
changed. Where something that the derivation reads is damaged (the audit names it) or was lost
since, nothing can be told about what was made of it, and nothing is said.

Axes: S steps of a response.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from pipeline.audit.decisions import same_figures
from pipeline.audit.shard import Found
from pipeline.errors import CorruptObject, StoreMissing
from pipeline.phases.prm import TRAINED
from pipeline.phases.steps import Annotate, JudgePrm, Step
from pipeline.prm.annotation import (
    CARD,
    excluded_of,
    follow_rounds,
    gate_card,
    judged,
    judged_places,
    labels_key,
    labels_told,
    of_others,
    responses_to_label,
    shortfalls_of,
    valued_rows,
)
from pipeline.prm.completions import CompletionSpec, cut_places, reached
from pipeline.prm.labels import Decode, Labelled, Picked, Prefix, Reached
from pipeline.records import Grade, Rollout, Score, StepValues
from pipeline.refs import PolicyRef
from pipeline.run.events.prm import LabelsMade, PrmJudged
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.stages.grade import with_grades
from pipeline.stages.score import Scoring
from pipeline.storage.artifacts import get_verified, inspect_rows
from pipeline.storage.models import policy_at
from pipeline.storage.store import Store
from pipeline.storage.trees import read_manifest

Decoder = Callable[[PolicyRef], Decode]
"""Gives what turns a policy's tokens into text. Raises CorruptObject or
StoreMissing: it cannot be read."""


class PrmAudit:
    """Follows the building of one run's PRM beside its ledger."""

    def __init__(self, store: Store, run_spec: RunSpec, decoder: Decoder | None) -> None:
        self._store = store
        self._run_spec = run_spec
        self._decoder = decoder
        self._decode: Decode | None = None
        self._responses: tuple[list[Labelled], Picked] | None = None
        self._values: dict[str, dict[Prefix, Reached]] = {}
        self.lost = False
        """Something that the derivation reads is gone: nothing more can be told."""

    def forget(self) -> None:
        """Derive everything anew: something that it was derived from is made again."""
        self._responses, self.lost = None, False
        self._values.clear()

    def decode(self, state: State) -> Decode | None:
        """From sampled tokens to text; None when the policy that says how is damaged.

        Raises:
            RuntimeError: this audit was given no decoder.
        """
        if self._decode is None:
            if self._decoder is None:
                raise RuntimeError("an audit of a process reward model needs a decoder")
            try:
                self._decode = self._decoder(state.policies["warmup"])
            except (CorruptObject, StoreMissing):
                return None
        return self._decode

    # --- completions ----------------------------------------------------------------------------

    def round(self, state: State, step: Annotate, number: int) -> tuple[CompletionSpec, ...]:
        """The shards of one round of completions; none, too, where it cannot be told (`lost`)."""

        def before(at: int, specs: tuple[CompletionSpec, ...]) -> dict[Prefix, Reached] | None:
            return self._completed(state, specs) if at < number else None

        if self.lost:
            return ()
        try:
            responses = self._chosen(state, step)[0]
            return follow_rounds(self._run_spec, step.policy, responses, before)[2]
        except (CorruptObject, StoreMissing):
            self.lost = True
            return ()

    def _chosen(self, state: State, step: Annotate) -> tuple[list[Labelled], Picked]:
        """The responses that are labelled."""
        decode = self.decode(state)
        if decode is None:
            raise CorruptObject("the policy that says what tokens mean is damaged")
        if self._responses is None:
            rows, outcomes, shards = [], [], []
            for _, shard in sorted(state.shards[step.rollouts].items()):
                grades = inspect_rows(self._store, _told(shard.grades), Grade)
                graded = with_grades(inspect_rows(self._store, shard.rollout, Rollout), grades)
                rows += graded[0]
                outcomes += [grade.outcome for grade in graded[1]]
                shards += [shard.rollout] * len(graded[0])
            self._responses = responses_to_label(self._run_spec, rows, outcomes, shards, decode)
        return self._responses

    def _completed(self, state: State, specs: tuple[CompletionSpec, ...]) -> dict[Prefix, Reached]:
        """What the completions of a round reached.

        Raises:
            KeyError, ValueError: the round is not over.
        """
        values: dict[Prefix, Reached] = {}
        for spec in specs:
            if spec.key not in self._values:
                shard = state.shards[spec.purpose][spec.index]
                truncated = cut_places(get_verified(self._store, shard.rollout, quarantine=False))
                grades = inspect_rows(self._store, _told(shard.grades), Grade)
                self._values[spec.key] = reached(spec, grades, truncated)
            values |= self._values[spec.key]
        return values

    # --- labels ---------------------------------------------------------------------------------

    def labels(self, state: State, step: Step | None, event: LabelsMade) -> Iterator[Found]:
        """What is wrong with the step values that an event names, given their completions."""
        path = event.path
        if not isinstance(step, Annotate):
            yield path, "nothing asked for these labels"
            return
        if self.lost:
            return
        try:
            responses, counts = self._chosen(state, step)
            values, _, _ = follow_rounds(
                self._run_spec,
                step.policy,
                responses,
                lambda _, specs: self._completed(state, specs),
            )
            got: list[StepValues] = inspect_rows(self._store, path, StepValues)
        except (CorruptObject, StoreMissing):
            self.lost = True
            return
        run_spec = self._run_spec
        want = valued_rows(run_spec, responses, values)
        if path.split("/")[2] != labels_key(want):
            yield path, "its key is not that of the values which its completions give"
        counted = labels_told(run_spec, path, want, counts, responses)
        if event.compared() != counted.compared():
            yield path, "its event counts other responses or another cost"
        if len(got) != len(want):
            yield path, f"it holds {len(got)} responses, and {len(want)} were labelled"
        for got_row, want_row in zip(got, want, strict=False):
            if got_row != want_row:
                yield path, _difference(got_row, want_row)

    # --- the verdict ----------------------------------------------------------------------------

    def scoring(self, state: State) -> Scoring | None:
        """What is scored for the gate; None where there are no labels, or none that can be read."""
        if state.labels is None:
            return None
        try:
            labels: list[StepValues] = inspect_rows(self._store, state.labels["path"], StepValues)
        except (CorruptObject, StoreMissing):
            return None
        prm = state.policies[TRAINED]
        return Scoring(prm, judged_places(labels), self._run_spec.config.prm.aggregate)

    def verdict(self, state: State, step: Step | None, event: PrmJudged) -> Iterator[Found]:
        """What is wrong with a judgement, given labels, scores and the model that was trained."""
        path, card = event.path, event.card
        if not isinstance(step, JudgePrm):
            yield path, "nothing asked for a judgement of it"
            return
        assert state.labels is not None
        reasons = shortfalls_of(self._run_spec, card)
        used = not reasons or self._run_spec.config.prm.use_anyway
        if (event.reasons, event.used) != (list(reasons), used):
            yield path, "whether it is used does not follow from its card"
        if event.version != policy_at(path).version:
            yield path, f"its event calls it {event.version}"
        try:
            if self._weights(path) != self._weights(step.prm.path):
                yield path, f"it is not the model that was trained, {step.prm.path}, with a card"
            stored = json.loads(self._store.get(f"{path}/{CARD}"))
            labels = inspect_rows(self._store, state.labels["path"], StepValues)
            shards = state.shards[step.rollouts.purpose]
            scores: list[Score] = []
            for _, shard in sorted(shards.items()):
                scores += inspect_rows(self._store, _told(shard.scores), Score)
        except (CorruptObject, StoreMissing):
            return
        same = stored["labels"]["path"] == state.labels["path"]
        if not same_figures(stored["gate"], card) or not same:
            yield path, f"{CARD} in it tells of another judgement"
        if of_others(labels, shards.values()):
            yield path, "its labels are of other responses than were scored"
        scored = list(judged(self._run_spec.by_hash, labels, scores))
        derived = gate_card(self._run_spec, scored, excluded_of(shards.values()))
        if not same_figures(derived, card):
            yield path, "its card is not what its labels and their scores give"

    def _weights(self, path: str) -> dict[str, str]:
        files = read_manifest(self._store, path).files
        return {file.path: file.sha256 for file in files if file.path != CARD}


def _difference(got: StepValues, want: StepValues) -> str:
    name = f"sample {want.sample_index} of {want.query_id}"
    if (got.query, got.sample_index) != (want.query, want.sample_index):
        return f"it holds sample {got.sample_index} of {got.query_id} in the place of {name}"
    if (got.token_ids, got.rollout_shard) != (want.token_ids, want.rollout_shard):
        return f"{name} is not what was sampled"
    if got.step_ends != want.step_ends:
        return f"the steps of {name} end elsewhere"
    pairs = zip(got.values, got.completions, want.values, want.completions, strict=True)
    for step, (value, n, value_wanted, n_wanted) in enumerate(pairs):
        if (value, n) != (value_wanted, n_wanted):
            return (
                f"step {step} of {name} has the value {value:.4g} of {n} completions; "
                f"they give {value_wanted:.4g} of {n_wanted}"
            )
    return f"{name} has another prompt, grade or side of the split"


def _told(path: str | None) -> str:
    """The object that an event should have named.

    Raises:
        ValueError: none did.
    """
    if path is None:
        raise ValueError("no event tells of the grades or scores of a shard that it builds on")
    return path
