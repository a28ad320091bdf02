import contextlib
import dataclasses
import math
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
import torch

from capacity import decoding, fitting, models, resources, store, sweep
from capacity.decoding import Score, free_running, teacher_forced
from capacity.fitting.recipes import Recipe
from capacity.store import schema
from capacity.sweep import experiment
from capacity.sweep import rows as sweep_rows
from capacity.sweep.experiment import Cell, Experiment
from capacity.texts import Text

pytestmark = pytest.mark.slow

QUICK = {
    "quick": Recipe(loss="hinge", margin=0.05, lr=0.1, steps=25, patience=20),
    "quick-bits": Recipe(loss="cross_entropy", lr=0.1, steps=25, patience=20),
}
FACTS = {"revision": "0" * 16, "tokenizer_digest": "f" * 16}
TEXT = Text(source="random_tokens", index=0, id="a", ids=(1, 2, 3, 4))
# Of every field another value, to be told apart by.
OTHER = {
    "model": "b", "source": "random_words", "text_index": 1, "text_seed": 1, "n_mem": 2, "length": 5,
    "scored_from": 1, "recipe": "paper", "search": "fixed", "budget": 9, "seed": 1, "bos": "before_mem",
    "dtype": "bfloat16", "attention": "eager", "device": "cpu", "trace": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, recipe in QUICK.items():
        monkeypatch.setitem(fitting.RECIPES, name, recipe)


@pytest.fixture(scope="module")
def measured(request):
    """Cells of every kind, and their rows as `run` gave them side by side."""
    frozen, folders = request.getfixturevalue("tiny"), request.getfixturevalue("folders")
    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in QUICK.items():
            patch.setitem(fitting.RECIPES, name, recipe)
        same = {"model": str(folders["llama"]), "source": "random_tokens", "recipe": list(QUICK), "scored_from": [0, 1]}
        grids = sweep.grid(n_texts=2, n_mem=[1, 2], length=6, budget=400, trace=[False, True], **same)
        grids += sweep.grid(n_texts=2, search="bracket", n_mem=2, length=6, budget=400, **same)
        grids += sweep.grid(n_texts=2, search="fixed", length=[2, 10], **same)
        cells = sweep.cells(grids)
        return cells, list(sweep_rows.run(frozen, cells))


def plain(row):
    """A row as values that compare, without the time it took."""
    as_list = {name: np.asarray(row[name]).tolist() for name in ("mem", "curve_right", "curve_bits")}
    return {name: value for name, value in (row | as_list).items() if name != "seconds"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "fast"}, "unknown recipe 'fast'; known are paper, "),
        ({"source": "wikipedia"}, "unknown source 'wikipedia'"),
        ({"search": "bisect"}, "unknown search 'bisect'; known are fixed, grow, bracket"),
        ({"scored_from": 2}, "unknown scored_from 2; known are 0, 1"),
        ({"bos": "twice"}, "unknown bos 'twice'; known are auto, none, before_mem, after_mem"),
        ({"bos": "after_mem"}, "makes BOS the given first token; it needs scored_from=1"),
        ({"dtype": "float64"}, "unknown dtype 'float64'; known are float32, bfloat16, float16"),
        ({"n_mem": 0}, "n_mem is 0; at least 1"),
        ({"length": 0}, "length is 0; at least 1"),
        ({"length": 1, "scored_from": 1}, "length is 1; at least 2"),
        ({"budget": 0}, "budget is 0; at least 1"),
        ({"text_index": -1}, "text_index is -1; at least 0"),
        ({"text_seed": -1}, "text_seed is -1; at least 0"),
        ({"length": 2**31}, "length is 2147483648; at most 2147483647"),
        ({"budget": math.nan}, "budget is nan, a float; give a whole number"),
        ({"budget": 2e3}, "budget is 2000.0, a float; give a whole number"),
        ({"length": 4.5}, "length is 4.5, a float; give a whole number"),
        ({"n_mem": True}, "n_mem is True, a bool; give a whole number"),
        ({"seed": "0"}, "seed is '0', a str; give a whole number"),
        ({"trace": 1}, "trace is 1, a int; give True or False"),
        ({"device": 0}, "device is 0, a int; give text or None"),
        ({"source": None}, "source is None, a NoneType; give text"),
        ({"source": "halves:hub:not a name"}, "names no dataset"),
    ],
)
def test_refuses_a_setting_that_is_not_allowed(settings, message):
    made = Experiment(model="a")
    for name, value in settings.items():
        object.__setattr__(made, name, value)  # types are checked on the way in here, elsewhere they are not
    with pytest.raises(ValueError, match=message):
        made.check()


