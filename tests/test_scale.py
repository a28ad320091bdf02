"""How a sweep scales: nine tenths of sixty-four workers' time is work, as long as the driver keeps up."""

import pytest

from capacity import models, sweep
from capacity.store import Store
from capacity.sweep import scale


def test_simulated_workers_are_kept_busy_until_the_driver_is_the_limit():
    found = {row["n_workers"]: row["efficiency"] for row in scale.simulated(driver_seconds=0.005)}
    assert list(found) == [1, 2, 4, 8, 16, 32, 64]
    assert all(0.9 <= efficiency <= 1.0 for efficiency in found.values()), found
    (slow,) = scale.simulated([64], driver_seconds=0.2)  # 2000 s of driver for 760 s of work
    assert slow["efficiency"] < 0.5


@pytest.mark.slow
def test_real_workers_store_every_cell(monkeypatch):
    appended, append = [], Store.append
    monkeypatch.setattr(Store, "append", lambda self, rows: appended.append(rows[0]["key"]) or append(self, rows))
    found = scale.real(20, milliseconds=5, n_workers=2)
    assert len(set(appended)) == len(appended) == 20
    assert found["n_workers"] == 2
    assert 0 < found["efficiency"] < 1
    assert found["driver_seconds"] > 0


@pytest.mark.slow
def test_what_is_said_of_a_sweep_is_what_it_takes(tmp_path):
    every = sweep.grid(model=next(iter(models.EMBEDDED)), length=12, n_texts=4, text_seed=5, device="cpu")
    found = scale.foretold(every, tmp_path / "store")
    assert 1 / 1.3 < found["bytes_ratio"] < 1.3
    assert found["seconds_ratio"] == found["seconds_taken"] / found["seconds_said"] > 0  # a busy machine's vary
    assert len(Store(tmp_path / "store").keys()) == 4
