"""The driver: does what the phases ask for, several steps at a time, and records it.

What always holds:

* what to do is decided by `pipeline.phases`, from the ledger alone; what the driver holds besides
  (the steps that are open) is only an optimisation, and doing a piece of work twice changes
  nothing. So it may be killed at any instruction and started again anywhere;
* an object is named in an event only after it is complete in the store, and events that became
  ready together are committed together;
* one thread, which never waits for one step alone; its loop reads and writes no parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.config.fields import to_dict
from pipeline.config.load import stored_config
from pipeline.config.resume import check_resume, config_hash
from pipeline.driver.annotate import AnnotateStep
from pipeline.driver.context import OpenStep, RunContext
from pipeline.driver.evaluate import EvaluateStep
from pipeline.driver.explore import ExploreStep
from pipeline.driver.finish import FinishStep, give_up, lost_evaluations
from pipeline.driver.judge import JudgeStep
from pipeline.driver.publish import PublishStep
from pipeline.driver.record import RecordStep
from pipeline.driver.sample import SampleStep
from pipeline.driver.train import TrainStep
from pipeline.errors import BadConfig
from pipeline.phases.order import PHASES, Phase, ready_steps, to_open
from pipeline.phases.steps import (
    Annotate,
    ChooseTemperature,
    Evaluate,
    EvaluateDynamics,
    Finish,
    JudgePrm,
    PublishFolder,
    Record,
    SampleShards,
    Step,
    Train,
)
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import DriverStarted, RunCreated
from pipeline.run.events.wire import from_wire, replay
from pipeline.run.queries import store_queries
from pipeline.run.same_run import check_same_means
from pipeline.run.state import State
from pipeline.training.job import JOB_RULE


def drive(
    context: RunContext,
    until: Callable[[State], bool] = lambda state: False,
    phases: Sequence[Phase] = PHASES,
) -> State:
    """Take a run from wherever its ledger says that it is to its end (or `until` a state).

               ┌─────────────── ready_steps(state) ◄───────────────┐
               ▼                                                   │ a step is done
        open steps ──advance──► events ──commit──► ledger, state ──┤
               ▲                                                   │ all go on
               └───────────────────────────────────────────────────┘
    Raises:
        BadConfig: the ledger belongs to a run of another meaning.
        RunStopped: going on makes no sense, with the reason.
    """
    begin(context)
    opened: list[OpenStep] = []
    while not until(context.state):
        if not opened or any(one.done for one in opened):
            opened = [one for one in opened if not one.done]
            ready = ready_steps(context.state, context.spec, phases)
            opened += map(open_step, to_open([one.step for one in opened], ready))
            if not opened:
                break
        advance(context, opened)
    return context.state


def open_step(step: Step) -> OpenStep:
    """A step, begun."""
    opened: OpenStep
    match step:
        case PublishFolder():
            opened = PublishStep(step)
        case SampleShards():
            opened = SampleStep(step)
        case Evaluate():
            opened = EvaluateStep(step)
        case ChooseTemperature() | EvaluateDynamics():
            opened = ExploreStep(step)
        case Train():
            opened = TrainStep(step)
        case Annotate():
            opened = AnnotateStep(step)
        case JudgePrm():
            opened = JudgeStep(step)
        case Record():
            opened = RecordStep(step)
        case Finish():
            opened = FinishStep(step)
    return opened


def advance(context: RunContext, opened: Sequence[OpenStep]) -> None:
    """Advance every open step once and commit together what they gave; rest if that is nothing."""
    context.next_turn()
    events = [
        replace(event, stage=one.step.stage) for one in opened for event in one.advance(context)
    ]
    events += [replace(event, stage=opened[0].step.stage) for event in context.workers.resized()]
    if events:
        context.commit(events)
    elif not any(one.done for one in opened):
        context.rest()


# --- the beginning -------------------------------------------------------------------------------


def begin(context: RunContext) -> None:
    """Replay the ledger, and record that the run is created or taken up.

    Raises:
        BadConfig: the ledger belongs to a run of another meaning.
    """
    ledger, lease, spec = context.ledger, context.lease, context.spec
    snapshot, wires = ledger.resume(at_least=-1 if lease is None else lease.inherited_position)
    context.state = replay(wires, State() if snapshot is None else State.from_dict(snapshot))
    if context.state.config is None:
        context.commit([_created(context)])
        return
    changes = _check_same_run(context)
    finished = context.state.finished
    lost = {}
    if finished is not None:
        lost = lost_evaluations(context.state, spec, context.store, finished)
    if finished is None or lost:
        started = DriverStarted(context.workers.versions, tuple(changes), stage="prepare")
        wire = context.stamped(started)
        # From here on nothing that an earlier driver of this run still writes is accepted.
        applied = ledger.claim(wire, lambda other: context.state.apply(from_wire(other)))
        context.written(applied)
        context.fold([wire])
    if finished is not None and lost:
        given_up = give_up(context, finished, lost)
        context.commit([replace(event, stage="final/evaluate") for event in given_up])
    context.delete_retired()


def _created(context: RunContext) -> Event:
    spec = context.spec
    return RunCreated(
        config=to_dict(spec.config),
        config_hash=config_hash(spec.config),
        data=spec.fingerprint,
        queries=store_queries(context.store, spec),
        versions=context.workers.versions,
        job_rule=JOB_RULE,
        stage="prepare",
    )


def _check_same_run(context: RunContext) -> list[str]:
    """Refuse to go on as another run; gives the changes that are noted, in words."""
    config, state = context.spec.config, context.state
    assert state.config is not None
    old = stored_config(state.config)
    changes = [str(change) for change in check_resume(old, config)]
    for change in changes:
        context.watch.say(f"changed since the run was started: {change}")
    if context.spec.fingerprint["splits"] != state.data["splits"]:
        raise BadConfig(
            f"run {config.run.name!r}: the questions or answers of the data are not those it "
            "was started with; give the new run a name of its own (--set run.name=...)"
        )
    check_same_means(context.spec, state)
    return changes