def test_every_setting_changes_the_key():
    assert sorted(OTHER) == sorted(field.name for field in fields(Experiment))
    base = Experiment(model="a")
    others = [*OTHER.items(), ("model", "a@1"), ("search", "bracket"), ("bos", "after_mem"), ("device", "cuda")]
    keys = [replace(base, **{name: value}).key(TEXT, **FACTS) for name, value in others]
    keys.append(base.key(TEXT, **FACTS))
    assert len(set(keys)) == len(others) + 1
    assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys)
    assert Experiment(model="a").key(TEXT, **FACTS) == keys[-1]


def test_text_model_tokenizer_protocol_and_recipe_change_the_key(monkeypatch):
    base = Experiment(model="a", recipe="quick")
    keys = [
        base.key(TEXT, **FACTS),
        base.key(replace(TEXT, ids=(1, 2, 3, 5)), **FACTS),
        base.key(TEXT, **FACTS | {"revision": "1" * 16}),
        base.key(TEXT, **FACTS | {"tokenizer_digest": "1" * 16}),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "PROTOCOL", experiment.PROTOCOL + 1)
        keys.append(base.key(TEXT, **FACTS))
    for field in fields(Recipe):
        value = {"loss": "cross_entropy", "betas": (0.9, 0.99), "steps": 26, "patience": 21, "relative": True}.get(
            field.name, 0.5
        )
        monkeypatch.setitem(fitting.RECIPES, "quick", replace(QUICK["quick"], **{field.name: value}))
        keys.append(base.key(TEXT, **FACTS))
    assert len(set(keys)) == len(keys)


def test_a_field_that_came_later_is_no_part_of_the_key_at_its_default():
    later = dataclasses.make_dataclass(
        "Later", [("place", str, dataclasses.field(default="input"))], bases=(Experiment,), frozen=True, kw_only=True
    )
    assert later(model="a").key(TEXT, **FACTS) == Experiment(model="a").key(TEXT, **FACTS)
    assert later(model="a", place="layer 1").key(TEXT, **FACTS) != Experiment(model="a").key(TEXT, **FACTS)


def test_a_dataset_on_the_hub_is_not_asked_for_before_its_texts_are(offline):
    for source in ("hub:some/tales#text", "pg19", "after:4:shuffled:fanfics", "chunks:pg19_books"):
        assert sweep.grid(model="llama-64", source=source, n_texts=2)[1].source == source


def experiments_of(notebook, monkeypatch, **parameters):
    """What a notebook asks `sweep.measure` for, its cells run up to there."""
    found = []

    def ask(experiments, *arguments, **options):
        found.extend(experiments)
        raise InterruptedError

    monkeypatch.setattr(sweep, "measure", ask)
    space = {}
    with contextlib.suppress(InterruptedError):
        for cell in (resources.notebooks() / f"{notebook}.py").read_text().split("\n# %%"):
            exec(compile("#" + cell, notebook, "exec"), space)
            space |= {name: value for name, value in parameters.items() if name in space}
    return found


def experiment_of(row):
    """The experiment that a row of now says it is of."""
    names = ["model", "source", "text_index", "text_seed", "n_mem", "scored_from", "recipe", "search", "seed", "bos"]
    fixed = {"length": row["length"]} if row["search"] == "fixed" else {"length": row["limit"], "budget": row["budget"]}
    return Experiment(**{name: row[name] for name in names}, **fixed)


