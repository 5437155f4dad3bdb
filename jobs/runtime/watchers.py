"""Several watchers as one."""

from __future__ import annotations

from jobs.runtime.cards import Cards
from jobs.runtime.console import PlainConsole, RichBars
from jobs.runtime.stored_outputs import StoredOutputs
from jobs.runtime.tensorboard import Board
from pipeline.run.events.event import Event
from pipeline.run.state import State
from pipeline.stages.workers import Progress as Moved


class Watchers:
    """Several that look on as one."""

    def __init__(self, *parts: PlainConsole | RichBars | Board | Cards | StoredOutputs) -> None:
        self._parts = parts

    def event(self, event: Event, state: State) -> None:
        for part in self._parts:
            part.event(event, state)

    def progress(self, progress: Moved) -> None:
        for part in self._parts:
            part.progress(progress)

    def say(self, text: str) -> None:
        for part in self._parts:
            part.say(text)

    def close(self) -> None:
        """Close all of them."""
        for part in self._parts:
            part.close()
