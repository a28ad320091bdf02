import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import store
from capacity.store import SCHEMA, Store, StoreError, StoreWarning, schema
from capacity.store.shards import write

VALUES = {pl.String: "a", pl.Int32: 1, pl.Int64: 2**40, pl.Float64: 1.5, pl.Boolean: True, pl.List: [0.5]}
IN_A_CHILD = """
import json, os, signal, sys
from pathlib import Path
from capacity.store import Store, StoreError
path, row = Path(sys.argv[1]), json.loads(sys.argv[2])
def cell(key, n_probes=3, **changes):
    return [row | {"key": key, "probe": probe} | changes for probe in range(n_probes)]
"""


def cell(key, n_probes=1, **changes):
    row = {name: VALUES[type(dtype)] for name, dtype in SCHEMA.items()} | {"status": "solved", "curve_right": [1, 2]}
    return [row | {"key": key, "probe": probe} | changes for probe in range(n_probes)]


def fill(path, *keys, **changes):
    for key in keys:  # a shard each
        with Store(path) as opened:
            opened.append(cell(key, **changes))
    return Store(path)


def shards(path):
    return sorted(path.glob("*.parquet"))


def exact(frame):
    """Every value as text that tells -0.0 from 0.0 and takes NaN for itself."""
    return [[repr(value) for value in row] for row in frame.rows()]


def start(code, path, *arguments, wrapper=(), **changes):
    command = [
        *wrapper,
        sys.executable,
        "-c",
        IN_A_CHILD + code,
        str(path),
        json.dumps(cell("", **changes)[0]),
        *arguments,
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(store.__file__).parents[1])}
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_schema_is_the_documented_row():
    documented = """
        key schema model revision quantisation architecture n_parameters d_model vocab_size tokenizer_digest bos
        attention dtype source text_index text_id text_digest n_mem length scored_from recipe search budget limit
        text_seed source_bits_low source_bits_high probe seed init steps token_steps status n_scored correct_without
        correct_with bits_without bits_with bits_with_min first_bits_with first_correct decoded_tokens seconds device
        threads versions mem curve_right curve_bits
    """
    assert list(SCHEMA) == list(schema.COLUMNS) == documented.split()
    assert SCHEMA.keys() > schema.NULLABLE
    assert all(schema.COLUMNS.values())


def test_default_path(monkeypatch):
    monkeypatch.setenv("CAPACITY_STORE", "/elsewhere")
    assert store.default_path() == Path("/elsewhere")
    monkeypatch.delenv("CAPACITY_STORE")
    assert store.default_path() == Path("build/store")


def test_an_absent_store_is_empty_and_stays_absent(tmp_path):
    opened = Store(tmp_path / "s")
    opened.append([])
    opened.compact()
    assert opened.read().schema == SCHEMA
    assert opened.read(["mem", "key"]).shape == (0, 2)
    assert store.read([tmp_path / "s", tmp_path / "t"], missing_ok=True).schema == SCHEMA
    assert opened.missing(["b", "a", "b"]) == ["b", "a"]
    assert not list(tmp_path.iterdir())


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
STRATEGIES = {
    pl.String: TEXT,
    pl.Int32: st.integers(-(2**31), 2**31 - 1),
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.Float64: st.floats(),
    pl.Boolean: st.booleans(),
    pl.List: st.lists(st.floats(width=32), max_size=4),
}
ROW = st.fixed_dictionaries(
    {
        name: st.none() | STRATEGIES[type(dtype)] if name in schema.NULLABLE else STRATEGIES[type(dtype)]
        for name, dtype in SCHEMA.items()
    }
    | {
        "status": st.sampled_from(schema.STATUSES),
        "curve_right": st.none() | st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    }
)


@settings(max_examples=12, deadline=None, database=None)
@given(st.lists(ROW, min_size=1, max_size=4, unique_by=lambda row: (row["key"], row["probe"])), st.randoms())
def test_rows_come_back_to_the_bit_in_any_order(rows, shuffler):
    by_key = {row["key"]: [other for other in rows if other["key"] == row["key"]] for row in rows}
    ordered = sorted(rows, key=lambda row: (row["key"].encode(), row["probe"]))
    expected = [[repr(row[name]) for name in SCHEMA] for row in ordered]
    cells = list(by_key.values())
    shuffler.shuffle(cells)
    with tempfile.TemporaryDirectory() as folder:
        with Store(folder) as opened:
            for rows_of_a_cell in cells:
                opened.append(rows_of_a_cell)
                if shuffler.random() < 0.5:
                    opened.flush()
            assert exact(opened.read()) == expected
        assert exact(Store(folder).read()) == expected
        opened.compact()
        assert exact(opened.read()) == expected