def test_the_keys_of_the_travelling_rows_are_those_that_the_notebooks_make(monkeypatch):
    for recipe in QUICK:
        monkeypatch.delitem(fitting.RECIPES, recipe)
    speed = str(resources.data() / "measured" / "speed")
    names = [
        "01_decoding_capacity",
        "02_information_gain",
        "03_many_vectors",
        "04_theory_and_utilisation",
        "05_geometry",
        "10_baselines",
    ]
    wanted = [one for name in names for one in experiments_of(name, monkeypatch)]
    wanted += experiments_of("11_speed", monkeypatch, speed=speed)
    wanted += experiments_of("02_information_gain", monkeypatch, models=["llama-64"], n_texts=8)  # as they were once
    wanted += experiments_of("03_many_vectors", monkeypatch, budget=1500, power=1, longest=12)
    wanted += experiments_of("05_geometry", monkeypatch, model="llama-128", n_texts=5, length=4)
    made = {cell.key: cell.experiment for cell in sweep.cells(dict.fromkeys(wanted))}
    rows = store.read([sweep.measured()])
    own = pl.col("model").str.starts_with("ladder:")  # of 06, models that do not travel
    far = pl.col("model").is_in([*models.PACKAGED]) | own  # no key is made without the model itself
    assert (rows.filter(own)["key"].n_unique(), rows.filter(far & ~own)["key"].n_unique()) == (4362, 408)
    rows = rows.filter(~far)
    rest = rows.filter(~pl.col("key").is_in(list(made)))  # of lengths that follow from others' rows, as in 05 and 09
    assert {cell.key for cell in sweep.cells(map(experiment_of, rest.unique("key").to_dicts()))} == set(rest["key"])
    assert rest["key"].n_unique() == 398
    assert rows.filter(schema=2)["threads"].unique().to_list() == [1]
    rows = rows.filter(schema=1)
    assert rows["key"].n_unique() == 2739
    made = {key: made[key] for key in rows["key"]}
    # What their measurement did not record is that of the experiment with the key.
    recorded = rows.select("key", "text_seed", "budget", "limit").unique().sort("key").rows()
    grown = {key: one.search != "fixed" for key, one in made.items()}
    assert recorded == [
        (key, one.text_seed, one.budget if grown[key] else None, one.length if grown[key] else None)
        for key, one in sorted(made.items())
    ]
    assert rows["threads"].null_count() == rows.height  # not recorded then


def test_budget_is_no_part_of_a_fixed_length():
    fixed = Experiment(model="a", search="fixed")
    assert fixed.key(TEXT, **FACTS) == replace(fixed, budget=9).key(TEXT, **FACTS)


def test_name_of_the_text_is_no_part_of_the_key():
    base = Experiment(model="a")
    assert base.key(TEXT, **FACTS) == base.key(replace(TEXT, id="b"), **FACTS)


def test_counts_worked_by_hand():
    nothing = math.nan
    without = Score(
        np.array([[-1, 5, 6, 0]]), np.array([[False, True, False, True]]), np.array([[nothing, 1.0, 2.0, 4.0]])
    )
    with_mem = Score(np.array([[3, 5, 7]]), np.array([[True, True, True]]), np.array([[0.5, 0.25, 0.125]]))
    assert decoding.counts(with_mem, without, 3) == {
        "correct_without": 1, "correct_with": 2, "bits_without": 3.0, "bits_with": 0.375,
        "first_bits_with": 0.5, "first_correct": True,
    }  # fmt: skip
    assert decoding.counts(with_mem, without, 1) == {
        "correct_without": 0, "correct_with": 0, "bits_without": 0.0, "bits_with": 0.0,
        "first_bits_with": 0.5, "first_correct": True,
    }  # fmt: skip


def test_every_cell_comes_out_once_with_all_its_columns(measured):
    cells, found = measured
    assert sorted(part[0]["key"] for part in found) == sorted(cell.key for cell in cells)
    frame = schema.to_frame([row for part in found for row in part])
    assert frame.height == sum(map(len, found))
    by_key = {cell.key: cell for cell in cells}
    for part in found:
        what, text = by_key[part[0]["key"]].experiment, by_key[part[0]["key"]].text
        assert {row["key"] for row in part} == {part[0]["key"]}
        assert [row["probe"] for row in part] == list(range(len(part)))
        for row in part:
            same = ("model", "source", "text_index", "n_mem", "scored_from", "recipe", "search", "seed", "dtype")
            assert all(row[name] == getattr(what, name) for name in same)
            assert (row["text_id"], row["text_digest"]) == (text.id, text.digest)
            assert (row["curve_right"] is not None) == (row["curve_bits"] is not None) == what.trace
        lengths = [row["length"] for row in part]
        if what.search == "fixed":
            assert lengths == [what.length]
            continue
        assert lengths[0] == 1 + what.scored_from
        assert len(set(lengths)) == len(lengths)
        assert max(lengths) <= what.length
        if what.search == "grow":
            assert lengths == sorted(lengths)
            assert all(row["status"] == "solved" for row in part[:-1])
        assert {row["status"] for row in part} <= {"solved", "stalled", "budget"}
    assert {row["search"] for part in found for row in part} == {"fixed", "grow", "bracket"}


