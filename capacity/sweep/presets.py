"""Published protocols by name: what the run scripts of a paper ran, as grids of experiments."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from capacity import extensions, resources, texts
from capacity.files import first_line
from capacity.models import bos_policy, context_of, describe, locate
from capacity.sweep.experiment import Experiment, grid

# What a run may set, with its type: of the fields of an experiment only the text's place follows from others.
SETTINGS: dict[str, Any] = {
    **{name: kind for name, kind in get_type_hints(Experiment).items() if name not in ("model", "text_index")},
    "n_texts": int,  # the first of the seeded sample
    "longest": int,  # tokens; instead of `length`: each text has a length of its own, texts.drawn_lengths
}
_ONE = ("n_texts", "longest")  # no lists
_EITHER = {"length": "longest", "longest": "length"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run script ran of one model."""

    model: str
    where: str  # the script, or what stands in for it
    settings: dict[str, Any] = field(default_factory=dict)  # of SETTINGS, over those of the preset's grid


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A protocol with its runs; its grid is what they share, and what any other model runs."""

    name: str  # PAPER/NAME
    title: str
    where: str
    grid: dict[str, Any]  # of SETTINGS
    runs: tuple[Run, ...] = ()


def names() -> list[str]:
    """Return the names of all presets, PAPER/NAME, sorted.

    >>> names()[0]
    'kuratov2025/fanfics'
    """
    return sorted([*_paths(), *extensions.own("presets", _paths())])


def _paths() -> dict[str, Path]:
    paths = resources.papers().glob("*/presets/*.toml")
    return {f"{path.parent.parent.name}/{path.stem}": path for path in paths}


def load(name: str) -> Preset:
    """Return the preset of a name; raises ValueError for an unknown one, and as `parse`.

    >>> load("kuratov2025/table1").grid["n_texts"]
    50
    """
    known = _paths()
    if name in known:
        return parse(known[name].read_text(encoding="utf-8"), name=name)
    own = extensions.own("presets", known)
    if name not in own:
        raise ValueError(f"unknown preset {name[:120]!r}; known are {', '.join(names())}")
    return preset_of(own[name], name=name)


def parse(text: str, *, name: str) -> Preset:
    """Return the preset that a TOML text describes: `title`, `where`, [grid], and [[runs]] with `model` and `where`.

    Raises ValueError for text that is no TOML, a key that is missing or unknown, or a value of another type.
    """
    try:
        described = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"preset {name}: {first_line(error)}; write it in TOML") from error
    return preset_of(described, name=name)


def read(path: Path) -> Preset:
    """Return the grid in a TOML file: settings at the top, `model` among them, or a preset as `parse` takes it.

    Raises ValueError for a file that can't be read, and as `parse`.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin with a byte-order mark
        described = tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}); give a TOML file of settings") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {first_line(error)}; write it in TOML") from error
    if "grid" in described:
        return preset_of(described, name=path.stem)
    models = described.pop("model", [])
    models = [models] if isinstance(models, str) else models
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise ValueError(f"{path}: model is {models!r}; a name or a list of names is needed")
    check(described, place=str(path))
    runs = [{"model": model, "where": str(path)} for model in models]
    return preset_of(
        {"title": "a grid of your own", "where": str(path), "grid": described, "runs": runs}, name=path.stem
    )


