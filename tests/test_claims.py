import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capacity import store
from capacity.store import Claims, StoreError, StoreWarning

KEYS = [f"{number:032x}" for number in range(200)]
IN_A_CHILD = """
import sys, time
from pathlib import Path
from capacity.store import Claims
keys = sys.argv[2:]
"""


def child(code, folder, *keys):
    return subprocess.Popen(
        [sys.executable, "-c", IN_A_CHILD + code, str(folder), *keys],
        env=os.environ | {"PYTHONPATH": str(Path(store.__file__).parents[2])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_cell_has_one_owner_until_it_is_released(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take(KEYS, 3) == KEYS[:3]
        assert other.take(KEYS, 2) == KEYS[3:5]
        assert one.take(KEYS[:5], 9) == []
        assert (one.n_others(), other.n_others()) == (1, 1)
        other.release(KEYS[:5])  # its own alone
        assert one.take(KEYS[:5], 9) == KEYS[3:5]
    with Claims(tmp_path) as last:
        assert last.n_others() == 0
        assert last.take(KEYS[:5], 9) == KEYS[:5]  # who ends gives all up
    assert [path.name for path in (tmp_path / "claims").iterdir()] == [".lock"]


def test_what_a_killed_process_claimed_is_had_at_once(tmp_path):
    code = """
with Claims(Path(sys.argv[1])) as claims:
    print(len(claims.take(keys, 99)), flush=True)
    time.sleep(600)
"""
    with child(code, tmp_path, *KEYS[:3]) as owner, Claims(tmp_path) as waiting:
        assert owner.stdout.readline() == "3\n"
        assert waiting.take(KEYS[:4], 9) == [KEYS[3]]
        owner.send_signal(signal.SIGSTOP)  # held up is not dead
        assert waiting.take(KEYS[:4], 9) == []
        owner.kill()
        owner.wait()
        assert waiting.take(KEYS[:4], 9) == KEYS[:3]
    with Claims(tmp_path):  # cleans what was left, and no more
        assert len(list((tmp_path / "claims").iterdir())) == 2


def test_on_another_machine_the_heart_tells(tmp_path, monkeypatch):
    beat = {"beat_seconds": 0.05, "stale_seconds": 1.0}
    with Claims(tmp_path, **beat) as near:
        monkeypatch.setattr(platform, "node", lambda: "far")
        with Claims(tmp_path, **beat) as far, Claims(tmp_path, beat_seconds=600, stale_seconds=1.0) as still:
            assert (far.take(KEYS[:1], 1), still.take(KEYS[1:2], 1)) == (KEYS[:1], KEYS[1:2])
            monkeypatch.undo()
            assert near.take(KEYS[:2], 9) == []
            deadline = time.monotonic() + 30
            while not (taken := near.take(KEYS[:2], 9)) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert taken == KEYS[1:2]  # the one whose heart stands still
            still.release(KEYS[1:2])  # late: it is not its own any more
            assert far.take(KEYS[1:2], 1) == []


def test_ages_are_of_the_file_systems_clock(tmp_path, monkeypatch):
    with Claims(tmp_path, beat_seconds=600) as near:
        monkeypatch.setattr(platform, "node", lambda: "far")
        with Claims(tmp_path, beat_seconds=600) as far:
            assert far.take(KEYS[:1], 1) == KEYS[:1]
            monkeypatch.undo()
            monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's own clock is years ahead
            assert near.take(KEYS[:1], 1) == []
            past = os.stat(tmp_path / "claims" / KEYS[0]).st_mtime - 61
            os.utime(tmp_path / "claims" / KEYS[0], (past, past))
            assert near.take(KEYS[:1], 1) == KEYS[:1]


def test_without_hard_links_everything_is_given_and_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        for claims in (one, other):
            with pytest.warns(StoreWarning, match="can't hold claims .*is measured here, too"):
                assert claims.take(KEYS, 2) == KEYS[:2]
            claims.release(KEYS[:2])


@pytest.mark.slow
def test_of_many_processes_each_cell_has_one_also_where_some_are_killed(tmp_path):
    code = """
sys.stdin.readline()
with Claims(Path(sys.argv[1])) as claims:
    while mine := claims.take(keys, 3):
        print(*mine, sep="\\n", flush=True)
        time.sleep(0.001)
    print("done", flush=True)
    sys.stdin.readline()
"""
    owners = [child(code, tmp_path, *random.Random(number).sample(KEYS, len(KEYS))) for number in range(4)]
    for owner in owners:
        owner.stdin.write("go\n")
        owner.stdin.flush()
    found = [[line.strip() for line in iter(owner.stdout.readline, "done\n")] for owner in owners]
    assert sorted(key for part in found for key in part) == KEYS
    owners[0].kill()
    owners[0].wait()
    with Claims(tmp_path) as heir:
        assert sorted(heir.take(KEYS, 999)) == sorted(found[0])
    for owner in owners:
        with owner:
            owner.kill()


def test_a_file_in_the_place_of_claims_is_named(tmp_path):
    (tmp_path / "claims").write_text("")
    with (
        pytest.raises(StoreError, match=r"claims can't be a folder .*; remove it, or choose another store"),
        Claims(tmp_path),
    ):
        pass
