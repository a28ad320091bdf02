import dataclasses
import math

import polars as pl
import pytest
import torch
from scipy import optimize

from capacity import baselines, gains, metrics, models, store, sweep
from capacity.baselines import kinds
from capacity.decoding import teacher_forced

pytestmark = pytest.mark.slow

OVER = optimize.brentq(lambda s: 4 * math.log2(math.exp(s) + 3) - s / math.log(2) - 8 - 10, 0, 50)


class TooSure(models.Frozen):
    """A model of 4 tokens that always expects token 0, by OVER nats, times the first number that it reads.

    A token's embedding is 1. With the vector 0 it is as unsure as a source that draws evenly; by itself it pays 10 bits
    more for each four tokens in which every one is there once.
    """

    dim, n_before, embedding_std, device = 1, 0, 1.0, torch.device("cpu")

    def __init__(self):
        pass

    def embed(self, ids):
        return torch.ones(*ids.shape, 1)

    def inputs(self, mem, context):
        return context if mem is None else torch.cat([mem, context], 1)

    def predicting(self, n_mem):
        return n_mem - 1

    def hidden(self, inputs):
        return inputs[:, :1].expand(-1, inputs.shape[1], -1)

    def head(self, hidden):
        return hidden * OVER * torch.tensor([1.0, 0, 0, 0])

    def logits(self, inputs):
        return self.head(self.hidden(inputs))


def balanced(n_texts, seed):
    """Texts of 41 tokens, positions 2..41 holding each token ten times."""
    random = torch.Generator().manual_seed(seed)
    rest = torch.arange(4).repeat(10)
    return torch.stack(
        [torch.cat([torch.tensor([1]), rest[torch.randperm(40, generator=random)]]) for _ in range(n_texts)]
    )


def test_a_gain_of_100_bits_of_which_none_is_about_the_text():
    toy, ids = TooSure(), balanced(6, seed=1)
    null = baselines.fit(toy, balanced(64, seed=2), balanced(16, seed=3))
    own = [baselines.fit(toy, text[None], text[None]).mem for text in ids]

    def bits(mem, text):
        return teacher_forced(toy, mem, text[None]).bits[0, 1:].sum()

    rows = pl.DataFrame({
        "text_id": [str(n) for n in range(6)], "text_digest": [f"d{n}" for n in range(6)], "length": 41, "n_mem": 1,
        "bits_without": [bits(None, text) for text in ids], "scored_from": 1, "source_bits_low": 82.0,
        "first_bits_with": 0.0,
        "bits_with": [bits(mem[None], text) for mem, text in zip(own, ids, strict=True)], "source_first_bits": 2.0,
        "model": "toy", "revision": "r", "bos": "none", "dtype": "float32", "source": "random_tokens", "recipe": "p",
    })  # fmt: skip
    nulls = rows.with_columns(null=pl.lit("shared"), null_bits=pl.Series([bits(null.mem[None], text) for text in ids]))
    assert gains.information_gain(rows)["value"].item() == pytest.approx(100, abs=0.5)
    assert gains.text_specific_gain(rows, nulls)["value"].item() == pytest.approx(0, abs=0.5)
    assert gains.certified_information(rows)["value"].item() == pytest.approx(0, abs=0.5)
    assert gains.certified_information(rows.with_columns(bits_with="bits_without"))["value"].item() == pytest.approx(
        -100
    )


