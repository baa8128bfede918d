"""The threads that decode and cut pictures: order, bounded look-ahead, errors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from crossalign.errors import InputError
from crossalign.features.pipeline import ordered_map


def test_ordered_map_keeps_order_whoever_is_first():
    def slow(number):
        time.sleep((number * 7 % 5) / 1000)
        return number * number

    for workers in (0, 1, 3, 8):
        assert list(ordered_map(slow, range(40), workers, ahead=5)) == [number**2 for number in range(40)]
        assert list(ordered_map(slow, [], workers, ahead=5)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_ordered_map_looks_a_bounded_way_ahead(workers):
    taken = 0

    def items():
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    ahead = []
    for number in ordered_map(abs, items(), workers, ahead=4):
        ahead.append(taken - number)
    assert max(ahead) <= 5
    assert max(ahead) == (1 if workers == 0 else 5)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_in_ordered_map_arrives_in_its_turn_and_ends_it(workers):
    called = []

    def fails(number):
        called.append(number)
        if number == 5:
            raise InputError("five")
        return number

    before = threading.active_count()
    results = ordered_map(fails, range(1000), workers, ahead=4)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="five"):
        next(results)
    assert list(results) == []
    assert len(called) < 15
    assert threading.active_count() == before


def test_ordered_map_ends_its_threads_when_it_is_left_early():
    before = threading.active_count()
    results = ordered_map(abs, range(1000), 3, ahead=4)
    assert next(results) == 0
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


def test_worker_threads_leave_torchs_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert list(ordered_map(lambda _: torch.get_num_threads(), range(4), 2, ahead=2)) == [1] * 4
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
