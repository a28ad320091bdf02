"""Commands that are killed at random moments, then given again: what comes out is what would have without."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jupytext
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from capacity import models, resources, sweep, vector_files
from capacity.store import Store
from capacity.sweep import presets

pytestmark = pytest.mark.slow

SMALLEST = next(iter(models.EMBEDDED))
MOMENTS = int(os.environ.get("CAPACITY_MOMENTS", "2"))  # `make faults`: 10
SIGNALS = ([signal.SIGKILL, signal.SIGTERM] * MOMENTS)[:MOMENTS]
PRESET = ["-m", "capacity", "sweep", "--preset", "kuratov2025/table1", "--model", SMALLEST]
GIVEN = {"source": "random_words", "recipe": "default", "length": [2, 3], "n_texts": 6}
PRESET += [word for name, value in GIVEN.items() for word in ("-p", f"{name}={value}")]


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


def kill(
    number: signal.Signals, after: float, *arguments: object, cwd: Path, work: Path | None = None
) -> tuple[int, str]:
    """Return exit code and last words of a command that gets a signal after so many seconds; 0 where it was faster.

    work: a folder; the seconds count from when the command first writes there, and not from its start.
    """
    started = time.time()
    with start(*arguments, cwd=cwd) as child:
        while work is not None and child.poll() is None and not _written(work, started):
            time.sleep(0.02)
        try:
            child.wait(after)
        except subprocess.TimeoutExpired:
            child.send_signal(number)
        _, errors = child.communicate(timeout=120)
    if number == signal.SIGKILL and child.returncode:
        os.killpg(child.pid, signal.SIGKILL) if _alive(child.pid) else None  # a kernel of its own
    return child.returncode, errors


def _written(folder: Path, since: float) -> bool:
    with contextlib.suppress(FileNotFoundError):  # gone while it is looked at
        return any(path.stat().st_mtime > since for path in folder.rglob("*"))
    return True


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
    every = presets.experiments(presets.load("kuratov2025/table1"), models=[SMALLEST], given=GIVEN)
    started = time.monotonic()
    undisturbed = sweep.run(every, tmp_path / "undisturbed", travelling=False)
    seconds = time.monotonic() - started
    drawn, kept, counts = random.Random(0), tmp_path / "kept", [0]
    for number in SIGNALS:
        after = seconds * drawn.uniform(0.0, 1.0)
        code, errors = kill(number, after, *PRESET, "--store", kept, cwd=tmp_path, work=kept)
        assert code in (0, -number, 128 + number), errors
        if code == 143:
            assert "terminated; what is finished is kept; the same command goes on" in errors
            assert f"--store {kept}" in errors
        counts.append(len(Store(kept).keys()))
    assert counts == sorted(counts)  # nothing that was there is lost
    whole(*PRESET, "--store", kept, cwd=tmp_path)
    equal(Store(kept).read(), undisturbed)


def test_a_cram_killed_again_and_again_leaves_no_half_file_and_then_the_same(tmp_path: Path) -> None:
    command = ["-m", "capacity", "cram", "He said that he would", "--model", SMALLEST, "--budget", 600, "--save"]
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


def test_papermill_killed_again_and_again_ends_with_the_same_rows(
    tmp_path: Path, in_process: Callable[[Path, dict[str, Any]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, kept = resources.notebooks() / "03_many_vectors.py", tmp_path / "kept"
    given = {
        "models": [SMALLEST], "n_texts": 3, "n_mem": [1, 2], "per_vector": [1, 3], "recipe": "default",
        "scored_from": 0, "budget": 400, "longest": 6, "pretrained": "",
    }  # fmt: skip
    monkeypatch.setenv("CAPACITY_MEASURED", str(tmp_path / "nothing"))
    started = time.monotonic()
    in_process(source, given | {"store": str(tmp_path / "undisturbed")})
    seconds = time.monotonic() - started
    jupytext.write(jupytext.read(source), tmp_path / "a.ipynb")
    run = ["-m", "papermill", tmp_path / "a.ipynb", tmp_path / "b.ipynb", "--kernel", "python3", "--no-progress-bar"]
    run += ["-y", json.dumps(given), "-p", "store", kept]
    drawn = random.Random(2)
    for number in SIGNALS:
        after = seconds * drawn.uniform(0.0, 0.9)
        code, errors = kill(number, after, *run, cwd=tmp_path, work=kept)
        assert code in (0, 1, -number, 128 + number), errors
    whole(*run, cwd=tmp_path)
    equal(Store(kept).read(), Store(tmp_path / "undisturbed").read())