def test_the_shared_vector_of_two_texts_expects_their_mean():
    ids = torch.tensor([[3, *[0] * 12, *[1, 2, 3, 1, 2, 3, 1, 2]], [3, *[0] * 2, *[1, 2, 3] * 6]])
    found = baselines.fit(TooSure(), ids, ids)
    share = 14 / 40  # of token 0 among positions 2..N of both
    assert found.mem.item() * OVER == pytest.approx(math.log(3 * share / (1 - share)), abs=0.02)
    charged = -(14 * math.log2(share) + 26 * math.log2((1 - share) / 3)) / 2
    assert found.bits == pytest.approx(charged, abs=0.01)
    assert found.epochs > 0
    again = baselines.fit(TooSure(), ids, ids)
    assert torch.equal(found.mem, again.mem)
    alone = baselines.fit(TooSure(), ids, ids, n_starts=1)
    kept = baselines.fit(TooSure(), ids, ids, n_starts=0, also=[found.mem])
    assert kept.bits <= found.bits <= alone.bits  # the best of the starts, and no worse than what it began at
    with pytest.raises(ValueError, match="n_starts is 0"):
        baselines.fit(TooSure(), ids, ids, n_starts=0)
    with pytest.raises(ValueError, match="'default' descends squared_hinge; give one of the cross-entropy"):
        baselines.fit(TooSure(), ids, ids, recipe="default")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nulls")
    grid = sweep.grid(
        model="llama-64",
        source="embedded",
        n_texts=3,
        length=[3, 5],
        search="fixed",
        recipe="progressive",
        scored_from=1,
    )
    cells = sweep.cells(grid)
    rows = sweep.measure(grid, folder / "store", travelling=False, progress=False).rows
    return rows, cells, baselines.nulls(rows, cells, folder, n_other=10, travelling=False), folder


def test_nulls_are_what_plain_loops_say(measured):
    rows, cells, found, _ = measured
    frozen = models.load("llama-64", device="cpu")
    texts = {cell.text.digest: cell.text.ids for cell in cells}
    vectors = {(row["text_index"], row["length"]): torch.tensor(row["mem"]) for row in rows.to_dicts()}
    index = dict(rows.select("text_digest", "text_index").iter_rows())
    table = frozen.model.get_input_embeddings().weight.detach()
    for row in found.filter(pl.col("null") != "shared").to_dicts():
        ids, length = texts[row["text_digest"]], row["length"]
        other = vectors[(index[row["text_digest"]] + 1) % 3, length]
        mem = {"mean": table.mean(0), "bos": table[frozen.tokenizer.bos_token_id], "other": other}[row["null"]]
        embeds = torch.cat([mem[None], table[list(ids)]])[None]
        with torch.no_grad():
            logs = frozen.model(inputs_embeds=embeds).logits[0].log_softmax(-1)
        expected = -sum(logs[at, ids[at]].item() for at in range(1, length)) / math.log(2)
        assert row["null_bits"] == pytest.approx(expected, rel=1e-4)
    bits = {null: part["null_bits"].sum() for (null,), part in found.filter(length=5).group_by("null")}
    assert bits["shared"] < 1.2 * min(bits["mean"], bits["bos"])  # it began at both, but is of other texts
    counts = found.group_by("null").len().sort("null").rows()
    assert counts == [("bos", 6), ("mean", 6), ("other", 6), ("shared", 6)]
    facts = found.filter(null="shared").select("n_train", "n_held_out", "fit_length").unique().rows()
    assert facts == [(8, 2, 5)]


def test_nulls_that_are_there_are_not_measured_again(measured, monkeypatch):
    rows, cells, found, folder = measured
    monkeypatch.setattr(kinds, "fit", None)
    for missing in ("measure", "skip"):
        again = baselines.nulls(rows, cells, folder, n_other=10, missing=missing, travelling=False)
        assert again.sort(pl.all()).equals(found.sort(pl.all()))
    assert baselines.nulls(rows, cells, folder / "none", missing="skip", travelling=False).is_empty()
    with pytest.raises(sweep.MissingCells, match="6 of 6 texts have no null"):
        baselines.nulls(rows, cells, folder / "none", missing="refuse", travelling=False)
    with pytest.raises(ValueError, match="missing is 'mesure'; choose one of measure, skip, refuse"):
        baselines.nulls(rows, cells, folder, n_other=10, missing="mesure")
    monkeypatch.setenv("CAPACITY_MEASURED", str(folder / "rows"))
    assert baselines.nulls(rows, cells, folder / "none", n_other=10, missing="refuse").height == found.height
    store.write(folder / "other", pl.DataFrame({"x": [1]}))
    with pytest.raises(ValueError, match=r"has the columns \['x'\], such a table has"):
        baselines.load([folder / "other"])