def test_numpy_values_and_the_bytes_of_mem_are_kept(tmp_path):
    mem = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    changes = {
        "mem": mem,
        "length": np.int64(7),
        "bits_with": np.float32(0.1),
        "first_correct": np.bool_(False),
    }
    row = fill(tmp_path, "k", **changes).read().row(0, named=True)
    assert np.array(row["mem"], dtype=np.float32).tobytes() == mem.tobytes()
    assert (row["length"], row["bits_with"], row["first_correct"]) == (7, float(np.float32(0.1)), False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "unknown columns ..extra"),
        ({"status": "done"}, "'done' is not one of solved"),
        ({"length": None}, "'length' is None"),
        ({"length": 2.5}, "'length'.*Int32"),
        ({"length": 2**31}, "'length'.*Int32"),
        ({"seconds": "1"}, "'seconds'.*Float64"),
        ({"seconds": [1.0]}, "'seconds'.*is a list"),
        ({"source": "\ud800"}, "'source'.*surrogates"),
        ({"mem": np.zeros((2, 2), np.float32)}, r"'mem'.*shape \(2, 2\)"),
        ({"mem": [0.1]}, "'mem'.*float32"),  # not a float32 number: would come back as another
        ({"mem": [1e300]}, "'mem'.*float32"),
    ],
)
def test_wrong_rows_are_refused_and_nothing_is_taken(tmp_path, changes, message):
    opened = Store(tmp_path)
    with pytest.raises(ValueError, match=message):
        opened.append(cell("good") + cell("bad", **changes))
    assert opened.keys() == set()


def test_a_missing_column_a_repeated_probe_and_a_waiting_cell_are_refused(tmp_path):
    with Store(tmp_path) as opened:
        with pytest.raises(ValueError, match=r"missing columns .'mem'"):
            opened.append([{name: value for name, value in cell("k")[0].items() if name != "mem"}])
        with pytest.raises(ValueError, match="same key and probe"):
            opened.append(cell("k") + cell("k"))
        opened.append(cell("k"))
        with pytest.raises(ValueError, match=r"'k'. wait already"):
            opened.append(cell("l") + cell("k"))
    with pytest.raises(ValueError, match=r"unknown columns .'colour'"):
        opened.read(["key", "colour"])
    assert opened.keys() == {"k"}


def test_read_gives_the_columns_and_cells_asked_for(tmp_path):
    opened = fill(tmp_path / "a[b]*", "b", "a", n_probes=2)
    expected = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert opened.read(["key", "probe"]).rows() == expected
    opened.append(cell("c"))  # waits
    assert opened.read(["probe", "key"], keys=iter(["c", "b", "no"])).rows() == [(0, "b"), (1, "b"), (0, "c")]
    assert opened.read(keys=[]).schema == SCHEMA
    assert opened.read(keys=[]).is_empty()
    assert opened.missing(["z", "c", "a", "y", "z"]) == ["z", "y"]
    opened.close()


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_rows_are_written_when_due_without_another_call(tmp_path):
    opened = Store(tmp_path, flush_seconds=0.2)
    opened.append(cell("a"))
    opened.append(cell("b"))
    assert not shards(tmp_path)
    assert wait_until(lambda: len(shards(tmp_path)) == 1)
    assert store.read([tmp_path], ["key"]).rows() == [("a",), ("b",)]


def test_rows_that_cannot_be_written_wait_for_a_retry(tmp_path):
    (tmp_path / "s").write_text("a file where the folder should be")
    opened = Store(tmp_path / "s", flush_seconds=0.05)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        opened.append(cell("a"))
        assert wait_until(lambda: [warning.category for warning in seen] == [StoreWarning])
    for call in (opened.flush, lambda: opened.append(cell("b")), opened.close):
        with pytest.raises(StoreError, match="rows could not be written"):
            call()
    (tmp_path / "s").unlink()
    opened.close()
    assert Store(tmp_path / "s").keys() == {"a", "b"}


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_what_waits(tmp_path, ctrl_c):
    def interrupted():
        with Store(tmp_path) as opened:
            opened.append(cell("k", 3))
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Store(tmp_path).read(["key", "probe"]).rows() == [("k", 0), ("k", 1), ("k", 2)]


DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "one bit": lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_shard_is_set_aside_and_measured_again(tmp_path, damage):
    opened = fill(tmp_path, "a", "b")
    before = exact(opened.read())
    victim = shards(tmp_path)[1]
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.warns(StoreWarning, match=victim.name):
        assert store.read([tmp_path], ["key"]).rows() == [("a",)]
    assert victim.exists()  # reading several folders moves nothing
    with pytest.warns(StoreWarning, match=victim.name):
        assert opened.missing(["a", "b"]) == ["b"]
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == [victim.name]
    assert not victim.exists()
    opened.append(cell("b"))
    opened.flush()
    assert exact(Store(tmp_path).read()) == before


def test_any_flipped_byte_is_found(tmp_path):
    fill(tmp_path, "a")
    (shard,) = shards(tmp_path)
    data = shard.read_bytes()
    unnoticed = 0
    for place in random.Random(0).sample(range(len(data)), 40):
        shard.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with contextlib.suppress(pl.exceptions.PolarsError):
            pl.read_parquet(shard)
            unnoticed += 1
        with pytest.warns(StoreWarning, match="do not hash"):
            assert store.read([tmp_path]).is_empty()
    assert unnoticed > 0  # Parquet alone does not tell


def test_a_shard_is_hashed_once_unless_it_changes(tmp_path, monkeypatch):
    opened, hashed, read_bytes = fill(tmp_path, "a", "b"), [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: hashed.append(path.name) or read_bytes(path))
    first, second = (path.name for path in shards(tmp_path))
    assert opened.keys() == opened.keys() == {"a", "b"}
    assert hashed == [first, second]
    os.utime(tmp_path / second, (1, 1))
    assert opened.keys() == {"a", "b"}
    assert hashed == [first, second, second]


def test_shards_of_other_versions(tmp_path):
    frame = schema.to_frame(cell("old"))
    write(tmp_path, frame.drop("device").with_columns(pl.lit(None).alias("d_model")))
    opened = fill(tmp_path, "new")
    assert opened.read(["key", "device", "d_model", "seed"]).rows() == [
        ("new", "a", 1, 2**40),
        ("old", None, None, 2**40),
    ]
    for other in [frame.with_columns(colour=pl.lit(1)), frame.cast({"length": pl.Int64})]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        write(folder, other)
        with pytest.raises(StoreError, match=r"(?s)(colour|length).*Read it with that version"):
            fill(folder, "new").read()
        assert len(shards(folder)) == 2  # sound, so left where it is


def test_the_first_shard_and_the_first_folder_win(tmp_path):
    fill(tmp_path / "a", "k", n_probes=2, seed=1)
    fill(tmp_path / "a", "k", n_probes=3, seed=2)
    fill(tmp_path / "b", "k", "l", seed=3)
    assert Store(tmp_path / "a").read(["probe", "seed"]).rows() == [(0, 1), (1, 1)]
    folders = [tmp_path / "b", tmp_path / "a", tmp_path / "b"]
    assert store.read(folders, ["key", "seed"]).rows() == [("k", 3), ("l", 3)]
    assert store.read(folders[1:], ["key", "seed"]).rows() == [("k", 1), ("k", 1), ("l", 3)]


def test_compact_changes_nothing_that_is_read(tmp_path):
    opened = fill(tmp_path, "b", "a", n_probes=2, seed=1)
    late = fill(tmp_path / "late", "a", n_probes=1, seed=2)
    fill(tmp_path, "a", n_probes=3, seed=2)
    before = exact(opened.read())
    opened.compact()
    (merged,) = shards(tmp_path)
    opened.compact()
    assert shards(tmp_path) == [merged]
    assert exact(opened.read()) == exact(Store(tmp_path).read()) == before
    for shard in shards(late.path):  # written while the others were merged: the merged cell still wins
        shutil.copy(shard, tmp_path)
    assert exact(opened.read()) == before


def test_killed_while_writing_nothing_committed_is_lost_and_no_cell_is_parted(tmp_path):
    code = """
with Store(path) as opened:
    for count in range(100_000):
        opened.append(cell(f"{os.getpid()}-{count}"))
        opened.flush()
        print(f"{os.getpid()}-{count}", flush=True)
"""
    writers = [start(code, tmp_path, mem=[0.5] * 4096) for _ in range(2)]
    committed = {writer.stdout.readline().strip() for writer in writers}
    for writer in writers:
        time.sleep(random.uniform(0.0, 0.05))
        writer.kill()
        with writer:
            committed.update(writer.stdout.read().splitlines())
            assert writer.wait() == -signal.SIGKILL, writer.stderr.read()
    rows = store.read([tmp_path], ["key", "probe", "mem"])
    counts = rows.group_by("key").agg(pl.col("probe").sort())
    assert committed <= set(counts["key"])
    assert len(counts) <= len(committed) + len(writers)
    assert set(map(tuple, counts["probe"])) == {(0, 1, 2)}
    assert {(len(mem), sum(mem)) for mem in rows["mem"]} == {(4096, 2048.0)}


