"""Rows as a frame: every column has a type and a meaning, and nothing enters that the columns do not say."""

import numpy as np
import polars as pl
import pytest

from capacity.store import schema

VALUES = {pl.String: "a", pl.Int32: 1, pl.Int64: 2**40, pl.Float64: 1.5, pl.Boolean: True, pl.List: [0.5]}


def row(**changes):
    values = {name: VALUES[type(dtype)] for name, dtype in schema.SCHEMA.items()}
    return values | {"status": "solved", "curve_right": [1, 2]} | changes


def test_columns_have_a_type_and_a_meaning_each():
    assert list(schema.SCHEMA) == list(schema.COLUMNS)
    assert all(schema.COLUMNS.values())
    assert schema.SCHEMA.keys() > schema.NULLABLE
    nullable = {name for name, meaning in schema.COLUMNS.items() if "null" in meaning}
    assert nullable == schema.NULLABLE
    assert ", ".join(schema.STATUSES) in schema.COLUMNS["status"]


def test_a_frame_has_the_schema_and_the_order_given():
    frame = schema.to_frame([row(key="b"), row(key="a", mem=np.array([0.1], dtype=np.float32), threads=None)])
    assert frame.schema == schema.SCHEMA
    assert frame["key"].to_list() == ["b", "a"]
    assert frame["mem"].to_list() == [[0.5], [float(np.float32(0.1))]]
    assert frame["threads"].to_list() == [1, None]


def test_no_rows_make_a_frame_of_all_columns():
    assert schema.to_frame([]).schema == schema.SCHEMA


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wit": 1}, r"unknown columns \['wit'\], missing columns \[\]"),
        ({"status": "stuck"}, "status 'stuck' is not one of solved, stalled"),
        ({"seconds": None}, "column 'seconds' is None; only"),
        ({"length": 2.5}, "column 'length' takes one Int32 a row"),
        ({"length": 2**40}, "column 'length' takes one Int32 a row"),
        ({"mem": [[0.5]]}, r"column 'mem' .*got shape \(1, 1\); give it flat"),
        ({"mem": np.array([1e300])}, "column 'mem' .*as float32 numbers"),
    ],
)
def test_what_the_columns_do_not_say_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        schema.to_frame([row() | changes])


def test_a_fit_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="same key and probe"):
        schema.to_frame([row(), row()])
    assert schema.to_frame([row(), row(probe=2)]).height == 2