@pytest.mark.parametrize("changes", [{"n_other": 15}, {"text_seed": 1}, {"length": 7}, {"n_starts": 4}])
def test_nulls_of_another_fit_are_not_taken_for_these(measured, changes):
    """Of other texts, or as many of another length, of another sample or fewer starts, a shared vector is another."""
    rows, cells, _, folder = measured
    if "length" in changes:
        cells = [*cells, dataclasses.replace(cells[0], key="x", text=dataclasses.replace(cells[0].text, ids=(1,) * 7))]
    if "text_seed" in changes:
        rows = rows.with_columns(text_seed=pl.lit(1, pl.Int64))
    more = {"n_other": 10, "travelling": False} | {name: n for name, n in changes.items() if name.startswith("n_")}
    with pytest.raises(sweep.MissingCells, match="6 of 6 texts have no null"):
        baselines.nulls(rows, cells, folder, missing="refuse", **more)


def test_of_two_nulls_that_of_more_starts_counts(measured, tmp_path):
    """A table of before starts were counted is of one, and serves who asks for no more."""
    rows, cells, found, _ = measured
    of_shared = pl.col("null") == "shared"
    old = found.drop("n_starts").with_columns(pl.when(of_shared).then(999.0).otherwise("null_bits").alias("null_bits"))
    store.write(tmp_path / "shared", old)
    same = {"n_other": 10, "travelling": False, "missing": "refuse"}
    again = baselines.nulls(rows, cells, tmp_path, n_starts=1, **same)
    assert again.filter(of_shared)["null_bits"].unique().to_list() == [999.0]
    with pytest.raises(sweep.MissingCells):
        baselines.nulls(rows, cells, tmp_path, **same)
    store.write(tmp_path / "shared", found)
    for n_starts in (1, 3):
        again = baselines.nulls(rows, cells, tmp_path, n_starts=n_starts, **same)
        assert again.sort(pl.all()).equals(found.sort(pl.all()))


def test_rows_without_their_model_have_the_nulls_that_were_kept(measured):
    rows, _, found, folder = measured
    again = baselines.nulls(rows, [], folder, n_other=10, travelling=False)
    assert again.sort(pl.all()).equals(found.sort(pl.all()))
    assert baselines.nulls(rows, [], folder / "none", n_other=10, travelling=False).is_empty()


def test_a_damaged_table_of_nulls_is_left_out_and_said(measured, tmp_path):
    _, _, _, folder = measured
    (path,) = (folder / "shared").glob("*.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / path.name).write_bytes(data)
    with pytest.warns(store.StoreWarning, match="is damaged"):
        assert baselines.load([tmp_path]).is_empty()


def test_gains_beside_a_null_need_its_bits(measured):
    rows, _, found, _ = measured
    by = ["model", "length"]
    specific = gains.text_specific_gain(rows, found, by=by)
    both = rows.join(found.filter(null="shared"), on="text_digest")
    for length in (3, 5):
        part = both.filter(length=length)
        expected = (part["null_bits"] - part["bits_with_min"]).mean()
        assert specific.filter(length=length)["value"].item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="no row of 6 has bits after the null 'shared'"):
        gains.text_specific_gain(rows, found.clear())


