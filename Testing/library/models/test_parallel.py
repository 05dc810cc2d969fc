"""Work side by side: in order, no further ahead than there are threads, and torch's settings as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from USMRISynthesisLib.models.parallel import MOST, map_in_order, threads_on


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_items_order_whichever_is_ready_first(threads: int) -> None:
    late = threading.Event()

    def work(item: int) -> int:
        if item == 0 and threads > 1:
            assert late.wait(10)  # the first waits for the second
        if item == 1:
            late.set()
        return item * item

    assert list(map_in_order(work, range(5), threads)) == [0, 1, 4, 9, 16]
    assert torch.get_num_threads() == 2


def test_every_thread_has_its_share_of_processors_and_one_alone_has_them_all() -> None:
    def seen(_: int) -> tuple[str, int]:
        return threading.current_thread().name, torch.get_num_threads()

    assert {count for _, count in map_in_order(seen, range(4), 2)} == {1}
    assert list(map_in_order(seen, range(2), 1)) == [(threading.current_thread().name, 2)] * 2


def test_no_more_is_begun_than_there_are_threads() -> None:
    begun = []
    results = map_in_order(begun.append, range(9), 2)
    assert begun == []
    next(results)
    results.close()
    assert len(begun) <= 3
    assert torch.get_num_threads() == 2


def test_an_error_comes_in_its_turn_and_leaves_nothing_running() -> None:
    finished = []

    def work(item: int) -> int:
        if item == 1:
            raise MemoryError
        finished.append(item)
        return item

    results = map_in_order(work, range(6), 2)
    assert next(results) == 0
    with pytest.raises(MemoryError):
        next(results)
    count = len(finished)
    assert count <= 3 and torch.get_num_threads() == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("slices")]


def test_a_gpu_works_on_one_piece_after_another_and_a_large_machine_on_a_few() -> None:
    assert (threads_on("meta"), threads_on("cpu")) == (1, 2)
    torch.set_num_threads(4 * MOST)
    assert threads_on("cpu") == MOST
