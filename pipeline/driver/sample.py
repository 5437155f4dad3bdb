"""Sampling one purpose: its shards generated, graded and selected, as a stream.

A shard is graded as soon as it lands, while later ones are still being generated. What is under way
is held here and nowhere else; the ledger knows what is done.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.errors import RunStopped
from pipeline.generation.adoption import adoptable
from pipeline.generation.fleet import ShardDone, ShardFailed
from pipeline.generation.shards import ShardSpec
from pipeline.phases.steps import SampleShards
from pipeline.run.events.sampling import SamplingClosed
from pipeline.run.state import ShardState
from pipeline.stages.grade import GradeDone, GradeTask, ObjectLost
from pipeline.stages.score import ScoreFailed, Scorer, ScoreTask
from pipeline.stages.workers import Progress
from pipeline.storage.artifacts import SCORES

if TYPE_CHECKING:
    from pipeline.driver.driver import Driver


class SampleStage:
    """One pass through a `SampleShards` step.

    not begun ──► under way ──► accepted ──► being graded ──► (being scored) ──► done
        │  in the store already     ▲  │          │                │
        └────────── adopted ────────┘  └── lost ──┴────────────────┴──► not begun, or back a step
    """

    def __init__(self, driver: Driver, step: SampleShards) -> None:
        self.driver = driver
        self.step = step
        self.by_key = {spec.key: spec for spec in step.specs}
        self.under_way: set[str] = set()
        self.being_graded: set[str] = set()
        self.being_scored: set[str] = set()
        self.first = 0

    def run(self) -> None:
        """Until every shard is done; then the purpose is closed."""
        self._show()
        while self._unfinished():
            adopted = self._dispatch()
            events = adopted + self._collect({event["index"] for event in adopted})
            if not events:
                self.driver.rest()
                continue
            known = set(self.driver.state.bad_queries)
            self.driver.commit(self.step.stage, events)
            self._check_bad_queries(known)
            self._show()
        self.driver.commit(self.step.stage, [SamplingClosed.of(self.step.purpose, self._shards)])

    @property
    def _shards(self) -> dict[int, ShardState]:
        return self.driver.state.shards.get(self.step.purpose, {})

    def _done(self, index: int) -> bool:
        shard = self._shards.get(index)
        scored = self.step.scoring is None or (shard is not None and shard.scores is not None)
        return shard is not None and shard.done and scored

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
            elif shard is not None and shard.done and self._to_score(spec):
                self.being_scored.add(spec.key)
                self._scorer.submit(score_task(self.driver, self.step, spec, shard))
        return adopted

    @property
    def _scorer(self) -> Scorer:
        if self.driver.world.scorer is None:
            raise RuntimeError("a step asks for scores, and this world has no scorer")
        return self.driver.world.scorer

    def _to_score(self, spec: ShardSpec) -> bool:
        return not self._done(spec.index) and spec.key not in self.being_scored

    def _task(self, spec: ShardSpec, shard: ShardState) -> GradeTask:
        by_hash = self.driver.program.by_hash
        return GradeTask(
            key=spec.key,
            rollout=shard.rollout,
            queries_Q=tuple(by_hash[item] for item in spec.queries_Q if item not in shard.bad),
            samples={item: spec.samples_of(item) for item in spec.queries_Q},
            prompt=spec.prompt,
            # With a PRM selection waits for its scores.
            rule=self.step.rule if self.step.scoring is None else None,
            seed=self.driver.program.config.run.seed,
        )

    # -- in -------------------------------------------------------------------------------------

    def _collect(self, adopted: set[int]) -> list[dict[str, Any]]:
        """Events for what has come back. Answers that nobody waits for any more are dropped, and so
        are those of shards that were found in the store at this very moment."""
        events: dict[tuple[str, int], dict[str, Any]] = {}
        for answer in self.driver.world.fleet.poll():
            spec = self.by_key.get(answer.key)
            if spec is None:
                continue
            self.under_way.discard(answer.key)
            if isinstance(answer, ShardFailed):
                self._failed(spec, answer)
            elif spec.index not in self._shards and spec.index not in adopted:
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
        if self.step.scoring is not None:
            events |= self._collect_scores()
        return list(events.values())

    def _collect_scores(self) -> dict[tuple[str, int], dict[str, Any]]:
        events: dict[tuple[str, int], dict[str, Any]] = {}
        for answer in self._scorer.poll():
            spec = self.by_key.get(answer.key)
            shard = self._shards.get(spec.index) if spec is not None else None
            if spec is None or shard is None or self._done(spec.index):
                continue
            self.being_scored.discard(answer.key)
            if isinstance(answer, ScoreFailed):
                lost = score_lost(self.driver, self.step.purpose, spec, answer)
                if lost is not None:
                    events["scored", spec.index] = lost
            elif answer.rollout == shard.rollout and shard.done:
                scored = {"type": "shard_scored", "purpose": self.step.purpose, "index": spec.index}
                events["scored", spec.index] = scored | asdict(answer)
        return events

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
        done = sum(map(self._done, self._shards))
        tokens = sum(shard.tokens for shard in self._shards.values())
        note = f"{tokens} tokens" if tokens else "until the first: engines start, load the policy"
        total = len(self.step.specs)
        self.driver.watch.progress(Progress(self.step.stage, done, total, "shards", note))


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
