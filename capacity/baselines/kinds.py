"""What a vector does that knows the kind of text alone: one fitted to other texts of a source, and free ones.

A vector that makes a model less sure of itself, or tells it what kind of text comes, saves bits of every text of that
kind. What is left of a gain beside such a vector is about the text (gains.text_specific_gain).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from capacity import metrics, provenance, store, texts
from capacity.baselines.shared import bits_after, fit
from capacity.files import whole_number
from capacity.models import Frozen, bos_id
from capacity.sweep import MISSING, Cell, MissingCells

NULLS = ("shared", "bos", "mean", "other")
SCHEMA = pl.Schema({
    "model": pl.String, "revision": pl.String, "bos": pl.String, "dtype": pl.String, "source": pl.String,
    "recipe": pl.String, "n_mem": pl.Int32, "length": pl.Int32, "text_id": pl.String, "text_digest": pl.String,
    "null": pl.String,  # of NULLS
    "null_bits": pl.Float64,  # of positions 2..N after the null's vectors
    "n_train": pl.Int32,  # texts the shared vectors were fitted to; null for the others, as the columns below
    "n_held_out": pl.Int32,  # texts that stopped the fit
    "fit_length": pl.Int32,  # tokens of each
    "epochs": pl.Int32,  # after which the vectors kept were best
    "text_seed": pl.Int64,  # of the sample that the texts fitted to are beside
    "versions": pl.String,  # of the libraries, JSON; null: not recorded
    "source_first_bits": pl.Float64,  # that the source spent on the first token; null: not known or not recorded
    "n_starts": pl.Int32,  # random vectors that the fit began at, bos and mean besides; null: one alone
    "vector": pl.String,  # digest of the shared vector; null: not recorded
    "scored_from": pl.Int32,  # of the fits whose vectors are `other`; null for the others, or not recorded: 1
    "seed": pl.Int64,  # likewise; null: 0
})  # fmt: skip
_KIND = ["revision", "bos", "dtype", "source", "recipe", "n_mem", "text_seed"]  # has one shared vector
_SAME = [*_KIND, "text_digest"]
_FITS = {"scored_from": 1, "seed": 0}  # what `other` hangs on besides, and what older tables are of
_LATER = ["source_first_bits", "n_starts", "vector", "scored_from", "seed"]  # columns that older tables lack


def nulls(
    rows: pl.DataFrame, cells: Sequence[Cell], folder: Path | str | None = None, *, missing: str = "measure",
    n_other: int = 80, n_starts: int = 3, travelling: bool = True, progress: bool = True,
) -> pl.DataFrame:  # fmt: skip
    """Return the bits of each text after vectors that know its kind alone: SCHEMA, a row a text, length and null.

    Shared vectors are fitted to texts of the longest length, every fifth id of the others stopping the fit; bos, the
    embedding of that token (where the tokenizer has one); mean, that of all tokens; other, the next text's own vector.
    What is measured is kept as a table in the folder `shared` of the store, or beside the rows that travel; what is
    there counts where it was fitted to as many texts of the same length, from as many starts or more. Of rows without
    a cell (their model is not on this machine) there is what was kept.

    Args:
        rows: of one recipe, at fixed lengths.
        cells: those that the rows were measured of, or that they are some of.
        folder: of the store; None takes store.default_path().
        missing: `measure` what is not there, `skip` it, or `refuse` to go on.
        n_other: other texts of a source, to fit and to stop, at least 10.
        n_starts: random vectors that the fit of a shared one begins at, besides the embeddings that cost no fit.
        travelling: take the tables that travel with the project for there, too.
        progress: show what is measured, on standard error.

    Raises ValueError as `fit` and for rows of a search, TextError as texts.others, MissingCells if `missing` is
    `refuse` and some are.
    """
    if missing not in MISSING:
        raise ValueError(f"missing is {str(missing)[:80]!r}; choose one of {', '.join(MISSING)}")
    whole_number("n_other", n_other, least=10)  # a fifth stops the fit
    metrics.check_columns(rows, *_SAME, "model", "length", "text_index", "key", "mem", "search", *_FITS, takes=())
    if rows.height and rows["search"].unique().to_list() != ["fixed"]:
        raise ValueError("nulls are scored on whole texts, and rows of a search are of parts; give fixed lengths")
    place, every = store.places("shared", folder, travelling=travelling)
    kept = load(every)
    by_key = {cell.key: cell for cell in cells}
    here = rows.with_columns(pl.col("text_seed").fill_null(0)).join(_longest(cells), on=_KIND, how="left")
    here = here.with_columns(pl.coalesce("fit_length", pl.col("length").max().over(_KIND)))
    here = here.cast({name: SCHEMA[name] for name in _FITS})
    here = here.sort("model", "source", "length", "text_index", "seed", "scored_from")
    here = here.unique(_SAME, keep="first", maintain_order=True)
    alike = pl.col("n_train") + pl.col("n_held_out") == n_other, pl.col("n_starts").fill_null(1) >= n_starts
    fitted = kept.filter(*alike).join(here.select(*_SAME, "fit_length"), on=[*_SAME, "fit_length"], how="semi")
    fitted = _of_one_vector(fitted)
    free = kept.filter(~pl.col("null").is_in(["shared", "other"])).join(fitted.select(_SAME), on=_SAME, how="semi")
    # Another text's own vector hangs on how that was fitted.
    of_others = kept.filter(null="other").with_columns(pl.col(name).fill_null(old) for name, old in _FITS.items())
    of_others = of_others.join(fitted.select(_SAME), on=_SAME, how="semi").join(here, on=[*_SAME, *_FITS], how="semi")
    parts = [fitted, free, of_others]
    group = [*_KIND, "length"]
    several = (pl.len().over(group) > 1) & pl.col("mem").is_not_null().all().over(group)
    without = here.filter(several).join(of_others.select(_SAME), on=_SAME, how="anti")
    todo = here.join(fitted.select(_SAME), on=_SAME, how="anti")
    todo = pl.concat([todo, without]).unique(_SAME, maintain_order=True)
    if todo.height and missing == "refuse":
        raise MissingCells(f"{todo.height} of {here.height} texts have no null; measure them with missing='measure'")
    todo = here.join(todo, on=_KIND, how="semi").filter(pl.col("key").is_in(list(by_key)))  # whole kinds, in one fit
    groups = list(todo.partition_by(_KIND, maintain_order=True)) if todo.height and missing == "measure" else []
    for part in tqdm(groups, desc="shared vectors", disable=not progress or not groups):
        table = pl.DataFrame(
            list(_measured([by_key[key] for key in part["key"]], part, n_other, n_starts)), SCHEMA, orient="row"
        )
        store.write(place, table)
        parts.append(table)
    return pl.concat(parts).unique([*_SAME, "null"], keep="last", maintain_order=True)


def _of_one_vector(fitted: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the vector of each kind that most texts were scored after, from most starts."""
    which = [*_KIND, "vector"]
    texts, starts = pl.col("text_digest").n_unique().alias("texts"), pl.col("n_starts").max().alias("starts")
    vectors = fitted.group_by(which, maintain_order=True).agg(texts, starts)
    best = vectors.sort("texts", "starts", nulls_last=False, maintain_order=True)
    best = best.unique(_KIND, keep="last", maintain_order=True)
    rows = fitted.join(best, on=which, how="semi", nulls_equal=True)
    return rows.sort("n_starts", nulls_last=False, maintain_order=True)


