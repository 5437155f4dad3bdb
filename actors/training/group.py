"""The learner as the driver sees it: a group of ranks that trains one policy, kept alive over many
intervals.

Always: a call returns what every rank agreed on, or raises `WorkFailed` within a bounded time; a
group that raised is closed and another one starts from the last checkpoint. An infrastructure
failure is about the ranks (one died, hung, ran out of memory): try again. Any other is about the
work and would happen again.

    group = LearnerGroup.start(settings, Source(policy.path), Means(store, images, cache))
    metrics = group.train(rows, seed)         # as often as there are intervals
    saved = group.checkpoint(cursor)          # on its way to the store while training goes on
    group.settle()
    saved.complete(store)
    path = group.publish()
    group.close()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil

from actors.supervision.failures import Failure, WorkFailed
from actors.training.checkpoint_tree import Checkpoint
from actors.training.hub import CommandStatus, Hub
from actors.training.source import Means, Source
from pipeline.errors import BadConfig
from pipeline.training.metrics import TrainMetrics, merge, merge_logprobs
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings, Span, resources_of_rank

Rows = Sequence[TrainRow] | Callable[[], Sequence[TrainRow]]
Progress = Callable[[str], None]
POLL_S = 2.0

OF_PROCESSES = (
    "ranks", "cpus_per_rank", "gpus_per_rank", "rank_resource",
    "collective_timeout_s", "start_s", "hang_s", "answer_s", "end_s",
)  # fmt: skip
"""Settings that cannot change in a running group."""


def ranks_failed(reason: str) -> WorkFailed:
    """The worker group is gone, the work is fine: start another one."""
    return WorkFailed(Failure("infrastructure", reason))


class LearnerGroup:
    """A running worker group; make it with `start`."""

    def __init__(self, hub: Any, settings: LearnSettings) -> None:
        self._hub: Any | None = hub
        self.settings = settings
        self._held: tuple[Rows, Any] | None = None

    @classmethod
    def start(
        cls,
        settings: LearnSettings,
        source: Source,
        means: Means,
        *,
        wait: bool = True,
    ) -> LearnerGroup:
        """Launch the ranks; Ray must be initialised.

        wait: False returns at once, the first call then waits for the ranks.
        """
        import ray

        _check_resources(settings, ray.cluster_resources())
        hub = ray.remote(Hub).options(**_hub_options(settings)).remote(settings)
        config = {"hub": hub, "settings": settings, "source": source, "means": means}
        group = cls(hub, settings)
        try:
            group._launch(config)
            if wait:
                group.ready()
        except BaseException:  # raised on; Ctrl-C while the ranks start must not leave them
            group.close()
            raise
        return group

    def ready(self, progress: Progress | None = None) -> dict[str, Any]:
        """Wait until all ranks are up; `step` and `cursor` of where they stand."""
        return self._agreed(self._do("ready", {}, progress))

    def train(
        self,
        rows: Rows,
        seed: int,
        *,
        first: int = 0,
        last: int | None = None,
        span: Span | None = None,
        progress: Progress | None = None,
    ) -> TrainMetrics:
        """One epoch over an interval's selected rows, or steps `first` to `last` (excluded) of it.

        rows: in plan order, sent once however many calls they are given in (so not to be changed
        in between); or something picklable to call for them in each rank, so that they never pass
        through the driver. seed: their order. span: where the steps stand in the schedule.
        """
        options = {"rows": self._placed(rows), "seed": seed, "first": first, "last": last}
        options["span"] = span
        return merge(self._do("train", options, progress))

    def logprobs(
        self,
        rows: Rows,
        temperature: float,
        top_p: float = 1.0,
        *,
        progress: Progress | None = None,
    ) -> list[tuple[float, ...]]:
        """Log-probabilities, in nats, of the rows' response tokens under the distribution that an
        engine samples from (see `actors.model.processor`), row by row."""
        options = {"rows": self._placed(rows), "temperature": temperature, "top_p": top_p}
        return merge_logprobs(self._do("logprobs", options, progress))

    def checkpoint(self, cursor: dict[str, Any]) -> Checkpoint:
        """Write weights, moments and `cursor`, each rank its part on its node's disk, from where
        they are on their way to the store when this returns."""
        answers = self._do("checkpoint", {"cursor": cursor})
        facts = self._agreed([facts for _, facts in answers])
        made = Checkpoint.of([part for part, _ in answers], facts)
        self._do("store_part", {"path": made.path})
        return made

    def stored(self, checkpoint: Checkpoint) -> bool:
        """Whether every part of a checkpoint is in the store by now: it may be completed."""
        return bool(self._ask("all_stored", checkpoint.path))

    def settle(self) -> None:
        """Wait until every part of the last checkpoint is in the store."""
        self._do("settle", {})

    def publish(self) -> str:
        """Bring the policy as it is now to the store, as a complete, immutable folder; its path."""
        return next(path for path in self._do("publish", {}) if path is not None)

    def reset(self, source: Source, settings: LearnSettings) -> dict[str, Any]:
        """Begin anew in the same processes.

        Raises:
            BadConfig: when `settings` ask for other processes than there are.
        """
        for name in OF_PROCESSES:
            if getattr(settings, name) != getattr(self.settings, name):
                raise BadConfig(f"learner: {name} cannot change in a running group")
        self.settings = settings
        return self._agreed(self._do("reset", {"settings": settings, "source": source}))

    @property
    def closed(self) -> bool:
        """Whether its processes were ended, by whoever asked or because it failed."""
        return self._hub is None

    def close(self) -> None:
        """End all processes of the group; safe to call twice and on a group that failed."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        if self._hub is None:
            return
        hub, self._hub = self._hub, None
        places: list[tuple[str, int]] = []
        end_s = self.settings.end_s
        try:
            places = ray.get(hub.places.remote(), timeout=end_s)
            leaving = ray.get(hub.dismiss.remote(), timeout=end_s)
            ray.get(hub.ended.remote(end_s if leaving else 0.0), timeout=2 * end_s)
        except (GetTimeoutError, RayActorError):
            # A hub that does not answer takes everything with it below.
            pass
        ray.kill(hub)
        _outlive(places, end_s)

    # --- inside ---

    def _launch(self, config: dict[str, Any]) -> None:
        """Have the hub start the ranks. Its first answer takes as long as a process and its imports
        do, which on a busy machine is much."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        assert self._hub is not None
        try:
            ray.get(self._hub.launch.remote(config), timeout=self.settings.start_s)
        except (GetTimeoutError, RayActorError) as error:
            raise ranks_failed(f"the group's hub did not start: {error}") from error

    def _placed(self, rows: Rows) -> Any:
        """Rows in Ray's store, once for all ranks and all stretches of one interval."""
        import ray

        if callable(rows):
            return rows
        if self._held is None or self._held[0] is not rows:
            self._held = (rows, ray.put(list(rows)))
        return self._held[1]

    def _agreed(self, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The one answer that all ranks gave."""
        if any(answer != answers[0] for answer in answers):
            self.close()
            raise ranks_failed(f"the ranks disagree about where they stand: {list(answers)}")
        return answers[0]

    def _do(
        self, name: str, options: dict[str, Any], progress: Progress | None = None
    ) -> tuple[Any, ...]:
        """Have all ranks carry out an order; their answers."""
        status = self._settled(name, options, progress)
        if status.answers is not None:
            return status.answers
        self.close()
        assert status.failure is not None
        raise WorkFailed(replace(status.failure, reason=f"{name}: {status.failure.reason}"))

    def _settled(
        self, name: str, options: dict[str, Any], progress: Progress | None
    ) -> CommandStatus:
        number = self._ask("command", name, options)
        while True:
            status: CommandStatus = self._ask("status", number, POLL_S)
            if status.ended:
                return status
            if progress is not None:
                progress(status.doing)

    def _ask(self, method: str, *args: Any) -> Any:
        """What the hub answers, which never computes anything."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        # Another thread may close the group meanwhile; the hub is then gone, and says so.
        hub = self._hub
        if hub is None:
            raise ranks_failed("this group is closed")
        try:
            return ray.get(getattr(hub, method).remote(*args), timeout=self.settings.answer_s)
        except (GetTimeoutError, RayActorError) as error:
            self.close()
            raise ranks_failed(f"{method}: the group's hub is gone: {error}") from error


def _hub_options(settings: LearnSettings) -> dict[str, Any]:
    """The hub is on the driver's own node, which lives as long as the run does; and so is what Ray
    Train starts beside it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    concurrency = 3 * settings.ranks + 8
    return {"num_cpus": 0, "max_concurrency": concurrency, "scheduling_strategy": here}


def _check_resources(settings: LearnSettings, there: dict[str, float]) -> None:
    """Start no group that has no room: a node may just have gone, and its ranks are tried again."""
    keys = {"CPU": "cpus_per_rank", "GPU": "gpus_per_rank"}
    for name, each in resources_of_rank(settings).items():
        if settings.ranks * each > there.get(name, 0.0):
            raise ranks_failed(
                f"{settings.ranks} ranks of {each:g} {name} each need {settings.ranks * each:g}, "
                f"and the cluster has {there.get(name, 0.0):g} now (learn.ranks, "
                f"cluster.{keys.get(name, 'rank_resource')})"
            )


def _outlive(places: Sequence[tuple[str, int]], end_s: float) -> None:
    """Wait until the ranks on this machine are gone; a stopped one does not go by itself."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    ranks = [rank for node, pid in places if node == here for rank in _ray_worker(pid)]
    _, left = psutil.wait_procs(ranks, timeout=end_s)
    for rank in left:
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    psutil.wait_procs(left)


def _ray_worker(pid: int) -> list[psutil.Process]:
    """The Ray worker with this number; none when it is gone, and the number perhaps another's."""
    try:
        process = psutil.Process(pid)
        return [process] if any("ray::" in word for word in process.cmdline()) else []
    except psutil.NoSuchProcess:  # a zombie is one of these
        return []