def preset_of(described: dict[str, Any], *, name: str) -> Preset:
    """Return the preset that a dict describes as a TOML file does; raises ValueError as `parse`."""
    if not isinstance(described, dict):
        raise ValueError(f"preset {name} is {described!r}; give a dict with title, where and grid")
    table: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in described.items()}
    runs = table.pop("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError(f"preset {name}: runs is no list of tables; begin each with [[runs]]")
    _keys(table, {"title": str, "where": str, "grid": dict}, place=f"preset {name}")
    check(table["grid"], place=f"preset {name}, grid")
    made = []
    for number, run in enumerate(map(dict, runs), start=1):
        place = f"preset {name}, run {number}"
        settings = {key: run.pop(key) for key in list(run) if key in SETTINGS}
        _keys(run, {"model": str, "where": str}, place=place, also=SETTINGS)
        check(settings, place=place)
        made.append(Run(**run, settings=settings))
    return Preset(name=name, **table, runs=tuple(made))


def _keys(table: dict[str, Any], needed: dict[str, type], *, place: str, also: dict[str, Any] | None = None) -> None:
    if unknown := sorted(table.keys() - needed.keys()):
        raise ValueError(f"{place}: unknown keys {unknown}; known are {', '.join([*needed, *(also or ())])}")
    for key, kind in needed.items():
        if not isinstance(table.get(key), kind):
            raise ValueError(f"{place}: {key} is {table.get(key)!r}; a {kind.__name__} is needed")


def check(settings: dict[str, Any], *, place: str) -> None:
    """Raise ValueError for a setting that is unknown or of another type, or for both `length` and `longest`."""
    for name, given in settings.items():
        if name not in SETTINGS:
            hint = "; a model is named by itself (--model)" if name == "model" else ""
            raise ValueError(f"{place}: unknown setting {name!r}; known are {', '.join(sorted(SETTINGS))}{hint}")
        kind = SETTINGS[name]
        values = given if isinstance(given, list) and name not in _ONE else [given]
        for value in values:
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                allowed = getattr(kind, "__name__", str(kind)) + ("" if name in _ONE else ", or a list of such")
                raise ValueError(f"{place}: {name} is {given!r}; {allowed} is needed")
        if not values:
            raise ValueError(f"{place}: {name} is an empty list; give at least one value")
    if _EITHER.keys() <= settings.keys():
        raise ValueError(f"{place}: length and longest are given; give one of them")


def experiments(preset: Preset, *, models: Sequence[str] = (), given: dict[str, Any] | None = None) -> list[Experiment]:
    """Return the experiments of a preset, each once, in its order.

    Args:
        preset: from `load`.
        models: names; one that has runs (whatever its @REVISION) gets those, any other the preset's grid. None given:
            all runs.
        given: settings that take the place of the preset's.

    Raises ValueError for a setting as `check`, a preset without runs and no model, and as sweep.grid.
    """
    given = given or {}
    check(given, place="given")
    chosen = [
        replace(run, model=name)
        for name in models
        for run in [run for run in preset.runs if run.model == name.partition("@")[0]]
        or [Run(model=name, where=preset.where)]
    ]
    if not (chosen := chosen or list(preset.runs)):
        raise ValueError(f'{preset.name} names no model; give one, by model = "NAME" in a grid, or --model')
    preset_experiments: list[Experiment] = []
    for run in chosen:
        settings = _over(_over(preset.grid, run.settings), given)
        longest = settings.pop("longest", None)
        if longest is None:
            preset_experiments += grid(model=run.model, **settings)
            continue
        for experiment in grid(model=run.model, length=longest, **settings):
            # Of more texts the lengths would be the same.
            drawn = texts.drawn_lengths(experiment.text_index + 1, longest=longest, seed=experiment.text_seed)
            preset_experiments.append(replace(experiment, length=drawn[-1]))
    return list(dict.fromkeys(preset_experiments))


def _over(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if _EITHER.get(name) not in changes} | changes


def within_context(wanted: Sequence[Experiment]) -> tuple[list[Experiment], list[Experiment]]:
    """Return the experiments that their models' contexts have room for, and those that are left out.

    A search tries no longer texts than there is room for; a length that is fixed is left out past it, and where it is
    below the number of vectors, as in the paper's train.py. No weights are loaded.

    Raises ModelError for a model that can't be had, ValueError where nothing is left.
    """
    contexts: dict[str, tuple[int | None, str]] = {}
    kept, left_out = [], []
    for experiment in wanted:
        if experiment.model not in contexts:
            config, tokenizer = describe(experiment.model, folder := locate(experiment.model))
            contexts[experiment.model] = context_of(config), bos_policy(tokenizer, folder)
        context, policy = contexts[experiment.model]
        experiment = replace(experiment, bos=policy) if experiment.bos == "auto" else experiment
        room = experiment.length if context is None else context - experiment.n_mem - (experiment.bos == "before_mem")
        fitting = (
            experiment
            if experiment.search == "fixed"
            else replace(experiment, length=max(1, min(experiment.length, room)))
        )
        fits = max(experiment.n_mem, 1 + experiment.scored_from) <= fitting.length <= room
        (kept if fits else left_out).append(fitting)
    if not kept:
        raise ValueError(f"no text of the {len(left_out)} cells has room in its model's context; give shorter lengths")
    return list(dict.fromkeys(kept)), left_out
