"""Recording: a step that only commits an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.driver.context import RunContext
from pipeline.phases.steps import Record
from pipeline.run.events.event import Event


@dataclass
class RecordStep:
    """A `Record` step under way: over as soon as it is begun."""

    step: Record
    done: bool = False

    def advance(self, context: RunContext) -> Sequence[Event]:
        """The event, and its line for a person."""
        self.done = True
        if self.step.note:
            context.watch.say(self.step.note)
        return [self.step.event]
