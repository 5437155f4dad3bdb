"""One driver of a run inside one Ray cluster, whatever the store can guarantee.

The right to a run is an actor with the run's name: Ray gives a name once. It ends with the driver
that made it, however that dies, so nobody waits for it. Taking a run over is ending that actor and
making another; the driver it belonged to finds it gone before its next write.
"""

from __future__ import annotations

from typing import Any

from pipeline.canonical import key_of
from pipeline.lease import LeaseHeld, this_process
from pipeline.ledger import LedgerFenced

NAMESPACE = "mstar-drivers"
ANSWER_S = 60.0
# A name is free a moment after its actor was ended.
ATTEMPTS, PAUSE_S = 100, 0.1


class _Holder:
    """Stands for a driver, and says who it is."""

    def __init__(self, who: str) -> None:
        self._who = who

    def who(self) -> str:
        return self._who


class OnlyDriver:
    """A driver's claim to a run among all drivers of its Ray cluster."""

    def __init__(self, store_url: str, run: str) -> None:
        self._run = run
        self._name = key_of("driver", {"store": store_url, "run": run})
        self._actor: Any | None = None

    def take(self, *, take_over: bool = False) -> None:
        """Claim the run; Ray must be initialised.

        Raises:
            LeaseHeld: another driver of this cluster has it. With `take_over` it loses it.
        """
        import time

        import ray

        me = this_process()
        options = ray.remote(_Holder).options(
            name=self._name, namespace=NAMESPACE, num_cpus=0, max_restarts=0
        )
        for attempt in range(ATTEMPTS):
            try:
                self._actor = options.remote(f"process {me.pid} on {me.host}")
                ray.get(self._actor.who.remote(), timeout=ANSWER_S)
                return
            except ValueError:  # the name is taken
                self._actor = None
                self._other(take_over=take_over, last=attempt == ATTEMPTS - 1)
                time.sleep(PAUSE_S)

    def _other(self, *, take_over: bool, last: bool) -> None:
        """End the other driver's claim, or refuse over it."""
        import ray
        from ray.exceptions import RayActorError

        try:
            holder = ray.get_actor(self._name, namespace=NAMESPACE)
            who = ray.get(holder.who.remote(), timeout=ANSWER_S)
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
        """Raise LedgerFenced when the claim was lost; nothing before `take`."""
        import ray
        from ray.exceptions import RayActorError

        if self._actor is None:
            return
        try:
            ray.get(self._actor.who.remote(), timeout=ANSWER_S)
        except RayActorError as error:
            raise LedgerFenced(
                f"run {self._run}: another driver of this Ray cluster has taken it over. This one "
                "stops."
            ) from error
