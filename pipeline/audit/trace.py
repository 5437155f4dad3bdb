"""Where a training sample comes from: from the job that was trained on it back to query, image,
policy version, seed, sampling parameters, grade and score, every object on the way verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import BadConfig, CorruptObject, StoreMissing
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score, Selected
from pipeline.run.events.event import Event
from pipeline.run.events.sampling import SamplingClosed
from pipeline.run.events.training import JobDone
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.run.stored import StoredRun
from pipeline.storage.artifacts import get_verified, inspect_rows
from pipeline.storage.store import Store


@dataclass(frozen=True)
class Wanted:
    """A sample as a person names it: `[PURPOSE:]QUERY/K`, as in `evolve/1:train-17/3`.

    query: the query's id, or the beginning (8 digits or more) of its content hash.
    """

    purpose: str | None
    query: str
    sample_index: int

    def fits(self, query: str, query_id: str, sample_index: int) -> bool:
        """Whether a row is the one that is meant."""
        by_hash = len(self.query) >= 8 and query.startswith(self.query)
        return sample_index == self.sample_index and (query_id == self.query or by_hash)


def parse(text: str, purposes: list[str]) -> Wanted:
    """What a person named. Raises BadConfig, saying how samples are named."""
    rest, _, number = text.rpartition("/")
    if not rest or not number.isdigit():
        raise BadConfig(
            f"sample {text!r}: write QUERY/K, or PURPOSE:QUERY/K as in evolve/1:train-17/3; QUERY "
            "is the query's id or the beginning of its content hash, K the sample's index"
        )
    purpose = next((name for name in purposes if rest.startswith(f"{name}:")), None)
    return Wanted(purpose, rest[len(purpose) + 1 :] if purpose else rest, int(number))


def trace(run: StoredRun, sample: str) -> list[dict[str, Any]]:
    """Every use of a sample as training data, with its whole origin; plain JSON.

    Raises:
        BadConfig: there is no such run, or nothing like it was trained on.
        CorruptObject, StoreMissing: an object on the way is damaged or gone.
    """
    chosen = {place: facts for place, facts in run.shard_facts.items() if facts.get("selected")}
    wanted = parse(sample, sorted({purpose for purpose, _ in chosen}, key=len, reverse=True))
    uses = []
    for place, facts in chosen.items():
        if wanted.purpose not in (None, place[0]):
            continue
        for row in inspect_rows(run.store, facts["selected"], Selected):
            if wanted.fits(row.query, row.query_id, row.sample_index):
                origin = _Origin(run.store, run.spec, run.state, facts)
                uses.append(origin.of(row) | {"trained_by": _trained_by(run.events, place[0])})
    if not uses:
        raise BadConfig(f"run {run.name!r} was trained on no sample {sample!r}")
    return uses


def _trained_by(events: Sequence[Event], purpose: str) -> list[dict[str, Any]]:
    """The jobs that read a purpose's selections: the control repeats the warm-up's, where it has
    none of its own."""
    own = any(isinstance(one, SamplingClosed) and one.purpose == "control" for one in events)
    shared = purpose == "warmup" and not own
    chains = ("warmup/", "control/") if shared else (purpose.replace("unlabelled/", "evolve/"),)
    return [
        {
            "job": event.job,
            "key": event.key,
            "steps": event.steps,
            "policy": asdict(event.policy),
            "checkpoint": asdict(event.checkpoint),
        }
        for event in events
        if isinstance(event, JobDone) and event.job.startswith(chains)
    ]


@dataclass(frozen=True)
class _Origin:
    """facts: all that was told about the row's shard, the last word on each."""

    store: Store
    run_spec: RunSpec
    state: State
    facts: Mapping[str, Any]

    def of(self, row: Selected) -> dict[str, Any]:
        """Everything behind one selected row."""
        rollout = self._one(row, row.rollout_shard, Rollout)
        grade = self._one(row, self.facts["grades"], Grade)
        scores = self.facts.get("scores")
        return {
            "sample": {
                "purpose": self.facts["purpose"],
                "shard": self.facts["index"],
                "query": row.query,
                "query_id": row.query_id,
                "sample_index": row.sample_index,
            },
            "query": self._query(row.query),
            "images": [self._image(sha) for sha in self.run_spec.by_hash[row.query].images],
            "policy": self._policy(rollout.policy),
            "sampling": {
                "seed": rollout.seed,
                "temperature": rollout.temperature,
                "top_p": rollout.top_p,
                "max_new_tokens": self.run_spec.config.generate.max_new_tokens,
                "prompt_sha256": rollout.prompt_sha256,
                "engine": self.state.data["engine"],
            },
            "response": {
                "rollout": row.rollout_shard,
                "text": rollout.text,
                "tokens": len(rollout.token_ids),
                "finish": rollout.finish,
            },
            "grade": {
                "grades": self.facts["grades"],
                "outcome": grade.outcome,
                "extracted": grade.extracted,
                **self._compared_with(row),
                "grader": self.run_spec.grader,
            },
            "score": None if not scores else self._score(row, scores),
            "selection": {"selected": self.facts["selected"], "reward": row.reward},
        }

    def _compared_with(self, row: Selected) -> dict[str, Any]:
        """The gold answer, or the pseudo-label in its place."""
        query = self.run_spec.by_hash[row.query]
        if not query.unlabelled:
            return {"gold": query.answer}
        return {"classes": self.facts["classes"], "pseudo_label": self.facts["votes"][row.query]}

    def _one(self, row: Selected, path: str, kind: type[Any]) -> Any:
        for other in inspect_rows(self.store, path, kind):
            if (other.query, other.sample_index) == (row.query, row.sample_index):
                return other
        raise CorruptObject(f"{path} has no sample {row.sample_index} of {row.query_id}")

    def _score(self, row: Selected, path: str) -> dict[str, Any]:
        score = self._one(row, path, Score)
        prm = self.state.policies["prm"]
        steps = list(zip(score.step_ends, score.step_scores, strict=True))
        return {
            "scores": path,
            "prm": {"version": prm.version, "path": prm.path},
            "steps": steps,
            "reward_p": score.reward_p,
        }

    def _query(self, content_hash: str) -> dict[str, Any]:
        query: Query = self.run_spec.by_hash[content_hash]
        return {
            "question": query.question,
            "choices": query.choices,
            "answer_type": query.answer_type,
            "split": query.split,
            "source": query.source,
        }

    def _image(self, sha: str) -> dict[str, Any]:
        path = f"images/{sha}"
        return {"path": path, "bytes": len(get_verified(self.store, path, quarantine=False))}

    def _policy(self, version: str) -> dict[str, Any]:
        names = [name for name, ref in self.state.policies.items() if ref.version == version]
        if not names:
            raise StoreMissing(f"no event names {version}")
        return {"version": version, "path": self.state.policies[names[0]].path, "names": names}


def lines(origin: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """An origin for people: one line for each fact."""
    for name, value in origin.items():
        if isinstance(value, Mapping):
            yield "  " * depth + f"{name}:"
            yield from lines(value, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, item in enumerate(value):
                yield "  " * depth + f"{name} {number + 1} of {len(value)}:"
                yield from lines(item, depth + 1)
        else:
            yield "  " * depth + f"{name}: {value!r}"
