"""Fresh fits one token beyond what searches hold: asked for again where one is solved, and measured once."""

import polars as pl
import pytest

from capacity import fitting, metrics, sweep
from capacity.fitting.recipes import Recipe
from capacity.sweep import beyond

QUICK = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=25, patience=20)
SAME = {"source": "embedded", "recipe": "quick", "length": 6, "budget": 300, "device": "cpu"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(fitting.RECIPES, "quick", QUICK)


def grid(folder, **settings):
    return sweep.grid(model=str(folder), n_texts=2, **SAME | {"seed": [0, 1]} | settings)


@pytest.mark.slow
def test_every_text_is_fitted_afresh_until_none_holds_more(folders, tmp_path):
    searches = grid(folders["llama"])
    done = sweep.limits(searches, tmp_path, seeds=(7, 8), progress=False)
    rows, found = done.rows, metrics.limits(done.rows)
    assert found.height == 2
    searched = rows.filter(pl.col("search") != "fixed")
    assert searched["key"].n_unique() == 4
    for text, tokens, kind in found.select("text_id", "tokens", "kind").iter_rows():
        own = rows.filter(text_id=text)
        assert tokens == max(row["decoded_tokens"] or 0 for row in own.to_dicts())
        fresh = own.filter(search="fixed")
        assert set(fresh["seed"]) <= {7, 8}
        if tokens < 6:
            assert fresh.filter(length=tokens + 1)["seed"].sort().to_list() == [7, 8]
            assert set(fresh.filter(length=tokens + 1)["status"]) == {"stalled"}
            assert kind == "limit"
        else:
            assert kind == "ended"
        if tokens:
            assert fresh.filter(length=tokens).height == 2
    assert rows["key"].n_unique() == done.n_new == done.n_new + done.n_there

    again = sweep.limits(searches, tmp_path, seeds=(7, 8), missing="refuse", progress=False)
    assert (again.n_new, again.n_there) == (0, done.n_new)
    assert again.rows.drop("mem").equals(rows.drop("mem"))
    nothing = sweep.limits(searches, tmp_path / "none", seeds=(7, 8), missing="skip", progress=False)
    assert (nothing.rows.height, nothing.n_missing) == (0, 4)


def test_fits_follow_the_longest_of_all_rows_and_stop_at_the_text(folders):
    searches = grid(folders["llama"], n_mem=2)
    text = {"model": str(folders["llama"]), "source": "embedded", "text_seed": 0, "n_mem": 2, "scored_from": 0}
    rows = pl.DataFrame([
        text | {"text_index": 0, "decoded_tokens": 2}, text | {"text_index": 0, "decoded_tokens": 4},
        text | {"text_index": 0, "decoded_tokens": None}, text | {"text_index": 1, "decoded_tokens": 6},
    ])  # fmt: skip
    fits = beyond.one_length(searches, rows, more=1, seeds=(7,))
    assert [(one.text_index, one.length, one.seed, one.search, one.n_mem) for one in fits] == [(0, 5, 7, "fixed", 2)]
    at = sweep.one_length(searches, rows, seeds=(7,))
    assert [(one.text_index, one.length) for one in at] == [(0, 4), (1, 6)]
    half = sweep.one_length(searches, rows, share=0.7, seeds=(7, 8))
    assert [(one.text_index, one.length, one.seed) for one in half] == [(0, 2, 7), (0, 2, 8), (1, 4, 7), (1, 4, 8)]
    assert beyond.one_length(searches, rows.filter(text_index=1), more=1, seeds=(7,)) == []
    nothing = rows.filter(text_index=0).with_columns(decoded_tokens=pl.lit(None, pl.Int32))
    assert [one.length for one in beyond.one_length(searches, nothing, more=1, seeds=(7,))] == [1]
    assert beyond.one_length(searches, nothing, more=0, seeds=(7,)) == []


def test_what_can_not_be_compared_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=r"seeds \[1\] are the searches' own"):
        sweep.limits(grid(folders["llama"]), tmp_path, seeds=(1, 2))
    mixed = grid(folders["llama"], bos=["none", "before_mem"])
    rows = pl.DataFrame(schema={**dict.fromkeys(("model", "source"), pl.String), "decoded_tokens": pl.Int32}
                        | dict.fromkeys(("text_index", "text_seed", "n_mem", "scored_from"), pl.Int64))  # fmt: skip
    with pytest.raises(ValueError, match="differ in dtype, attention, device or bos"):
        beyond.one_length(mixed, rows, more=1, seeds=(7,))


def test_a_source_with_other_texts_where_they_may_be_shorter_is_refused(folders, tmp_path):
    def asked(name, length):
        return sweep.grid(model=str(folders["llama"]), source=name, n_texts=1, length=length, recipe="quick")

    beyond.check_prefixes([*asked("embedded", 9), *asked("embedded", 5)], asked("embedded", 7))
    (tmp_path / "texts.csv").write_text("text\n" + "No.\n" * 8 + "The ferry left the harbour before the rain.\n")
    name = f"file:{tmp_path / 'texts.csv'}#text"  # of nine texts one has nine tokens
    with pytest.raises(ValueError, match="draws other texts where fewer tokens are asked for"):
        beyond.check_prefixes(asked(name, 9), asked(name, 2))
