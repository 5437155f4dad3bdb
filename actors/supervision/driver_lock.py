"""One driver of a run inside one Ray cluster, whatever the store can guarantee.

The right to a run is an actor with the run's name: Ray gives a name once. It lives on its driver's
own node and ends with the driver, however that dies, so nobody waits for it. Taking a run over is
ending that actor and making another; the driver it belonged to finds another under the name before
its next write.

Silence is no answer: where a busy cluster does not say in time who has the name, the driver goes on
(its lease and the ledger are checked at every write, too) and asks again before the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pipeline.hashing import key_of
from pipeline.run.lease import LeaseHeld, this_process
from pipeline.run.ledger import LedgerFenced

_log = logging.getLogger("mstar.driver_lock")

NAMESPACE = "mstar-drivers"
# A name is free a moment after its actor was ended. No settings: nothing is waited for but that.
ATTEMPTS, PAUSE_S = 100, 0.1

# Whoever takes a run over needs a moment between ending one actor and making the next.
LOOKS = 20


class _Holder:
    """Stands for a driver, and says who it is."""

    def __init__(self, who: str) -> None:
        self._who = who

    def who(self) -> str:
        return self._who


class DriverLock:
    """A driver's claim to a run among all drivers of its Ray cluster.

    answer_s: for an actor to say who it stands for. pause_s: between two looks at who has the run.
    """

    def __init__(
        self,
        store_url: str,
        run: str,
        *,
        say: Callable[[str], None] = _log.warning,
        answer_s: float = 60.0,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._answer_s = answer_s
        self._pause_s = pause_s
        self._run = run
        self._name = key_of("driver", {"store": store_url, "run": run})
        self._say = say
        self._silence_reported = False
        self._actor: Any | None = None

    def take(self, *, take_over: bool = False) -> None:
        """Claim the run; Ray must be initialised.

        Raises:
            LeaseHeld: another driver of this cluster has it. With `take_over` it loses it.
        """
        import time

        for attempt in range(ATTEMPTS):
            if self._claim():
                return
            self._other(take_over=take_over, last=attempt == ATTEMPTS - 1)
            time.sleep(self._pause_s)

    def _options(self) -> dict[str, Any]:
        """How the actor is made: under the name, and where losing it means losing the driver."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        return {
            "name": self._name,
            "namespace": NAMESPACE,
            "num_cpus": 0,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
        }

    def _claim(self) -> bool:
        """Make the actor; False when somebody has the name. Ray gives it away before it starts."""
        import ray

        me = this_process()
        holder = ray.remote(_Holder).options(**self._options())
        try:
            actor = holder.remote(f"process {me.pid} on {me.host}")
        except ValueError:
            return False
        self._actor = actor
        self._who(actor)
        return True

    def _who(self, actor: Any) -> str | None:
        """What an actor says who it stands for; None when it did not answer in time.

        Raises:
            RayActorError: it is gone.
        """
        import ray
        from ray.exceptions import ActorUnavailableError, GetTimeoutError

        try:
            return str(ray.get(actor.who.remote(), timeout=self._answer_s))
        except (GetTimeoutError, ActorUnavailableError):
            return None

    def _other(self, *, take_over: bool, last: bool) -> None:
        """End the other driver's claim, or refuse over it."""
        import ray
        from ray.exceptions import RayActorError

        try:
            holder = ray.get_actor(self._name, namespace=NAMESPACE)
            who = self._who(holder) or "a driver that does not answer"
            if take_over:
                ray.kill(holder)
        except (ValueError, RayActorError):
            if not last:
                return  # it is just ending
            who = "a driver that is ending"
        if not take_over or last:
            raise LeaseHeld(
                f"run {self._run} is being driven by {who} in this Ray cluster. Stop it first; or "
                "start this one with --take-over, and the other stops at its next write."
            )

    def check(self) -> None:
        """Raise LedgerFenced when another driver has the run; nothing before `take`."""
        from ray.exceptions import RayActorError

        if self._actor is None:
            return
        try:
            heard = self._who(self._actor)
        except RayActorError:
            self._again()
            return
        if heard is None and not self._silence_reported:
            self._silence_reported = True
            self._say(
                f"run {self._run}: Ray did not say within {self._answer_s:g} s whether another "
                "driver of its cluster has taken the run over. This one goes on and asks again "
                "(cluster.lock_s)"
            )

    def _again(self) -> None:
        """Our actor is gone: somebody ended it to take the run over, or it was merely lost."""
        import time

        for _ in range(LOOKS):
            who = self._holder()
            if who is not None:
                raise LedgerFenced(
                    f"run {self._run}: another driver of this Ray cluster ({who}) has taken it "
                    "over. This one stops."
                )
            time.sleep(self._pause_s)
        if not self._claim():
            self._again()
            return
        self._say(
            f"run {self._run}: the actor that stands for this driver in its Ray cluster was lost. "
            "Nobody else has taken the run, and there is a new one"
        )

    def _holder(self) -> str | None:
        """Who has the name now, if that is another than our actor was."""
        import ray
        from ray.exceptions import RayActorError

        assert self._actor is not None
        try:
            holder = ray.get_actor(self._name, namespace=NAMESPACE)
            if holder._actor_id == self._actor._actor_id:
                return None  # its name is still being given back
            return self._who(holder) or "one that does not answer"
        except (ValueError, RayActorError):
            return None
