"""Cells to rows: what is stored of a fit is what its stored vector does alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from capacity import fitting, sweep
from capacity.fitting import Probe
from capacity.fitting.recipes import Recipe
from capacity.models import Frozen
from capacity.store import SCHEMA, to_frame
from capacity.sweep import rows

QUICK = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=25, patience=20)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(fitting.RECIPES, "quick", QUICK)


def cells(folders, **settings):
    same = {"source": "random_tokens", "recipe": "quick", "length": 5, "budget": 300, "device": "cpu", "n_texts": 2}
    return sweep.cells(sweep.grid(model=str(folders["llama"]), **same | settings))


@pytest.mark.parametrize("how", ["fixed", "grow"])
def test_a_row_is_what_its_vector_does_by_a_plain_pass(how, folders, tiny: Frozen):
    made = list(rows.run(tiny, cells(folders, search=how, trace=True)))
    assert sorted(row["text_index"] for (row, *_) in made) == [0, 1]
    for cell_rows in made:
        frame = to_frame(cell_rows)  # every column, of its type
        assert frame["probe"].to_list() == list(range(frame.height))
        assert frame["limit"].to_list() == [5 if how == "grow" else None] * frame.height
        (cell,) = [cell for cell in cells(folders, search=how, trace=True) if cell.key == cell_rows[0]["key"]]
        for row in cell_rows:
            ids = torch.tensor([cell.text.ids[: row["length"]]])
            mem = torch.tensor(row["mem"]).reshape(1, row["n_mem"], row["d_model"])
            with torch.no_grad():
                embeds = torch.cat([mem, tiny.embed(ids[:, :-1])], 1)
                logits = tiny.model(inputs_embeds=embeds).logits[0].float()
                logs = torch.log_softmax(logits, -1) / np.log(2)
            right = (logits.argmax(-1) == ids[0]).tolist()
            bits = -logs.gather(1, ids.T)[:, 0]
            assert (row["first_correct"], row["correct_with"]) == (right[0], sum(right[1:]))
            assert row["bits_with"] == pytest.approx(bits[1:].sum().item(), rel=1e-4, abs=1e-4)
            assert row["first_bits_with"] == pytest.approx(bits[0].item(), rel=1e-4, abs=1e-4)
            assert (row["status"] == "solved") == all(right)
            assert len(row["curve_right"]) == row["steps"] + 1
        solved = [row["length"] for row in cell_rows if row["status"] == "solved"]
        decoded = [row["decoded_tokens"] for row in cell_rows if row["decoded_tokens"] is not None]
        assert max(decoded, default=0) == max(solved, default=0)


def test_a_fit_that_failed_is_a_row_that_was_not_decoded(folders, tiny: Frozen):
    (cell, _) = cells(folders, search="fixed")
    probe = Probe(5, "stalled", 3, 15, 1, 5, None, 0.5, None, torch.zeros(1, tiny.dim))
    (row,) = rows.rows(tiny, cell, [probe])
    assert row.keys() == SCHEMA.keys()
    assert (row["status"], row["steps"], row["token_steps"], row["seconds"]) == ("stalled", 3, 15, 0.5)
    assert row["decoded_tokens"] is row["budget"] is row["curve_bits"] is row["bits_with_min"] is None
    assert not row["mem"].any()
    (solved,) = rows.rows(tiny, cell, [replace(probe, status="solved")])
    assert solved["decoded_tokens"] is not None  # a solved one is decoded, whatever comes of it


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_cells_decoded_side_by_side_have_the_rows_of_those_alone(
    fails: bool, folders, tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [*cells(folders, n_texts=3), *cells(folders, n_mem=2, scored_from=1)]
    alone, sizes = {made[0]["key"]: made for made in rows.run(tiny, wanted)}, []
    together = rows.all_decoded_back

    def counted(frozen: Frozen, ended: list) -> list:
        sizes.append(len(ended))
        if fails:
            raise RuntimeError("CUDA error: out of memory")
        return together(frozen, ended)

    monkeypatch.setattr(rows, "all_decoded_back", counted)
    monkeypatch.setitem(rows.AT_ONCE, "cpu", 3)
    found = {made[0]["key"]: made for made in rows.run(tiny, wanted)}
    assert sizes == [3, 2]
    columns = [name for name in SCHEMA if name != "seconds"]
    for key, made in alone.items():
        assert to_frame(found[key]).select(columns).equals(to_frame(made).select(columns))
    assert any(row["decoded_tokens"] for made in found.values() for row in made)


def test_what_ended_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(rows.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(rows, "_WAIT_SECONDS", 2.5)
    assert list(rows._gathered(iter("abcdefgh"), 64)) == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert list(rows._gathered(iter("abc"), 1)) == [["a"], ["b"], ["c"]]
    assert list(rows._gathered(iter(""), 1)) == []
