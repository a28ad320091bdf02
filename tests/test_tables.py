"""What is computed of stored vectors is computed once, and kept beside the rows."""

import json

import numpy as np
import polars as pl
import pytest

from capacity import provenance, store, sweep

ROWS = pl.DataFrame({"key": ["a", "a", "b"], "probe": [0, 1, 0], "n": [1, 2, 3]})


def counted():
    """A function that doubles `n`, and the frames that it was given."""
    given = []

    def double(rows):
        given.append(rows)
        return rows.select(twice=pl.col("n") * 2)

    return double, given


def test_a_table_is_made_once_for_the_same_vectors(tmp_path):
    double, given = counted()
    first = sweep.kept("doubled", ROWS, double, tmp_path)
    assert first.to_dict(as_series=False) == {"twice": [2, 4, 6]}
    again = sweep.kept("doubled", ROWS.reverse(), double, tmp_path)  # the same vectors in another order
    assert again.equals(first)
    assert len(given) == 1
    (path,) = (tmp_path / "doubled").glob("*.parquet")
    kept = pl.read_parquet(path)
    assert json.loads(kept["versions"][0]) == provenance.versions()
    assert kept["machine"][0] == provenance.machine()


def test_other_vectors_settings_and_kinds_are_other_tables(tmp_path):
    double, given = counted()
    for rows, kind, settings in (
        (ROWS, "doubled", None), (ROWS[:2], "doubled", None), (ROWS, "doubled", {"bits": [2]}),
        (ROWS, "doubled", {"bits": [3]}), (ROWS, "twofold", None),
    ):  # fmt: skip
        assert sweep.kept(kind, rows, double, tmp_path, settings=settings).height == rows.height
    assert len(given) == 5
    store.write(tmp_path / "doubled", pl.DataFrame({"another": [1]}))  # of nobody's vectors
    assert sweep.kept("doubled", ROWS, double, tmp_path, settings={"bits": np.arange(2)}).height == 3
    assert sweep.kept("doubled", ROWS, double, tmp_path, settings={"bits": np.arange(2)}).height == 3
    assert len(given) == 6


def test_what_can_not_be_made_here_is_what_was_kept_or_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPACITY_MEASURED", str(tmp_path / "measured" / "rows"))
    double, given = counted()
    assert sweep.kept("doubled", ROWS, double, tmp_path / "own", missing="skip").width == 0
    assert sweep.kept("doubled", ROWS.clear(), double, tmp_path / "own").width == 0
    sweep.kept("doubled", ROWS, double, tmp_path / "measured" / "rows")  # beside the rows that travel
    assert [path.name for path in (tmp_path / "measured").iterdir()] == ["doubled"]
    assert sweep.kept("doubled", ROWS, double, tmp_path / "own", missing="skip")["twice"].to_list() == [2, 4, 6]
    assert sweep.kept("doubled", ROWS, double, tmp_path / "own", missing="skip", travelling=False).width == 0
    assert len(given) == 1
    with pytest.raises(ValueError, match="missing is 'refuse'; measure and skip are allowed"):
        sweep.kept("doubled", ROWS, double, tmp_path, missing="refuse")


def test_a_damaged_table_is_made_again(tmp_path):
    double, given = counted()
    sweep.kept("doubled", ROWS, double, tmp_path)
    (path,) = (tmp_path / "doubled").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(store.StoreWarning):
        assert sweep.kept("doubled", ROWS, double, tmp_path)["twice"].to_list() == [2, 4, 6]
    assert len(given) == 2
