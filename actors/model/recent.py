"""The most recently used values within a budget: pictures, prompts, whatever is costly to make."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by key, made when they are first asked for; the last one is kept whatever its size.

    budget: of what `size` says of the values together. Safe to share by threads: a value that two
    of them want at once is made once. made: how many were made.
    """

    def __init__(self, budget: int, size: Callable[[Value], int]) -> None:
        self.held = 0
        self.made = 0
        self._budget = budget
        self._size = size
        self._values: OrderedDict[Any, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Value]) -> Value:
        """The value of `key`, made now if it is not here."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            value = self._values[key] = make()
            self.made += 1
            self.held += self._size(value)
            while self.held > self._budget and len(self._values) > 1:
                self.held -= self._size(self._values.popitem(last=False)[1])
            return value
