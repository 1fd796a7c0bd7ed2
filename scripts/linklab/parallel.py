"""Apply a function to a stream of items in several processes; results keep the items' order."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from linklab.cli import UserError

IN_FLIGHT_PER_WORKER = 2  # items per worker that are submitted but not yet read: bounds memory


def usable_cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(function: Callable, items: Iterable, workers: int) -> Generator:
    """Yield function(item) for every item in order; close the iterator to stop the workers.

    With several workers `function` and the items must be picklable, and a few items are read ahead of the results. An
    error, from an item or from `items` itself, is raised in place of the result.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future] = deque()
    items, failure = iter(items), None
    with ProcessPoolExecutor(workers, initializer=_end_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            while True:
                try:
                    for item in itertools.islice(items, workers * IN_FLIGHT_PER_WORKER - len(waiting)):
                        waiting.append(pool.submit(function, item))
                except UserError as error:
                    items, failure = iter(()), error
                if not waiting:
                    break
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed (out of memory?); free memory or lower --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if failure:
        raise failure


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent process is gone, instead of waiting for work forever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