def test_what_vectors_save_part_by_part(measured):
    rows, _, found, _ = measured
    by = ["model", "length"]
    every = gains.by_kind(rows, found, by=by)
    kinds = {
        "published gain": gains.information_gain(rows, by=by, least=True),
        "text-specific gain": gains.text_specific_gain(rows, found, by=by),
    }
    for kind, table in kinds.items():
        assert every.filter(kind=kind).drop("kind").equals(table)
    value = every.pivot("kind", index=by, values="value")
    assert (
        value.select(pl.col("shared vector's") + pl.col("text-specific gain") - pl.col("published gain"))
        .to_series()
        .abs()
        .max()
        < 1e-9
    )
    assert "certified" not in value.columns  # whose bits are not known
    known = rows.with_columns(
        source_bits_low=pl.lit(20.0), source_bits_high=pl.lit(20.0), source_first_bits=pl.lit(9.0)
    )
    assert gains.by_kind(known, found, by=by).filter(kind="certified").height == value.height
    assert gains.by_kind(gains.beside(rows, found), found, by=by).equals(every)


def test_parts_of_a_sample_have_one_shared_vector(measured, tmp_path):
    """Measured in parts a kind had two of them, one for each part's texts; whole, it is fitted once."""
    rows, cells, found, _ = measured
    same = {"n_other": 10, "travelling": False, "n_starts": 1}
    for part in (rows.filter(pl.col("text_index") < 2), rows.filter(pl.col("text_index") == 2)):
        baselines.nulls(part, cells, tmp_path, **same)
    of_shared = pl.col("null") == "shared"
    assert baselines.load([tmp_path / "shared"]).filter(of_shared)["vector"].n_unique() == 2
    kept = baselines.nulls(rows, cells, tmp_path, missing="skip", **same).filter(of_shared)
    assert (kept["vector"].n_unique(), kept["text_id"].n_unique()) == (1, 2)  # that of most texts
    with pytest.raises(sweep.MissingCells, match="2 of 6 texts have no null"):
        baselines.nulls(rows, cells, tmp_path, missing="refuse", **same)
    whole = baselines.nulls(rows, cells, tmp_path, **same).filter(of_shared)
    assert (whole["vector"].n_unique(), whole.height) == (1, 6)
    assert found.filter(of_shared)["vector"].null_count() == 0


def test_another_texts_vector_is_of_the_same_protocol(measured):
    """How a text's own vector was fitted decides what it does for another; what is fitted to others it leaves alone."""
    rows, cells, found, folder = measured
    again = rows.with_columns(seed=pl.lit(1, pl.Int64))
    same = {"n_other": 10, "travelling": False}
    kept = baselines.nulls(again, cells, folder, missing="skip", **same)
    assert sorted(kept["null"].unique()) == ["bos", "mean", "shared"]
    with pytest.raises(sweep.MissingCells, match="6 of 6 texts have no null"):
        baselines.nulls(again, cells, folder, missing="refuse", **same)
    assert {*found.filter(null="other").select("scored_from", "seed").rows()} == {(1, 0)}
    old = found.drop("vector", "scored_from", "seed")  # of before these were recorded: of the first token given, seed 0
    store.write(folder / "old" / "shared", old)
    assert baselines.nulls(rows, cells, folder / "old", missing="refuse", **same).height == found.height


