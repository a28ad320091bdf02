"""Pulling: every cell once, small groups, the largest first; and by a virtual clock."""

import doctest

from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.sweep import pulling
from capacity.sweep.pulling import LEAST, Pool, simulate

THINGS = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 3)), max_size=60)


def pool(things, n_workers, most=64):
    return Pool(things, kind=lambda one: one[1], cost=lambda one: one[0], n_workers=n_workers, most=most)


@given(THINGS, st.integers(1, 5), st.integers(1, 10))
@settings(max_examples=100, database=None)
def test_every_thing_is_pulled_once_in_groups_of_one_kind_the_largest_first(things, n_workers, most):
    waiting, pulled = pool(things, n_workers, most), []
    while group := waiting.pull(len(pulled) % n_workers):
        assert len({kind for _, kind in group}) == 1
        assert len(group) <= most
        pulled += group
    assert len(waiting) == 0
    assert sorted(pulled) == sorted(things)
    for kind in range(4):
        costs = [cost for cost, own in pulled if own == kind]
        assert costs == sorted(costs, reverse=True)


def test_groups_shrink_and_a_worker_stays_with_its_kind():
    waiting = pool([(1.0, kind) for kind in "ab" for _ in range(100)], 2)
    groups = [waiting.pull(worker) for worker in (0, 1, 0, 1)]
    assert [group[0][1] for group in groups] == ["a", "b", "a", "b"]  # one kind each
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 50  # half of an even share
    last = []
    while group := waiting.pull(0):
        last.append(len(group))
    assert min(last) < LEAST


def test_what_comes_back_waits_for_a_worker_alone():
    waiting = pool([(1.0, "a")] * 20, 1)
    group = waiting.pull(0)
    left = len(waiting)
    waiting.put_back(group)
    assert len(waiting) == left + len(group)
    assert [len(waiting.pull(0)) for _ in group] == [1] * len(group)


def test_a_simulation_by_hand():
    # The driver takes 1 s a group, a worker 10 s to load. From 1 s on the first loads, and has 4 s and 3 s: until 18 s.
    # From 2 s on the second loads, and has 2 s: until 14 s; at 15 s it is handed the last.
    assert simulate([4.0, 3.0, 2.0, 1.0], n_workers=2, load_seconds=10.0, group_seconds=1.0) == 18.0


def test_examples_in_the_docstrings_hold():
    done = doctest.testmod(pulling)
    assert (done.attempted, done.failed) == (1, 0)
