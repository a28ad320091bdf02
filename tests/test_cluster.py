"""Ray: the same rows as in one process, also where a worker is killed in the middle; nothing lost, retries bounded."""

import builtins
import os
import signal

import polars as pl
import psutil
import pytest

from capacity import resources, sweep
from capacity.store import Store
from capacity.sweep import cluster

SETTINGS = {
    "source": "random_tokens", "recipe": "paper", "search": "fixed", "length": [1, 2, 3], "n_texts": 4, "device": "cpu",
}  # fmt: skip
OPTIONS = {"travelling": False, "progress": False}


@pytest.fixture
def quiet(monkeypatch, capfd):
    """Ray leaves nothing behind, neither words nor processes."""
    for name, value in cluster._QUIET.items():
        monkeypatch.setenv(name, value)  # and undone
    monkeypatch.setenv("PYTHONPATH", str(resources.root()))
    yield
    assert capfd.readouterr() == ("", "")
    assert not [one for one in psutil.Process().children(recursive=True) if "ray" in one.name()]


def alike(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert one.height == other.height > 0
    assert one.drop("seconds").equals(other.drop("seconds"))


@pytest.mark.parametrize(("there", "jobs", "expected"), [
    ((16, 0), None, (16, 1, 0.0)), ((16, 0), 3, (3, 5, 0.0)), ((2, 0), 8, (8, 0.25, 0.0)),
    ((16, 4), None, (4, 4, 1.0)), ((16, 4), 2, (2, 8, 1.0)), ((16, 4), 9, (9, 1, 0.3333)),
])  # fmt: skip
def test_workers_have_a_gpu_a_share_of_it_or_processors(there, jobs, expected):
    assert cluster.share(*there, jobs) == expected


def test_without_ray_one_line_says_how_to_install_it(monkeypatch):
    genuine = builtins.__import__

    def without(name, *arguments, **options):
        if name == "ray":
            raise ImportError(name)
        return genuine(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"^engine 'ray' needs Ray.*pip install 'mem-capacity\[ray\]'.*'local'$"):
        sweep.measure([], engine="ray")


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine is 'spark'; known are local, ray"):
        sweep.measure([], engine="spark")


@pytest.mark.slow
def test_two_workers_measure_the_rows_of_one_process_and_one_that_dies_is_replaced(folders, tmp_path, quiet):
    every = sweep.grid(model=str(folders["llama"]), **SETTINGS)
    local = sweep.run(every, tmp_path / "local", **OPTIONS)
    killed, append = [], Store.append

    def kill_first(self, rows):
        append(self, rows)
        if not killed:
            busy = [one for one in psutil.Process().children(recursive=True) if "Worker.measure" in one.name()]
            os.kill(busy[0].pid, signal.SIGKILL)
            killed.append(busy[0].pid)

    with pytest.MonkeyPatch.context() as patched, pytest.warns(RuntimeWarning, match="a worker died"):
        patched.setattr(Store, "append", kill_first)
        found = sweep.measure(every, tmp_path / "ray", engine="ray", jobs=2, **OPTIONS)
    assert killed
    assert (found.n_new, found.n_missing) == (12, 0)
    alike(found.rows, local)
