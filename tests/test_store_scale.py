"""Stores of many rows: keys are asked without reading rows, shards stay small enough to be verified at once."""

import os
from pathlib import Path

import polars as pl
import pytest

from capacity import store
from capacity.store import Store, StoreWarning, key_files, scale, shards

NAMES = scale.keys(6)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files whose bytes are read; every shard counts as large."""
    found, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(key_files, "LEAST_BYTES", 0)
    monkeypatch.setattr(Path, "read_bytes", lambda path: found.append(path.suffix) or read_bytes(path))
    return found


def flip(path: Path, place: int) -> None:
    """Change one bit, but neither size nor time: what a disk may do."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_keys_are_asked_without_reading_rows(tmp_path, reads):
    shards.write(tmp_path, scale.rows(NAMES))
    assert Store(tmp_path).keys() == set(NAMES)
    assert Store(tmp_path).missing([*NAMES[:2], "none"]) == ["none"]
    assert store.read([tmp_path], ["probe"], keys=["none"]).is_empty()
    assert set(reads) == {".json"}


def test_a_key_file_that_is_lost_damaged_or_of_another_time_is_made_again_from_the_verified_shard(tmp_path, reads):
    shards.write(tmp_path, scale.rows(NAMES))
    (shard,), (own,) = tmp_path.glob("*.parquet"), (tmp_path / "keys").iterdir()
    data = own.read_bytes()
    for spoil in (own.unlink, lambda: flip(own, 40), lambda: own.write_bytes(b""), lambda: os.utime(shard, (1, 1))):
        spoil()
        reads.clear()
        assert Store(tmp_path).keys() == set(NAMES)
        assert ".parquet" in reads
        assert key_files.load(shard) == set(NAMES)
    assert own.read_bytes() != data  # it names another time


def test_a_shard_is_verified_when_it_is_read_whatever_its_key_file_says(tmp_path, reads):
    for part in (NAMES[:3], NAMES[3:]):
        shards.write(tmp_path, scale.rows(part))
    first, _ = sorted(tmp_path.glob("*.parquet"))
    flip(first, 500)
    assert Store(tmp_path).keys() == set(NAMES)
    assert store.read([tmp_path], ["key"], keys=NAMES[3:]).height == 3  # the other is not read
    opened = Store(tmp_path)
    with pytest.warns(StoreWarning, match=first.name):
        assert set(opened.read(["key"], keys=NAMES)["key"]) == set(NAMES[3:])
    assert opened.missing(NAMES) == NAMES[:3]
    opened.compact()
    assert len([*(tmp_path / "keys").iterdir()]) == 1  # the lost shard's is gone


def test_no_shard_is_larger_than_is_verified_at_once_and_none_parts_a_cell(tmp_path, monkeypatch):
    names = scale.keys(300)
    rows = pl.concat([scale.rows(names).with_columns(probe=pl.lit(probe, pl.Int32)) for probe in (0, 1)])
    shards.write(tmp_path, rows)  # as it was before there was a limit
    before = Store(tmp_path).read()
    for module in (shards, store):
        monkeypatch.setattr(module, "MOST_BYTES", 50_000)
    Store(tmp_path).compact()
    assert all(path.stat().st_size <= 50_000 for path in tmp_path.glob("*.parquet"))
    parts = [pl.read_parquet(path)["key"] for path in tmp_path.glob("*.parquet")]
    assert len(parts) > 2
    assert sorted(key for part in parts for key in part.unique()) == sorted(names)
    assert Store(tmp_path).read().equals(before)
    there = set(tmp_path.glob("*.parquet"))
    with Store(tmp_path) as opened:
        for name in scale.keys(3, seed=1):
            opened.append(scale.rows([name]).to_dicts())
            opened.flush()
    Store(tmp_path).compact()
    left = {path for path in there if path.exists()}
    assert left  # full ones are not written again
    assert Store(tmp_path).keys() == {*names, *scale.keys(3, seed=1)}


@pytest.mark.slow
def test_what_a_store_of_many_rows_costs_is_measured_in_processes_of_their_own(tmp_path):
    found = store.at_scale(1000, tmp_path)
    assert found["act"].to_list() == list(scale.ACTS)
    assert found["count"].to_list() == [1, 1000, 1000, 0, 0]  # nothing that was appended is missing
    assert (found["seconds"] > 0).all()
    assert Store(tmp_path).keys() == {*scale.keys(1000), *scale.keys(100, seed=1)}
