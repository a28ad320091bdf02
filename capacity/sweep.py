"""A grid of experiments over a store: what is there is loaded, what is missing is measured."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from capacity import experiment, models, resources, store, texts
from capacity.experiment import Cell, Experiment

ENGINES = ("none", "rest", "local")


class MissingCells(LookupError):
    """Cells that are in no store while the engine is `none`."""


def measured() -> Path:
    """Return the folder of rows that travel with the project: measured before, with their provenance."""
    return resources.data() / "measured" / "rows"


def grid(*, n_texts: int = 8, **settings: Any) -> list[Experiment]:
    """Return the product of all settings, each a value or a list of values of a field of Experiment.

    n_texts: texts of each source, the first of its seeded sample.

    Raises ValueError for an unknown field or a setting that is not allowed.

    >>> [e.length for e in grid(model="llama-64", length=[8, 16], n_texts=1)]
    [8, 16]
    """
    known = {field.name for field in fields(Experiment)} - {"text_index"}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"unknown settings {unknown}; known are n_texts, {', '.join(sorted(known))}")
    if n_texts < 1:
        raise ValueError(f"n_texts is {n_texts}; at least 1 is needed")
    lists = [value if isinstance(value, list | tuple) else [value] for value in settings.values()]
    found = [
        Experiment(**dict(zip(settings, values, strict=True)), text_index=index)
        for values in product(*lists)
        for index in range(n_texts)
    ]
    for one in dict.fromkeys(found):
        one.check()
    return list(dict.fromkeys(found))


def cells(experiments: Iterable[Experiment]) -> list[Cell]:
    """Return the experiments with their texts and keys, in the same order; no weights are loaded.

    Raises ValueError (ModelError, TextError) for an unknown model or source, or texts too short or too few.
    """
    experiments = list(experiments)
    groups: dict[tuple, list[Experiment]] = defaultdict(list)
    for one in experiments:
        groups[one.model, one.source, one.length, one.text_seed, one.bos].append(one)
    found: dict[Experiment, Cell] = {}
    known: dict[str, tuple] = {}
    for (name, source, length, seed, bos), members in groups.items():
        if name not in known:
            folder = models.locate(name)
            config, tokenizer = models.describe(name, folder)
            context = models.context_of(config)
            known[name] = tokenizer, context, models.digest(folder), models.tokenizer_digest(tokenizer)
        tokenizer, context, revision, digest = known[name]
        models.check_length(
            length, max(one.n_mem for one in members), context=context, name=name, n_before=int(bos == "before_mem")
        )
        n_texts = 1 + max(one.text_index for one in members)
        lead = (models.bos_id(tokenizer, name=name),) if bos == "after_mem" else ()  # t1, one of the length
        sample = texts.sample(source, tokenizer, n_texts=n_texts, length=length - len(lead), seed=seed)
        for one in members:
            text = sample[one.text_index]
            text = replace(text, ids=(*lead, *text.ids))
            key = one.key(text, revision=revision, tokenizer_digest=digest)
            found[one] = Cell(one, text, key)
    return [found[one] for one in experiments]


def there(folder: Path | str | None = None, *, engine: str = "local") -> set[str]:
    """Return the keys of the cells that `run` would not measure, whatever is asked for.

    Raises ValueError for an unknown engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known are {', '.join(ENGINES)}")
    places = [folder or store.default_path(), *([] if engine == "local" else [measured()])]
    return set(store.read(places, ["key"])["key"])


def run(
    experiments: Sequence[Experiment],
    folder: Path | str | None = None,
    *,
    engine: str = "local",
    compile: bool = False,
    progress: bool = True,
) -> pl.DataFrame:
    """Return the rows of all cells (columns: store.SCHEMA), in order of key and probe.

    Args:
        experiments: from `grid`.
        folder: of the store; None takes store.default_path().
        engine: `local` measures what the store misses, on this machine; `rest` what neither the store nor the rows
            that travel with the project have; `none` only loads, from both.
        compile: see engine.run; pays where a sweep runs for many minutes.
        progress: show cells done and an estimate of the time left, on standard error.

    Raises ValueError for an unknown engine or wrong settings, MissingCells if the engine is `none` and cells are
    missing. Whatever ends a run, finished cells are kept.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known are {', '.join(ENGINES)}")
    place = Path(folder) if folder is not None else store.default_path()
    wanted = cells(experiments)
    keys = list(dict.fromkeys(cell.key for cell in wanted))
    if engine == "none":
        rows = store.read([place, measured()], keys=keys)
        missing = set(keys) - set(rows["key"])
        if missing:
            first = next(cell.experiment for cell in wanted if cell.key in missing)
            raise MissingCells(
                f"{len(missing)} of {len(keys)} cells are neither in {place} nor among the measured rows, the first is "
                f"{first}; measure them with engine='local', or name another store"
            )
        return rows
    with store.Store(place) as kept:
        missing = set(kept.missing(keys))
        if engine == "rest":
            missing -= set(store.read([measured()], ["key"], keys=sorted(missing))["key"])
        todo = {cell.key: cell for cell in wanted if cell.key in missing}
        by_model: dict[tuple, list[Cell]] = defaultdict(list)
        for cell in todo.values():
            by_model[cell.experiment.loaded].append(cell)
        with tqdm(total=len(todo), unit="cell", disable=not (progress and todo), smoothing=0.1) as bar:
            for settings, members in by_model.items():
                bar.set_description(settings[0])
                frozen = models.load(settings[0], **dict(zip(experiment.LOADED, settings[1:], strict=True)))
                for rows in experiment.run(frozen, members, compile=compile):
                    kept.append(rows)
                    bar.update()
        kept.flush()
        return kept.read(keys=keys) if engine == "local" else store.read([place, measured()], keys=keys)
