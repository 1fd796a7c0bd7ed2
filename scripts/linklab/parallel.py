"""Work on a stream of items in several processes, results in order."""

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

IN_FLIGHT_PER_WORKER = 2  # finished results that may wait for the reader: bounds memory


def usable_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(function: Callable, items: Iterable, workers: int) -> Generator:
    """Yield function(item) of every item in order; close the iterator to stop the workers.

    `function` and items must be picklable when there are several workers. Items are taken a few ahead of the results;
    an error, of an item or of `items` itself, is raised where its result would have come.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future] = deque()
    items, last = iter(items), None
    with ProcessPoolExecutor(workers, initializer=_end_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            while True:
                try:
                    for item in itertools.islice(items, workers * IN_FLIGHT_PER_WORKER - len(waiting)):
                        waiting.append(pool.submit(function, item))
                except UserError as error:
                    items, last = iter(()), error
                if not waiting:
                    break
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed (out of memory?); free memory or lower --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if last:
        raise last


def _end_with_parent(parent: int) -> None:
    """Make a worker end when its parent was killed, instead of waiting for work forever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