@pytest.mark.slow
def test_killed_before_the_rename_leaves_a_leftover_that_is_ignored_and_later_removed(tmp_path):
    code = """
os.replace = Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with Store(path) as opened:
    opened.append(cell("lost"))
"""
    with start(code, tmp_path) as writer:
        assert writer.wait() == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    assert fill(tmp_path, "kept").keys() == {"kept"}
    assert leftover.exists()  # its writer might still live
    an_hour_ago = time.time() - 3601
    os.utime(leftover, (an_hour_ago, an_hour_ago))
    assert fill(tmp_path, "next").keys() == {"kept", "next"}
    assert not leftover.exists()


@pytest.mark.slow
def test_killed_while_compacting_nothing_is_lost_or_doubled(tmp_path):
    opened = fill(tmp_path, "a", "b", "c", n_probes=2)
    before = exact(opened.read())
    code = """
unlink = Path.unlink
def unlink_two(file, missing_ok=False):
    unlink(file, missing_ok)
    if len(list(path.glob("*.parquet"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Path.unlink = unlink_two
Store(path).compact()
"""
    with start(code, tmp_path) as writer:
        assert writer.wait() == -signal.SIGKILL
    assert len(shards(tmp_path)) == 2  # the merged one and one that was merged
    assert exact(opened.read()) == exact(Store(tmp_path).read()) == before
    opened.compact()
    assert len(shards(tmp_path)) == 1
    assert exact(opened.read()) == before