def test_no_vector_is_a_null_and_the_best_is_chosen_by_its_mean(measured):
    rows, _, found, _ = measured
    by = ["model", "length"]
    saved = gains.saved_by(rows, found, by=by)
    assert saved.filter(null="none")["value"].to_list() == [0.0, 0.0]
    assert gains.text_specific_gain(rows, found, by=by, null="none").equals(
        gains.information_gain(rows, by=by, least=True)
    )
    best = gains.beside(rows, found, null="best")
    assert best.height == 6
    for length in (3, 5):
        of_length = saved.filter(length=length).sort("value")
        assert best.filter(length=length)["null"].unique().to_list() == [of_length["null"][-1]]
        left = (best.filter(length=length).select(pl.col("bits_without") - pl.col("null_bits"))).to_series().mean()
        assert left == pytest.approx(of_length["value"][-1])
    foreign = found.filter(null="bos").with_columns(revision=pl.lit("another model's"), null=pl.lit("pad"))
    both = pl.concat([found, foreign])  # a null that only another model has
    assert gains.saved_by(rows, both, by=by).equals(saved)
    assert gains.beside(rows, both, null="best").equals(best)
    with pytest.raises(metrics.NothingFound):
        gains.saved_by(rows, foreign, by=by)
    worse = found.with_columns(pl.col("null_bits") + 1e6)
    assert gains.beside(rows, worse, null="best")["null"].unique().to_list() == ["none"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"train": torch.zeros(0, 5, dtype=torch.long)}, "0 texts to fit and 2 to stop the fit"),
        ({"held_out": torch.zeros(0, 5, dtype=torch.long)}, "2 texts to fit and 0 to stop the fit"),
        ({"also": [torch.tensor([[math.nan]])]}, r"a start of shape \(1, 1\); give finite ones, \(1, 1\)"),
        ({"also": [torch.zeros(2, 1)]}, r"a start of shape \(2, 1\); give finite ones, \(1, 1\)"),
    ],
)
def test_a_fit_to_nothing_or_from_nothing_is_refused(arguments, says):
    texts = torch.tensor([[3, 0, 1, 2, 0], [3, 1, 1, 2, 0]])
    with pytest.raises(ValueError, match=says):
        baselines.fit(TooSure(), **{"train": texts, "held_out": texts} | arguments)


def test_other_texts_are_counted_in_whole_numbers(measured):
    rows, cells, _, folder = measured
    for n_other in ("10", 9, 10.5):
        with pytest.raises(ValueError, match="n_other is"):
            baselines.nulls(rows, cells, folder, n_other=n_other)


def test_a_null_of_whole_texts_is_none_of_their_beginnings(measured):
    rows, cells, found, folder = measured
    searched = rows.with_columns(search=pl.lit("grow"))
    for call in (gains.beside, gains.by_kind, gains.text_specific_gain):
        with pytest.raises(ValueError, match="rows of a search are of parts"):
            call(searched, found)
    with pytest.raises(ValueError, match="rows of a search are of parts"):
        baselines.nulls(searched, cells, folder)
    part = rows.with_columns(length=pl.lit(2, pl.Int32)).drop("search")
    with pytest.raises(ValueError, match="no row of 6 has bits after the null"):
        gains.beside(part, found)


def test_the_best_null_is_one_that_all_texts_have(measured):
    rows, _, found, _ = measured
    same = found.filter(null="shared", length=5).with_columns(null_bits=pl.Series([10.0, 20.0, 30.0]))
    one = same[:1].with_columns(null=pl.lit("other"), null_bits=pl.lit(12.0))  # the worse of the text that has it
    of = rows.filter(length=5).with_columns(bits_without=pl.lit(100.0))
    best = gains.beside(of, pl.concat([same, one]), null="best")
    assert {*best.select("null", "null_bits").rows()} == {("shared", 10.0), ("shared", 20.0), ("shared", 30.0)}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda rows, found: gains.beside(rows, found, null="bso"),
            "null is 'bso'; there are bos, mean, other, shared,",
        ),
        (lambda rows, found: gains.beside(rows.with_columns(pl.col("source").cast(pl.Categorical)), found), "cast"),
        (lambda rows, found: gains.beside(rows.with_columns(pl.col("n_mem").cast(pl.String)), found), "other kinds"),
        (lambda rows, found: gains.by_kind(rows, found, by=["model", "kind"]), "by names kind|no column kind"),
        (lambda rows, found: gains.saved_by(rows, found, by=["model", "null"]), "by names null|no column null"),
        (lambda rows, found: baselines.nulls(rows.drop("mem"), []), "the frame has no column mem"),
        (lambda rows, found: baselines.nulls(pl.DataFrame(), []), "the frame has no column revision"),
    ],
)
def test_frames_that_nulls_cannot_be_beside_are_refused_in_a_sentence(measured, call, says):
    rows, _, found, _ = measured
    with pytest.raises(ValueError, match=says):
        call(rows.with_columns(kind=pl.lit("a"), null=pl.lit("a")) if "by names" in says else rows, found)
