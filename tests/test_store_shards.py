"""Shards: named by the hash of their bytes, read where whole, the first of a cell winning."""

import hashlib

import polars as pl
import pytest

from capacity.store import SCHEMA, StoreError, StoreWarning, shards


def frame(**columns):
    length = len(next(iter(columns.values())))
    rest = {name: pl.Series(name, [None] * length, dtype=dtype) for name, dtype in SCHEMA.items()}
    return pl.DataFrame(rest | {name: pl.Series(name, v, dtype=SCHEMA[name]) for name, v in columns.items()})


def test_a_shard_is_named_by_when_and_by_its_bytes(tmp_path):
    shards.write(tmp_path, frame(key=["a"], probe=[0]), when="20260101")
    (path,) = tmp_path.iterdir()
    when, _, digest = path.stem.split("-")
    assert (when, digest) == ("20260101", hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_first_shard_of_a_cell_wins_and_rows_come_by_cell_and_probe(tmp_path):
    shards.write(tmp_path, frame(key=["b", "b"], probe=[1, 0], steps=[1, 2]), when="2")
    shards.write(tmp_path, frame(key=["b", "a"], probe=[0, 0], steps=[8, 9]), when="3")
    paths = shards.valid(tmp_path, set(), set_aside=False)
    waits = [frame(key=["a", "c"], probe=[0, 0], steps=[7, 6])]
    found = shards.collect(paths, ["key", "probe", "steps"], None, waits)
    assert found.rows() == [("a", 0, 9), ("b", 0, 2), ("b", 1, 1), ("c", 0, 6)]
    assert shards.collect(paths, ["steps"], {"c"}, waits).rows() == [(6,)]
    with pytest.raises(ValueError, match=r"unknown columns \['wit'\]"):
        shards.collect(paths, ["wit"], None)


@pytest.mark.parametrize("set_aside", [True, False])
def test_a_shard_with_another_byte_is_left_out_and_said(tmp_path, set_aside):
    for when in "12":
        shards.write(tmp_path, frame(key=[when], probe=[0]), when=when)
    first, second = sorted(tmp_path.iterdir())
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    with pytest.warns(StoreWarning, match="is damaged, its bytes do not hash to its name"):
        assert shards.valid(tmp_path, set(), set_aside=set_aside) == [second]
    assert (tmp_path / "damaged" / first.name).exists() == set_aside
    assert first.exists() != set_aside


def test_a_read_is_tried_again_where_a_shard_vanishes():
    tries = []

    def attempt():
        tries.append(1)
        if len(tries) < 3:
            raise FileNotFoundError
        return "rows"

    def never():
        raise FileNotFoundError

    assert shards.until_it_stays(attempt) == "rows"
    with pytest.raises(StoreError, match="vanish as fast as they are listed"):
        shards.until_it_stays(never)