def test_two_processes_with_the_same_cells_commit_one_row_each(tmp_path):
    code = """
sys.stdin.readline()
for number in range(5):
    with Store(path) as opened:
        opened.append(cell(f"k{number}"))
"""
    writers = [start(code, tmp_path, seed=seed) for seed in (1, 2)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    assert len(shards(tmp_path)) == 10
    rows = Store(tmp_path).read(["key", "probe", "seed"])
    assert rows.select("key", "probe").rows() == [(f"k{k}", probe) for k in range(5) for probe in range(3)]
    assert rows.group_by("key").agg(pl.col("seed").n_unique())["seed"].to_list() == [1] * 5


@pytest.mark.slow
def test_reading_goes_on_while_another_process_writes_and_compacts(tmp_path):
    code = """
opened = Store(path)
for count in range(24):
    opened.append(cell(f"{count:02}"))
    opened.flush()
    if count % 3 == 2:
        opened.compact()
"""
    reader, seen = Store(tmp_path), 0
    with start(code, tmp_path) as writer:
        while writer.poll() is None:
            found = len(reader.read(["key", "mem"]))
            assert found >= seen
            assert found % 3 == 0
            seen = found
        assert writer.stderr.read() == ""
    assert len(reader.keys()) == 24
    assert len(shards(tmp_path)) == 1


FULL = """
import resource, subprocess
def full(size):
    if sys.argv[3] == "rlimit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    else:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)
opened = Store(path)
opened.append(cell("early"))
opened.flush()
full(64 * 1024)
opened.append(cell("late", mem=[i / 2**20 for i in range(2**17)]))
try:
    opened.flush()
except StoreError as error:
    print(json.dumps(str(error)))
print(json.dumps([len(list(path.iterdir())), Store(path).read(["key"]).rows()]))
full(2**24)
opened.close()
print(json.dumps(Store(path).read(["key", "probe"]).rows()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rlimit", "tmpfs"])
def test_a_full_disk_harms_nothing_and_a_retry_works(tmp_path, kind):
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(tmp_path)]
    if kind == "tmpfs" and subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("no small file system may be mounted here")
    with start(FULL, tmp_path, kind, wrapper=mounted if kind == "tmpfs" else ()) as writer:
        output, errors = writer.communicate()
    assert writer.returncode == 0, errors
    message, (n_files, while_full), after = map(json.loads, output.splitlines())
    assert "3 rows could not be written" in message
    assert "Free space" in message
    assert n_files == 1  # no part of a file stays
    assert while_full == [["early"]] * 3
    assert after == [[key, probe] for key in ("early", "late") for probe in range(3)]


def test_what_is_no_file_is_left_out(tmp_path):
    fill(tmp_path, "a")
    (tmp_path / "x.parquet").mkdir()
    (tmp_path / "y.parquet").symlink_to("nothing")
    with pytest.warns(StoreWarning, match=r"[xy].parquet is no file, and is left out") as seen:
        assert Store(tmp_path).keys() == {"a"}
    assert len(seen) == 2


@pytest.mark.slow
def test_many_shards_become_one_while_they_are_written(tmp_path):
    names = [f"{number:03}" for number in range(150)]
    with Store(tmp_path, flush_seconds=60) as opened:
        for name in names:
            opened.append(cell(name))
            opened.flush()
            assert len(shards(tmp_path)) <= 64
    assert Store(tmp_path).keys() == set(names)


def test_stores_are_merged_where_their_rows_agree(tmp_path):
    fill(tmp_path / "a", "k", "l", n_probes=2)
    fill(tmp_path / "b", "l", "m", n_probes=2, seconds=9.0, versions="others", threads=7)
    before = exact(store.read([tmp_path / "a", tmp_path / "b"]))
    assert store.merge(tmp_path / "a", [tmp_path / "b"]) == (1, 1)
    assert exact(Store(tmp_path / "a").read()) == before


@pytest.mark.parametrize("changes", [{"steps": 2}, {"n_probes": 1}, {"mem": [0.25]}, {"bits_with": float("nan")}])
def test_stores_that_disagree_are_not_merged(tmp_path, changes):
    fill(tmp_path / "a", "k", "l", n_probes=2)
    fill(tmp_path / "b", "l", "m", **{"n_probes": 2} | changes)
    with pytest.raises(ValueError, match=r"1 cells of .* the first is l;"):
        store.merge(tmp_path / "a", [tmp_path / "b"])
    assert Store(tmp_path / "a").keys() == {"k", "l"}


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"nothing can be written to .*choose another folder"):
        Store(tmp_path / "file" / "s").check_writable()
    Store(tmp_path / "s").check_writable()
    assert list((tmp_path / "s").iterdir()) == []


def test_the_same_cell_with_other_rows_is_named_and_refused(tmp_path):
    fill(tmp_path / "a", "one", "two")
    fill(tmp_path / "b", "one", seconds=9.0)
    fill(tmp_path / "b", "two", steps=99)
    fill(tmp_path / "b", "three")
    both = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(ValueError, match=r"1 cells of .*b have other rows in .*a, the first is two; .*--keep-first"):
        store.merge(tmp_path / "c", both)
    assert not (tmp_path / "c").exists()
    assert store.merge(tmp_path / "c", both, keep_first=True) == (3, 2)
    found = store.read([tmp_path / "c"])
    assert exact(found) == exact(store.read(both))  # whose rows are the first folder's, too
    assert store.merge(tmp_path / "c", [tmp_path / "a"]) == (0, 2)
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        store.merge(tmp_path / "c", [tmp_path / "nowhere"])


def test_two_shards_of_one_folder_that_disagree_are_named_too(tmp_path):
    fill(tmp_path / "a", "one")
    fill(tmp_path / "a", "one", steps=99)
    with pytest.raises(ValueError, match=r"1 cells of .*a have other rows in .*a, the first is one;"):
        store.merge(tmp_path / "c", [tmp_path / "a"])
    assert store.merge(tmp_path / "c", [tmp_path / "a"], keep_first=True) == (1, 0)


def test_what_was_not_recorded_is_no_other_row(tmp_path):
    """Rows of before a column was there, or that kept no vectors, are the same rows; what is scored may not be null."""
    fill(tmp_path / "a", "one", budget=None, text_seed=None, mem=None)
    fill(tmp_path / "b", "one", budget=4000, text_seed=0)
    assert store.merge(tmp_path / "a", [tmp_path / "b"]) == (0, 1)
    fill(tmp_path / "c", "one", decoded_tokens=3)
    fill(tmp_path / "d", "one", decoded_tokens=None)
    with pytest.raises(ValueError, match="have other rows"):
        store.merge(tmp_path / "c", [tmp_path / "d"])


@pytest.mark.parametrize("kind", [str, Path])
def test_one_path_in_place_of_a_list_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="is one path; give a list of folders"):
        store.read(kind(tmp_path))


def test_a_folder_that_is_not_there_is_named_unless_it_may_be(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*none; give folders of rows"):
        store.read([tmp_path, tmp_path / "none"])
    assert store.read([tmp_path / "none"], missing_ok=True).is_empty()
    assert repr(Store(tmp_path)) == f"Store({str(tmp_path)!r})"