def _longest(cells: Sequence[Cell]) -> pl.DataFrame:
    """Return the most tokens of a text, by kind."""
    schema = {name: SCHEMA[name] for name in [*_KIND, "fit_length"]}
    every = [
        (
            cell.revision, experiment.bos, experiment.dtype, experiment.source, experiment.recipe, experiment.n_mem,
            experiment.text_seed, len(cell.text.ids),
        )
        for cell in cells
        for experiment in [cell.experiment]
    ]  # fmt: skip
    return pl.DataFrame(every, schema, orient="row").group_by(_KIND).agg(pl.col("fit_length").max())


def load(folders: Sequence[Path]) -> pl.DataFrame:
    """Return the tables of nulls in these folders as one, in SCHEMA; see store.read_tables."""
    return store.read_tables(folders, SCHEMA, later=_LATER)


def _measured(cells: Sequence[Cell], rows: pl.DataFrame, n_other: int, n_starts: int) -> Iterator[tuple]:
    experiment, longest = cells[0].experiment, rows["fit_length"].item(0)
    frozen = experiment.load()
    lead = cells[0].text.ids[:1] if experiment.bos == "after_mem" else ()
    drawn = texts.others(
        experiment.source, frozen.tokenizer, beside={cell.text.id for cell in cells}, n_texts=n_other,
        length=longest - len(lead), seed=experiment.text_seed,
    )  # fmt: skip
    ids = list(dict.fromkeys(text.id for text in drawn))
    if len(ids) < 2:
        raise texts.TextError(f"{experiment.source} has {len(ids)} other text, two are needed: one stops the fit")
    stop = set(ids[4::5] or ids[-1:])  # of few texts the last
    train, held_out = (
        torch.tensor([(*lead, *text.ids) for text in drawn if (text.id in stop) is wanted]) for wanted in (False, True)
    )
    free = _free(frozen, experiment.n_mem)
    shared = fit(
        frozen, train, held_out, recipe=experiment.recipe, n_mem=experiment.n_mem, n_starts=n_starts,
        also=list(free.values()),
    )  # fmt: skip
    facts = {"shared": (len(train), len(held_out), longest, shared.epochs)}
    constant = free | {"shared": shared.mem}
    vector = hashlib.sha256(shared.mem.cpu().numpy().tobytes()).hexdigest()[:16]
    own, versions = dict(zip(rows["key"], rows["mem"], strict=True)), json.dumps(provenance.versions())
    first = {cell.key: cell.text.ids[len(lead) : 1] for cell in cells}  # none of a BOS that is the text's own
    spent = {
        key: texts.source_bits(experiment.source, frozen.tokenizer, ids, seed=experiment.text_seed)
        for key, ids in first.items()
    }
    for length, group in groupby(sorted(cells, key=lambda cell: len(cell.text.ids)), lambda cell: len(cell.text.ids)):
        some = list(group)
        ids = torch.tensor([cell.text.ids for cell in some])
        bits_by_name = {name: bits_after(frozen, mem, ids) for name, mem in constant.items()}
        if len(some) > 1 and all(own[cell.key] is not None for cell in some):
            vectors = torch.tensor([own[cell.key].to_list() for cell in some]).view(len(some), experiment.n_mem, -1)
            bits_by_name["other"] = bits_after(frozen, vectors.roll(-1, 0), ids)
        for name, bits in bits_by_name.items():
            for cell, cell_bits in zip(some, bits.tolist(), strict=True):
                yield (
                    frozen.name, frozen.revision, frozen.bos, frozen.dtype, experiment.source, experiment.recipe,
                    experiment.n_mem, length, cell.text.id, cell.text.digest, name, cell_bits,
                    *facts.get(name, (None,) * 4), experiment.text_seed, versions, spent[cell.key],
                    *((n_starts, vector) if name == "shared" else (None, None)),
                    *((experiment.scored_from, experiment.seed) if name == "other" else (None, None)),
                )  # fmt: skip


def _free(frozen: Frozen, n_mem: int) -> dict[str, Tensor]:
    """Return vectors that cost no fit, by name, each (n_mem, dim)."""
    every = frozen.embed(torch.arange(frozen.vocab_size)[None])[0].float()
    vectors = {"mean": every.mean(0)}
    if frozen.tokenizer.bos_token_id is not None:
        vectors["bos"] = every[bos_id(frozen.tokenizer, name=frozen.name)]
    return {name: vector.expand(n_mem, -1).cpu() for name, vector in vectors.items()}
