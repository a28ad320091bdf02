"""Ray: the same rows as in one process, also where a worker is killed in the middle; nothing lost, retries bounded."""

import builtins
import doctest
import os
import signal
import subprocess
import sys
import time

import polars as pl
import psutil
import pytest

from capacity import extensions, resources, sweep
from capacity.store import Store
from capacity.sweep import presets, workers

SETTINGS = {
    "source": "random_tokens", "recipe": "paper", "search": "fixed", "length": [1, 2, 3], "n_texts": 4, "device": "cpu",
}  # fmt: skip
DEADLY = """
import os, signal

def deadly(logits, targets, margin):
    os.kill(os.getpid(), signal.SIGKILL)

LOSSES = {"deadly": deadly}
RECIPES = {"deadly": {"loss": "deadly", "lr": 0.1, "steps": 20}}
"""
GRID = """
model = "llama-64"
source = "random_words"
search = "grow"
length = 16
budget = 800
n_texts = 12
"""
OPTIONS = {"travelling": False, "progress": False}


@pytest.fixture
def quiet(monkeypatch, capfd):
    """Ray leaves nothing behind, neither words nor processes."""
    for name, value in workers.QUIET.items():
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
    assert workers.share(*there, jobs) == expected
    assert doctest.testmod(workers) == (0, 1)


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
def test_workers_measure_the_rows_of_one_process_and_one_that_dies_is_replaced(folders, tmp_path, quiet, monkeypatch):
    every = sweep.grid(model=str(folders["llama"]), **SETTINGS)
    local = sweep.run(every, tmp_path / "local", **OPTIONS)
    killed, append = [], Store.append

    def kill_first(self, rows):
        append(self, rows)
        if not killed:
            busy = [one for one in psutil.Process().children(recursive=True) if "Worker.measure" in one.name()]
            os.kill(busy[0].pid, signal.SIGKILL)
            killed.append(busy[0].pid)

    monkeypatch.setattr(Store, "append", kill_first)
    with pytest.warns(RuntimeWarning, match="a worker died"):
        found = sweep.measure(every, tmp_path / "ray", engine="ray", jobs=2, **OPTIONS)
    assert killed
    assert (found.n_new, found.n_missing) == (12, 0)
    alike(found.rows, local)


@pytest.mark.slow
def test_a_cell_that_ends_its_workers_is_given_up_after_three_and_the_others_end(folders, tmp_path, quiet, monkeypatch):
    monkeypatch.setattr(extensions, "_used", {})
    monkeypatch.setenv(extensions.VARIABLE, "")
    (tmp_path / "own.py").write_text(DEADLY)
    extensions.use(tmp_path / "own.py")
    wanted = SETTINGS | {"length": 2, "n_texts": 1, "recipe": ["paper", "deadly"]}
    every = sweep.grid(model=str(folders["llama"]), **wanted)
    with (
        pytest.warns(RuntimeWarning, match="a worker died") as said,
        pytest.raises(RuntimeError, match=r"^1 cells ended 3 workers each, the first is .*recipe='deadly'"),
    ):
        sweep.run(every, tmp_path / "store", engine="ray", jobs=2, **OPTIONS)
    assert [str(one.message)[15:17] for one in said] == ["1 ", "1 ", "0 "]
    assert Store(tmp_path / "store").read(["recipe"])["recipe"].to_list() == ["paper"]


@pytest.mark.slow
def test_a_driver_that_dies_takes_its_workers_along_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    command = [sys.executable, "-m", "capacity", "sweep", tmp_path / "grid.toml", "--engine", "ray", "--jobs", "2"]
    command += ["--store", tmp_path / "store"]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as driver:
        while driver.poll() is None and not list((tmp_path / "store").glob("*.parquet")):
            time.sleep(0.1)
        workers = [one for one in psutil.Process(driver.pid).children(recursive=True) if "ray::Worker" in one.name()]
        driver.kill()
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    there = Store(tmp_path / "store").keys()
    assert 0 < len(there) < 12
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "12 cells are in" in done.stdout
    assert "\r" not in done.stderr
    every = presets.experiments(presets.read(tmp_path / "grid.toml"))
    alike(Store(tmp_path / "store").read(), sweep.run(every, tmp_path / "local", **OPTIONS))
