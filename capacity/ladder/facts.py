"""What is kept of trained models where their weights are not: facts and training curves, in CSV files."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from capacity import files, models, pretraining, sweep
from capacity.ladder.plan import Ladder

# What is kept of each trained model, beside its rows; weights don't travel.
FACTS: dict[str, Any] = {
    "model": pl.String,  # its name, models.TRAINED before that of its folder
    "revision": pl.String,  # of its files, as in a row; null: not recorded
    "width": pl.Int64,
    "depth": pl.Int64,
    "heads": pl.Int64,
    "parameters": pl.Int64,
    "seed": pl.Int64,  # of weights and order
    "rate": pl.Float64,  # factor of the learning rate
    "tokens": pl.Int64,  # seen
    "planned": pl.Int64,  # tokens of the whole training; a checkpoint has seen fewer
    "held_out": pl.Boolean,  # left out of the laws, to be foretold
    "held_out_nats": pl.Float64,  # a token, of books never trained on
}
_OPTIONAL = ("revision", "heads", "held_out_nats")  # of which no trend or law is
CURVES: dict[str, Any] = {"model": pl.String, "step": pl.Int64, "tokens": pl.Int64, "loss_nats": pl.Float64}


def facts(ladder: Ladder, out: Path | None = None) -> pl.DataFrame:
    """Return FACTS of the ladder's models in a folder, checkpoints too; not those of another ladder."""
    out = out or models.trained()
    rows = []
    for training in ladder.trainings():
        for name in (*training.checkpoints, training.name):
            path = out / name / "training.json"
            if path.is_file():
                record = json.loads(path.read_text(encoding="utf-8"))
                planned = pretraining.Schedule(**record["schedule"])
                rows.append({
                    "model": models.TRAINED + name, "revision": models.digest(path.parent), "seed": training.seed,
                    "width": record["width"], "depth": record["layers"], "heads": record["heads"],
                    "parameters": record["parameters"], "rate": training.rung.rate, "tokens": record["tokens_seen"],
                    "planned": planned.steps * planned.batch, "held_out": training.rung.held_out,
                    "held_out_nats": record["held_out_nats_per_token"],
                })  # fmt: skip
    return pl.DataFrame(rows, schema=FACTS)


def curves(ladder: Ladder, out: Path | None = None, *, points: int = 100) -> pl.DataFrame:
    """Return the training curves of the ladder's models in a folder: model, step, tokens, loss_nats, rounded.

    Losses are means over runs of steps, each with its last step's number, so that about `points` are left of a model.
    """
    out = out or models.trained()
    paths = {training.name: out / training.name / pretraining.CURVE for training in ladder.trainings()}
    parts = []
    for name, path in paths.items():
        if path.is_file():
            own = pl.read_csv(path)
            run = (pl.int_range(pl.len()) * points // pl.len()).alias("run")
            means = own.group_by(run, maintain_order=True).agg(
                pl.col("step", "tokens").last(), pl.col("loss_nats").mean().round(4)
            )
            parts.append(means.select(pl.lit(models.TRAINED + name).alias("model"), pl.exclude("run")))
    return pl.concat(parts) if parts else pl.DataFrame(schema=CURVES)


def write(ladder: Ladder, path: Path | str, out: Path | None = None) -> None:
    """Write the facts of the ladder's models in a folder to a CSV file, and their curves beside it."""
    place = Path(path)
    files.write(place, facts(ladder, out).write_csv().encode())
    files.write(curve_path(place), curves(ladder, out).write_csv().encode())


def table(path: Path | str | None = None) -> pl.DataFrame:
    """Return the facts in a CSV file; None: those that travel with the rows, empty where none do.

    Raises ValueError for a column that is missing, a model that is listed twice, or a size that is not above 0.
    """
    place = sweep.measured().parent / "ladder.csv" if path is None else Path(path)
    if path is None and not place.is_file():
        return pl.DataFrame(schema=FACTS)
    rows = pl.read_csv(place, schema_overrides=FACTS)
    if lacking := [name for name in FACTS if name not in rows.columns and name not in _OPTIONAL]:
        raise ValueError(f"{place} has no column {', '.join(lacking)}; write it by ladder.write, or add them")
    if rows["model"].is_duplicated().any():
        raise ValueError(f"{place} lists {rows.filter(pl.col('model').is_duplicated())['model'][0]} twice; leave one")
    sizes = pl.col("width", "depth", "parameters", "rate", "tokens")
    if (wrong := rows.filter(pl.any_horizontal((sizes <= 0) | sizes.is_null()))).height:
        raise ValueError(
            f"{place}: {wrong['model'][0]} has a width, depth, number of parameters, rate or tokens not above 0"
        )
    return pl.concat([pl.DataFrame(schema=FACTS), rows], how="diagonal").select(*FACTS)


def curve_table(path: Path | str | None = None) -> pl.DataFrame:
    """Return the training curves in the CSV file beside that of `table`, or where the rows are; empty where none is."""
    place = curve_path(sweep.measured().parent / "ladder.csv" if path is None else Path(path))
    return pl.read_csv(place, schema=CURVES) if place.is_file() else pl.DataFrame(schema=CURVES)


def curve_path(facts: Path) -> Path:
    """Return where the training curves lie whose models' facts are in a CSV file."""
    return facts.with_name(f"{facts.stem}_curves.csv")
