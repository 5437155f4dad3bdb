"""Sampling one purpose: its shards generated, graded and selected, as a stream.

A shard is graded as soon as it lands, while later ones are still being generated. What is under way
is held here and nowhere else; the ledger knows what is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.agenda import RunStopped, SampleShards
from pipeline.plan import ShardSpec
from pipeline.roles import GradeDone, GradeTask, ObjectLost, Progress, ShardDone, ShardFailed
from pipeline.select import Coverage
from pipeline.stages import adoptable
from pipeline.state import ShardState

if TYPE_CHECKING:
    from pipeline.driver import Driver


class Sampling:
    """One pass through a `SampleShards` step.

    not begun ──► under way ──► accepted ──► being graded ──► done
        │  in the store already     ▲  │          │
        └────────── adopted ────────┘  └── lost ──┴──► not begun
    """

    def __init__(self, driver: Driver, step: SampleShards) -> None:
        self.driver = driver
        self.step = step
        self.by_key = {spec.key: spec for spec in step.specs}
        self.under_way: set[str] = set()
        self.being_graded: set[str] = set()
        self.first = 0

    def run(self) -> None:
        """Until every shard is done; then the purpose is closed."""
        while self._unfinished():
            events = self._dispatch() + self._collect()
            if not events:
                self.driver.rest()
                continue
            known = set(self.driver.state.bad_queries)
            self.driver.commit(self.step.stage, events)
            self._check_bad_queries(known)
            self._show()
        self.driver.commit(self.step.stage, [self._closing()])

    @property
    def _shards(self) -> dict[int, ShardState]:
        return self.driver.state.shards.get(self.step.purpose, {})

    def _done(self, index: int) -> bool:
        shard = self._shards.get(index)
        return shard is not None and shard.done

    def _unfinished(self) -> bool:
        while self.first < len(self.step.specs) and self._done(self.first):
            self.first += 1
        return self.first < len(self.step.specs)

    # -- out ------------------------------------------------------------------------------------

    def _dispatch(self) -> list[dict[str, Any]]:
        """Hand out what the look-ahead allows; gives the events of shards that were adopted."""
        lookahead = self.driver.program.config.generate.lookahead
        adopted = []
        for spec in self.step.specs[self.first : self.first + lookahead]:
            shard = self._shards.get(spec.index)
            if shard is None and spec.key not in self.under_way:
                found = adoptable(self.driver.store, spec)
                if found is not None:
                    adopted.append(self._accepted(spec, found, adopted=True))
                    continue
                self.under_way.add(spec.key)
                self.driver.world.fleet.submit(spec, self.step.policy)
            elif shard is not None and not shard.done and spec.key not in self.being_graded:
                self.being_graded.add(spec.key)
                self.driver.world.grader.submit(self._task(spec, shard))
        return adopted

    def _task(self, spec: ShardSpec, shard: ShardState) -> GradeTask:
        by_hash = self.driver.program.by_hash
        return GradeTask(
            key=spec.key,
            rollout=shard.rollout,
            queries_Q=tuple(by_hash[item] for item in spec.queries_Q if item not in shard.bad),
            samples={item: spec.samples_of(item) for item in spec.queries_Q},
            prompt=spec.prompt,
            rule=self.step.rule,
            seed=self.driver.program.config.run.seed,
        )

    # -- in -------------------------------------------------------------------------------------

    def _collect(self) -> list[dict[str, Any]]:
        """Events for what has come back. Answers that nobody waits for any more are dropped."""
        events: dict[tuple[str, int], dict[str, Any]] = {}
        for answer in self.driver.world.fleet.poll():
            spec = self.by_key.get(answer.key)
            if spec is None:
                continue
            self.under_way.discard(answer.key)
            if isinstance(answer, ShardFailed):
                self._failed(spec, answer)
            elif spec.index not in self._shards:
                events.setdefault(("accepted", spec.index), self._accepted(spec, answer))
        for result in self.driver.world.grader.poll():
            spec = self.by_key.get(result.key)
            shard = self._shards.get(spec.index) if spec is not None else None
            if spec is None or shard is None or shard.done:
                continue
            self.being_graded.discard(result.key)
            if ("graded", spec.index) in events:
                continue
            if isinstance(result, GradeDone) and result.rollout == shard.rollout:
                events["graded", spec.index] = self._graded(spec, result)
            elif isinstance(result, ObjectLost) and result.path == shard.rollout:
                lost = self.driver.loss(self.step.purpose, result.path, result.reason)
                events["graded", spec.index] = lost
        return list(events.values())

    def _failed(self, spec: ShardSpec, answer: ShardFailed) -> None:
        """What a shard reads may be mended, and then it is dispatched again; the rest is fatal."""
        if answer.kind == "lost" and self.driver.mended(answer.path, answer.reason):
            return
        raise RunStopped(
            f"shard {spec.index} of {spec.purpose} could not be generated: {answer.reason}"
        )

    def _accepted(
        self, spec: ShardSpec, answer: ShardDone, adopted: bool = False
    ) -> dict[str, Any]:
        return {
            "type": "shard_accepted",
            "purpose": self.step.purpose,
            "index": spec.index,
            "adopted": adopted,
            **asdict(answer),
        }

    def _graded(self, spec: ShardSpec, result: GradeDone) -> dict[str, Any]:
        graded = {"type": "shard_graded", "purpose": self.step.purpose, "index": spec.index}
        return graded | asdict(result)

    # -- limits and reports -----------------------------------------------------------------------

    def _check_bad_queries(self, known: set[str]) -> None:
        """Say which queries are left out that were not `known` to be; too many stop the run."""
        bad = self.driver.state.bad_queries
        for query in bad.keys() - known:
            self.driver.watch.say(f"left out: {self._named(query, bad[query])}")
        allowed = self.driver.program.config.generate.max_bad_queries
        if len(bad) > allowed:
            names = [self._named(query, reason) for query, reason in list(bad.items())[:5]]
            raise RunStopped(
                f"{len(bad)} queries cannot be used, and generate.max_bad_queries = {allowed}:"
                + "".join(f"\n  {name}" for name in names)
            )

    def _named(self, query: str, reason: str) -> str:
        known = self.driver.program.by_hash.get(query)
        return f"{known.query_id if known else query}: {reason}"

    def _show(self) -> None:
        done = sum(shard.done for shard in self._shards.values())
        tokens = sum(shard.tokens for shard in self._shards.values())
        self.driver.watch.progress(
            Progress(self.step.stage, done, len(self.step.specs), "shards", f"{tokens} tokens")
        )

    def _closing(self) -> Mapping[str, Any]:
        shards: Sequence[ShardState] = list(self._shards.values())
        total = sum((Coverage(**shard.coverage) for shard in shards), Coverage())
        return {
            "type": "sampling_closed",
            "purpose": self.step.purpose,
            "coverage": total.to_dict(),
            "rows": sum(shard.rows for shard in shards),
            "tokens": sum(shard.tokens for shard in shards if not shard.adopted),
        }
