"""Several pieces of a network's work side by side, each on one processor thread of its own.

Threads that share one small convolution wait for each other some two hundred times a slice: each wait costs a wake-up,
or the other thread's time where they spin instead. Pieces that share nothing do not wait, and what comes out of them is
the same however many threads there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

MOST = 8  # of threads: each has a working memory of its own, and slices share the memory's bandwidth

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads_on(device: torch.device | str) -> int:
    """How many pieces to work on at a time: as many as torch may use threads on a CPU, one after another on a GPU."""
    return min(MOST, torch.get_num_threads()) if torch.device(device).type == "cpu" else 1


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Generator[Result, None, None]:
    """`work` of each item, in their order, on so many threads; with one, here and now, as torch's settings are.

    No more than one item a thread is begun before it is needed. Ending early, or an error, waits for what was begun.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    before, left = torch.get_num_threads(), iter(items)
    alone = max(1, before // threads)
    pool = ThreadPoolExecutor(threads, "slices", initializer=torch.set_num_threads, initargs=(alone,))
    try:
        begun: deque[Future[Result]] = deque(pool.submit(work, item) for item in islice(left, threads))
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(work, item) for item in islice(left, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)  # a thread's setting is the whole process's for threads that come later
