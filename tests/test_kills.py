"""Commands that are killed at random moments, then given again: what comes out is what would have without."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from capacity import models, resources, vector_files
from capacity.store import Store

pytestmark = pytest.mark.slow

SMALLEST = next(iter(models.EMBEDDED))
MOMENTS = int(os.environ.get("CAPACITY_MOMENTS", "2"))  # `make faults`: 10
SIGNALS = ([signal.SIGKILL, signal.SIGTERM] * MOMENTS)[:MOMENTS]
PRESET = ["-m", "capacity", "sweep", "--preset", "kuratov2025/table1", "--model", SMALLEST]
PRESET += ["-p", "source=random_words", "-p", "recipe=default", "-p", "length=[2, 3, 4]", "-p", "n_texts=24"]


def start(*arguments: object, cwd: Path) -> subprocess.Popen:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(resources.root()),
        "CAPACITY_MEASURED": str(cwd / "nothing"),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def whole(*arguments: object, cwd: Path) -> tuple[str, float]:
    """Return what a command said, undisturbed, and the seconds it took."""
    started = time.monotonic()
    with start(*arguments, cwd=cwd) as child:
        said, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    return said, time.monotonic() - started


def kill(number: signal.Signals, after: float, *arguments: object, cwd: Path) -> tuple[int, str]:
    """Return exit code and last words of a command that gets a signal after so many seconds; 0 where it was faster."""
    with start(*arguments, cwd=cwd) as child:
        try:
            child.wait(after)
        except subprocess.TimeoutExpired:
            child.send_signal(number)
        _, errors = child.communicate(timeout=120)
    if number == signal.SIGKILL and child.returncode:
        os.killpg(child.pid, signal.SIGKILL) if _alive(child.pid) else None  # a kernel of its own
    return child.returncode, errors


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def assert_same(one: vector_files.Stored, other: vector_files.Stored) -> None:
    assert one.mem.equal(other.mem)
    assert vars(one) | {"mem": None} == vars(other) | {"mem": None}


def equal(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert one.height > 0
    assert not one.select("key", "probe").is_duplicated().any()
    assert_frame_equal(one.drop("seconds"), other.drop("seconds"), check_exact=True)


def test_a_sweep_killed_again_and_again_ends_with_the_same_rows(tmp_path: Path) -> None:
    _, seconds = whole(*PRESET, "--store", tmp_path / "undisturbed", cwd=tmp_path)
    drawn, kept, counts = random.Random(0), tmp_path / "kept", [0]
    for number in SIGNALS:
        code, errors = kill(number, seconds * drawn.uniform(0.3, 1.0), *PRESET, "--store", kept, cwd=tmp_path)
        assert code in (0, -number, 128 + number), errors
        if code == 143:
            assert "terminated; what is finished is kept; the same command goes on" in errors
            assert f"--store {kept}" in errors
        counts.append(len(Store(kept).keys()))
    assert counts == sorted(counts)  # nothing that was there is lost
    whole(*PRESET, "--store", kept, cwd=tmp_path)
    equal(Store(kept).read(), Store(tmp_path / "undisturbed").read())


def test_a_cram_killed_again_and_again_leaves_no_half_file_and_then_the_same(tmp_path: Path) -> None:
    command = ["-m", "capacity", "cram", "He said that he would", "--model", SMALLEST, "--budget", 1500, "--save"]
    _, seconds = whole(*command, tmp_path / "undisturbed", cwd=tmp_path)
    drawn, expected = random.Random(1), vector_files.load(tmp_path / "undisturbed")
    for number in SIGNALS:
        (tmp_path / "x").unlink(missing_ok=True)
        code, errors = kill(number, seconds * drawn.uniform(0.3, 1.0), *command, tmp_path / "x", cwd=tmp_path)
        assert code in (0, -number, 128 + number), errors
        if code == 143:
            assert "terminated; nothing is kept of the fit under way; to begin again: capacity cram" in errors
        if (tmp_path / "x").exists():
            assert_same(vector_files.load(tmp_path / "x"), expected)
    whole(*command, tmp_path / "x", cwd=tmp_path)
    assert_same(vector_files.load(tmp_path / "x"), expected)


def test_papermill_killed_again_and_again_ends_with_the_same_rows(tmp_path: Path) -> None:
    name = "03_many_vectors"
    convert = [
        "-m",
        "jupytext",
        "--to",
        "ipynb",
        resources.notebooks() / f"{name}.py",
        "--output",
        tmp_path / "a.ipynb",
    ]
    whole(*convert, cwd=tmp_path)
    yaml = f"{{models: [{SMALLEST}], n_texts: 6, n_mem: [1, 2], per_vector: [1, 3], recipe: default, scored_from: 0}}"
    run = ["-m", "papermill", tmp_path / "a.ipynb", tmp_path / "b.ipynb", "--kernel", "python3", "--no-progress-bar"]
    run += ["-y", yaml, "-p", "budget", 400, "-p", "longest", 6, "-p", "store"]
    _, seconds = whole(*run, tmp_path / "undisturbed", cwd=tmp_path)
    drawn, kept = random.Random(2), tmp_path / "kept"
    for number in SIGNALS:
        code, errors = kill(number, seconds * drawn.uniform(0.3, 0.9), *run, kept, cwd=tmp_path)
        assert code in (0, 1, -number, 128 + number), errors
    whole(*run, kept, cwd=tmp_path)
    equal(Store(kept).read(), Store(tmp_path / "undisturbed").read())
