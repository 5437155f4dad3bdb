"""Several watchers as one."""

from __future__ import annotations

from pipeline.run.events.event import Event
from pipeline.run.state import State
from pipeline.stages.workers import Progress, Watch


class Watchers(Watch):
    """Several that look on as one."""

    def __init__(self, *parts: Watch) -> None:
        self._parts = parts

    def event(self, event: Event, state: State) -> None:
        for part in self._parts:
            part.event(event, state)

    def progress(self, progress: Progress) -> None:
        for part in self._parts:
            part.progress(progress)

    def say(self, text: str) -> None:
        for part in self._parts:
            part.say(text)

    def close(self) -> None:
        """Close all of them."""
        for part in self._parts:
            part.close()
