"""The model cards of a run's policies, one file each, kept up to date while it goes on."""

from __future__ import annotations

from pathlib import Path

from pipeline.reports.card import model_card
from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.event import Event
from pipeline.run.events.training import JobDone
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.stages.workers import Watch


class Cards(Watch):
    """Writes `<folder>/<policy>.md` when a policy is trained, and again when it is evaluated."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self._folder = folder
        self._spec = spec

    def event(self, event: Event, state: State) -> None:
        match event:
            case JobDone():
                version = event.policy.version
            case Evaluated():
                version = event.version
            case _:
                return
        for name, policy in state.policies.items():
            if policy.version == version and name in state.jobs and not name.startswith("prm/"):
                self._folder.mkdir(parents=True, exist_ok=True)
                file = self._folder / f"{name.replace('/', '-')}.md"
                file.write_text(model_card(name, state, self._spec), "utf-8")