def test_counts_are_those_of_a_plain_loop_over_the_stored_bytes(measured, tiny):
    cells, found = measured
    ids_of = {cell.key: cell.text.ids for cell in cells}
    for row in (row for part in found for row in part):
        ids = list(ids_of[row["key"]][: row["length"]])
        mem = torch.tensor(row["mem"]).reshape(row["n_mem"], row["d_model"])
        right, bits = {}, {}
        for kind, begun in [("with", mem), ("without", mem[:0])]:
            for t, token in enumerate(ids):
                before = torch.cat([begun, tiny.embed(torch.tensor([ids[:t]], dtype=torch.long))[0]])
                if len(before):
                    logits = tiny.model(inputs_embeds=before[None], use_cache=False).logits[0, -1].double()
                    right[kind, t] = int(logits.argmax()) == token
                    bits[kind, t] = -torch.log_softmax(logits, -1)[token].item() / math.log(2)
        rest = range(1, len(ids))
        for kind in ("with", "without"):
            assert row[f"correct_{kind}"] == sum(right[kind, t] for t in rest)
            assert row[f"bits_{kind}"] == pytest.approx(sum(bits[kind, t] for t in rest), rel=1e-4, abs=1e-5)
        assert row["first_correct"] == right["with", 0]
        assert row["first_bits_with"] == pytest.approx(bits["with", 0], rel=1e-4, abs=1e-5)
        scored = range(row["scored_from"], len(ids))
        assert row["n_scored"] == len(scored)
        assert (row["status"] == "solved") == all(right["with", t] for t in scored)


def test_counts_are_those_of_teacher_forcing_the_stored_bytes(measured, tiny):
    cells, found = measured
    ids_of = {cell.key: cell.text.ids for cell in cells}
    for row in (row for part in found for row in part):
        ids = torch.tensor([ids_of[row["key"]]])
        mem = torch.tensor(row["mem"]).reshape(1, row["n_mem"], row["d_model"])
        with_mem = teacher_forced(tiny, mem, ids[:, : row["length"]])
        again = decoding.counts(with_mem, teacher_forced(tiny, None, ids), row["length"])
        assert {name: row[name] for name in again} == again


def test_the_last_exact_vector_alone_is_decoded(measured, tiny):
    cells, found = measured
    ids_of = {cell.key: list(cell.text.ids) for cell in cells}
    n_decoded = 0
    for part in found:
        exact = [row["probe"] for row in part if row["status"] == "solved"]
        assert [row["probe"] for row in part if row["decoded_tokens"] is not None] == exact[-1:]
        for row in (part[number] for number in exact[-1:]):
            mem = torch.tensor(row["mem"]).reshape(row["n_mem"], row["d_model"])
            ids = ids_of[row["key"]][: row["length"]]
            back = free_running(tiny, mem, len(ids), given=ids[: row["scored_from"]])
            assert row["decoded_tokens"] == len(ids) == row["length"]
            assert back == ids
            n_decoded += 1
    assert n_decoded >= 10


def test_curves_end_where_the_fit_does(measured):
    found = [row for part in measured[1] for row in part if row["curve_right"] is not None]
    assert found
    for row in found:
        assert len(row["curve_right"]) == len(row["curve_bits"]) == row["steps"] + 1
        own = row["correct_with"] + (row["first_correct"] and row["scored_from"] == 0)
        assert max(row["curve_right"]) == own
        if row["status"] == "solved":
            bits = row["bits_with"] + (row["first_bits_with"] if row["scored_from"] == 0 else 0)
            assert row["curve_bits"][-1] == pytest.approx(bits, rel=1e-4, abs=1e-4)
        if row["bits_with_min"] is not None and row["scored_from"] == 1:
            assert row["bits_with_min"] == pytest.approx(min(row["curve_bits"]), rel=1e-5)


def test_tracing_changes_nothing_else(measured):
    cells, found = measured
    by_key = {part[0]["key"]: part for part in found}
    by_experiment = {cell.experiment: by_key[cell.key] for cell in cells}
    pairs = [(one, replace(one, trace=True)) for one in by_experiment if one.search == "grow" and not one.trace]
    assert pairs
    left_out = ("key", "curve_right", "curve_bits")
    for one, traced in pairs:
        for a, b in zip(by_experiment[one], by_experiment[traced], strict=True):
            a, b = plain(a), plain(b)
            assert {name: a[name] for name in a if name not in left_out} == {
                name: b[name] for name in b if name not in left_out
            }


