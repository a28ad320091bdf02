"""Threads: one for a small model, the process's processors for a large one, what is asked for in any case."""

import os

import pytest
import torch

from capacity import fitting
from capacity.fitting import parallel


def test_a_small_model_has_one_and_a_large_one_the_processors(tiny, monkeypatch):
    monkeypatch.delenv("CAPACITY_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the sake of small ones
    assert parallel.threads_for(tiny) == 1
    monkeypatch.setattr(parallel, "SMALL", 10)
    assert parallel.threads_for(tiny) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5"])
def test_what_is_asked_for_holds_and_is_checked(tiny, monkeypatch, given):
    monkeypatch.setenv("CAPACITY_THREADS", "3")
    assert parallel.threads_for(tiny) == 3
    monkeypatch.setenv("CAPACITY_THREADS", given)
    with pytest.raises(ValueError, match=r"CAPACITY_THREADS is .* a whole number above 0 is needed"):
        parallel.threads_for(tiny)


@pytest.mark.slow
def test_fits_run_on_as_many_and_leave_as_many_as_before(tiny, monkeypatch):
    seen, run = [], fitting.run

    def watched(*arguments, **options):
        seen.append(torch.get_num_threads())
        return run(*arguments, **options)

    before = torch.get_num_threads()
    monkeypatch.setenv("CAPACITY_THREADS", str(before + 1))
    monkeypatch.setattr(fitting, "run", watched)
    fitting.fit(tiny, [[5, 6]], "default:2")
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
    with pytest.raises(KeyError), fitting.threads(tiny):
        raise KeyError
    assert torch.get_num_threads() == before
