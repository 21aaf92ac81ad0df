"""The queue of a pool's free connections, in which whoever has waited longest gets the next one.

Python's own lets a thread that has just given its connection back take it again before a waiting thread wakes up. With
one connection for all threads of a process, a request of one command then waits for others' requests of twenty, and in
a crowd for more than a second.
"""

from collections import deque
from queue import Empty, LifoQueue, SimpleQueue
from typing import Any


class FairQueue(LifoQueue[Any]):
    """A queue that hands what is put into it to the longest waiting thread; if none waits, it is last in, first out."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._waiting: deque[SimpleQueue[Any]] = deque()  # while there is one, the queue is empty

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return an item. Raises Empty if none has come within `timeout` s."""
        with self.mutex:
            if self.queue:
                return self.queue.pop()
            mine: SimpleQueue[Any] = SimpleQueue()
            self._waiting.append(mine)
        try:
            return mine.get(block, timeout)
        except Empty:
            with self.mutex:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise
            return mine.get()  # it came at the last moment

    def _put(self, item: Any) -> None:
        if self._waiting:
            self._waiting.popleft().put(item)
        else:
            super()._put(item)