def test_a_cell_alone_gives_the_same_rows_as_in_company(measured, tiny):
    cells, found = measured
    together = {part[0]["key"]: [plain(row) for row in part] for part in found}
    for cell in cells[::9]:
        (alone,) = sweep_rows.run(tiny, [cell])
        assert [plain(row) for row in alone] == together[cell.key]


def test_order_of_cells_does_not_matter(measured, tiny):
    cells, found = measured
    chosen = cells[::6]
    together = {part[0]["key"]: [plain(row) for row in part] for part in found}
    for part in sweep_rows.run(tiny, chosen[::-1]):
        assert [plain(row) for row in part] == together.pop(part[0]["key"])
    assert len(together) == len(cells) - len(chosen)


def test_refuses_a_text_past_the_context_before_any_fit(measured, tiny):
    long = replace(TEXT, ids=(1,) * 64)
    cell = Cell(Experiment(model="a", source="random_tokens", length=64, recipe="quick"), long, "0" * 32)
    with pytest.raises(ValueError, match=r"64 tokens and 1 \[mem\] are 65 positions, past the context"):
        next(sweep_rows.run(tiny, [measured[0][0], cell]))


def test_no_cells_give_no_rows(tiny):
    assert list(sweep_rows.run(tiny, [])) == []


def test_bos_before_the_vectors_is_counted_nowhere_and_read_everywhere(folders):
    frozen = models.load(str(folders["llama"]), device="cpu", bos="before_mem")
    settings = {"model": str(folders["llama"]), "source": "random_tokens", "recipe": "quick", "bos": "before_mem"}
    (cell,) = sweep.cells(sweep.grid(n_texts=1, n_mem=2, search="fixed", length=3, **settings))
    ((row,),) = sweep_rows.run(frozen, [cell])
    assert (row["bos"], row["length"], row["n_scored"]) == ("before_mem", 3, 3)
    embed = frozen.model.get_input_embeddings()
    bos, text = embed(torch.tensor([frozen.tokenizer.bos_token_id])), embed(torch.tensor(cell.text.ids))
    mem = torch.tensor(row["mem"]).reshape(2, -1)
    for kind, begun in (("with", torch.cat([bos, mem])), ("without", bos)):
        logits = frozen.model(inputs_embeds=torch.cat([begun, text])[None]).logits[0, len(begun) : -1].double()
        aim = torch.tensor(cell.text.ids[1:])
        nats = torch.nn.functional.cross_entropy(logits, aim, reduction="sum").item()
        assert row[f"bits_{kind}"] == pytest.approx(nats / math.log(2), rel=1e-4)
        assert row[f"correct_{kind}"] == int((logits.argmax(-1) == aim).sum())


def test_bos_after_the_vectors_is_the_given_first_token(folders):
    frozen = models.load(str(folders["llama"]), device="cpu", bos="after_mem")
    settings = {"model": str(folders["llama"]), "source": "random_tokens", "recipe": "quick", "scored_from": 1}
    (cell,) = sweep.cells(sweep.grid(n_texts=1, n_mem=2, length=3, bos="after_mem", **settings))
    (plain_cell,) = sweep.cells(sweep.grid(n_texts=1, n_mem=2, length=2, **settings))
    assert cell.text.ids == (frozen.tokenizer.bos_token_id, *plain_cell.text.ids)
    (found,) = sweep_rows.run(frozen, [cell])
    assert {row["bos"] for row in found} == {"after_mem"}
    assert found[0]["length"] == 2
    for row in found:
        assert row["n_scored"] == row["length"] - 1
        ids = list(cell.text.ids[: row["length"]])
        mem = torch.tensor(row["mem"]).reshape(2, -1)
        if row["status"] == "solved":
            assert free_running(frozen, mem, len(ids), given=ids[:1]) == ids


def test_compiled_cells_have_the_same_verdicts(measured, tiny, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # as it was traced
    cells, found = measured
    chosen = [cell for cell in cells if cell.experiment.search == "fixed" and cell.experiment.length == 2][:4]
    plain_rows = {part[0]["key"]: part for part in found}
    told = ("status", "steps", "length", "correct_with", "decoded_tokens", "curve_right")
    for part in sweep_rows.run(tiny, chosen, compile=True):
        for row, other in zip(part, plain_rows.pop(part[0]["key"]), strict=True):
            assert [row[name] for name in told] == [other[name] for name in told]
            np.testing.assert_allclose(row["mem"], other["mem"], atol=1e-4)
