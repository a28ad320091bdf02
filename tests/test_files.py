"""Files are written whole or not at all, and what is left of a write is cleaned."""

import doctest
import os
import time
from pathlib import Path

import pytest

from capacity import files, models, sweep, texts


def test_a_file_is_written_over_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    for data in (b"one", b"", b"\x00" * 100_000):
        files.write(path, data)
        assert path.read_bytes() == data
        assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_what_was_there_stays_where_the_new_one_cannot_be_finished(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_old_leftovers_are_cleaned_and_young_ones_stay(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".x.0.part", ".y.1.part", "z.part"))
    for path in (old, young, other):
        path.write_bytes(b"unfinished")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    files.write(tmp_path / "x", b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".y.1.part", "x", "z.part"]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    files.write(tmp_path / ("n" * 255), b"data")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"data"


def test_examples_in_the_documentation() -> None:
    assert doctest.testmod(files) == (0, 4)


def test_a_list_given_as_text_is_refused_with_what_to_do() -> None:
    for wrong, call in [
        ("model", lambda text: sweep.grid(model=text, n_texts=1)),
        ("source", lambda text: sweep.grid(model="llama-64", source=text)),
        ("unknown source", texts.check),
        ("names no model", models.locate),
    ]:
        with pytest.raises(ValueError, match=rf"{wrong}.*a list was given as text: papermill .* -y .* or -f"):
            call('["x"]')
