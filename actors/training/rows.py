"""From selections in the store to the rows that a learner trains on.

What always holds: a row's response is the ids that were sampled, its prompt is what the policy's
own processor makes of the query, and that hashes to what the engine was fed; a row of which this is
not true stops the job. It is looked at where the prompt is processed anyway, in the ranks
(`actors.model.collate`): the row carries length and hash from the rollout, and no image is opened
here. Warm-up chains were sampled from a prompt that held the gold answer: they
are trained on under the question alone, so there is no engine's hash to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from actors.model.images import image_path
from actors.model.processor import Processor, load_processor, processor_sha256
from pipeline.datasets.images import decode
from pipeline.errors import ArtifactLost, UserError
from pipeline.prm.labels import LabelKind, target
from pipeline.prompts import PromptTemplates, prompt_hash
from pipeline.query import Query
from pipeline.records import Rollout, Selected, StepValues
from pipeline.storage.artifacts import get_verified, needed, read_rows
from pipeline.storage.store import Store
from pipeline.training.job import PrmLearning
from pipeline.training.rows import TrainRow


class GuardFailed(UserError):
    """Going on would train on something wrong."""


@dataclass(frozen=True)
class Rows:
    """A job's rows in plan order, and the engine's log-probabilities of their tokens."""

    rows: list[TrainRow]
    logprobs: list[tuple[float, ...]]


class RowMaker:
    """Makes rows with the processor of the policy they are for; remembers prompts."""

    def __init__(
        self,
        store: Store,
        queries: Mapping[str, Query],
        templates: PromptTemplates,
        processors: Callable[[Path], Processor] | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        self._store = store
        self._queries = queries
        self._templates = templates
        # Rows need no weights, and a learner fetches none.
        self._load_processor = processors or partial(load_processor, weights=False, trusted=trusted)
        self._processor: Processor | None = None
        self._sha256 = ""

    def processor(self, folder: Path) -> Processor:
        """The processor of a policy folder. One with equal files is kept, and so are the prompts
        that it has made."""
        sha256 = processor_sha256(folder)
        if self._processor is None or self._sha256 != sha256:
            self._processor, self._sha256 = self._load_processor(folder), sha256
        return self._processor

    def rows(
        self, processor: Processor, paths: tuple[str, ...], prm: PrmLearning | None = None
    ) -> Rows:
        """The rows of these selections; with `prm`, of step values that are not held out.

        Raises:
            ArtifactLost: an object is corrupt or gone.
            GuardFailed: a response was sampled from another prompt.
        """
        if prm is not None:
            return Rows(list(self._step_rows(processor, paths, prm.labels)), [])
        made = Rows([], [])
        for path in paths:
            selected: list[Selected] = read_rows(self._store, path, Selected)
            tokens = self._prompt_tokens(selected)
            made.rows.extend(
                self._row(processor, row, tokens.get((row.query, row.sample_index), 0))
                for row in selected
            )
            made.logprobs.extend(row.logprobs for row in selected)
        return made

    def gold(self, processor: Processor, gold: Sequence[tuple[str, str]]) -> Rows:
        """Rows of responses that nobody sampled, by query and text; none has log-probabilities."""
        return Rows([self._gold_row(processor, *pair) for pair in gold], [])

    def _gold_row(self, processor: Processor, name: str, text: str) -> TrainRow:
        query = self._queries[name]
        prompt = self._prompt(processor, query)
        ids = processor.input_ids(prompt, query.images, self._open_image)
        response = processor.response_ids(text)
        return TrainRow(prompt, query.images, len(ids), prompt_hash(ids), response)

    def _prompt(self, processor: Processor, query: Query) -> str:
        text = self._templates.text(query)
        return processor.prompt(text, len(query.images), self._templates.system)

    def _step_rows(
        self, processor: Processor, paths: tuple[str, ...], kind: LabelKind
    ) -> Iterator[TrainRow]:
        for path in paths:
            valued: list[StepValues] = read_rows(self._store, path, StepValues)
            for row in valued:
                if row.held_out:
                    continue
                # One token more than the last step, which is predicted and never read.
                read = row.token_ids[: row.step_ends[-1] + 1]
                yield replace(
                    self._row(processor, row, row.prompt_tokens),
                    token_ids_T=read,
                    step_ends_S=row.step_ends,
                    targets_S=tuple(target(value, kind) for value in row.values),
                )

    def _prompt_tokens(self, rows: Sequence[Selected]) -> dict[tuple[str, int], int]:
        """How long the prompts were that these rows were sampled from, as far as their rollouts can
        be read: what is lost there is no loss for training."""
        found: dict[tuple[str, int], int] = {}
        for path in {row.rollout_shard for row in rows if row.prompt_sha256}:
            with suppress(ArtifactLost):
                rollouts: list[Rollout] = read_rows(self._store, path, Rollout)
                found |= {(one.query, one.sample_index): one.prompt_tokens for one in rollouts}
        return found

    def _row(self, processor: Processor, row: Selected | StepValues, tokens: int) -> TrainRow:
        """tokens: of the prompt that it was sampled from; 0: nobody knows."""
        query = self._queries[row.query]
        prompt = self._prompt(processor, query)
        if row.prompt_sha256 and tokens:
            return TrainRow(prompt, query.images, tokens, row.prompt_sha256, row.token_ids)
        ids = processor.input_ids(prompt, query.images, self._open_image)
        hashed = prompt_hash(ids)
        if row.prompt_sha256 not in ("", hashed):
            raise GuardFailed(
                f"query {query.query_id}: its response was sampled from a prompt that hashes to "
                f"{row.prompt_sha256[:16]}, and the policy's processor now makes {hashed[:16]}: "
                "another processor, chat template or image"
            )
        return TrainRow(prompt, query.images, len(ids), hashed, row.token_ids)

    def _open_image(self, sha: str) -> Any:
        path = image_path(sha)
        with needed(path):
            return decode(get_verified(self._store, path))
