"""A notebook and parameters in, an executed notebook and an offline HTML page out."""

import difflib
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jupytext
from tqdm import tqdm

from capacity import files, harmless, resources
from capacity.report import page, parameters
from capacity.report.parameters import check, declared, share
from capacity.report.running import NotebookError, execute, write

__all__ = ["NotebookError", "Result", "Summary", "build", "build_grid", "execute", "titles"]
__dir__ = __all__.copy  # what completion shows

_TITLE = "How much fits into one vector?"
_PICTURES = ("00_one_vector", "01_decoding_capacity")  # the first chart of the first that was run stands on the index
_HEADLINES = ("12_real_models", "01_decoding_capacity")  # the first of these that has one gives the index its headline


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one notebook ended."""

    name: str
    status: str  # complete, failed
    reason: str  # "" if complete
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a build did; `failed` decides the exit code."""

    index: Path
    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """Return the notebooks that failed, in order."""
        return tuple(result for result in self.results if result.status == "failed")


def titles(folder: Path | None = None) -> dict[str, str]:
    """Return the title of each notebook by its name, in order."""
    sources = sorted((folder or resources.notebooks()).glob("[0-9]*.py"))
    return {path.stem: page.heading(harmless.plain(jupytext.read(path)))[0].striptags() for path in sources}


def build(
    names: Iterable[str] | None = None,
    *,
    out: Path = Path("build/report"),
    given: dict[str, Any] | None = None,
    folder: Path | None = None,
    timeout: int | None = None,
    progress: bool = True,
) -> Summary:
    """Return how each notebook ended, after writing its page, the index and `assets/` into `out`.

    `names` are stems of `folder`, by default all of the project's notebooks below 90, run one after another.
    Each gets those of the parameters in `given` that it has; ParameterError, before any runs, for one that
    none has. A notebook that fails has a page, too, and stops no other. `progress` goes to stderr.
    """
    folder = folder or resources.notebooks()
    sources = _selected(names, folder)
    shares = share(sources, given or {})
    files.clean(out)
    _write_script(out / "assets" / "vega.js")
    results: list[Result] = []
    write(out / "index.html", _index(folder, sources, out))
    hidden = None if progress else True  # None: the bar, with the time left, is for a terminal alone
    with tqdm(sources, unit="notebook", smoothing=0, file=sys.stderr, disable=hidden, leave=False) as bar:
        for source in bar:
            bar.set_description(source.stem)
            results.append(
                result := _make(source, shares[source.stem], out, timeout, _beside(source, sources, folder, out))
            )
            write(out / "index.html", _index(folder, sources, out))
            if progress:
                why = f": {result.reason}" if result.reason else ""
                line = f"{result.name}: {result.status} in {result.seconds:.1f} s{why}"
                bar.write(harmless.visible(line), file=sys.stderr)
    return Summary(index=out / "index.html", results=tuple(results))


def build_grid(
    names: Iterable[str],
    grid: Path,
    *,
    out: Path = Path("build/report"),
    given: dict[str, Any] | None = None,
    folder: Path | None = None,
) -> Summary:
    """Return how one notebook ended with each combination of the values in a TOML file, as `build` of several.

    The pages and their index go to `<out>/grid-<name>`, each page named by a digest of its parameters, so that others
    never take its place: a grid grows by further runs, its index keeps the pages of earlier ones, and says so.
    given: parameters of all. ValueError for two notebooks, and as parameters.combinations.
    """
    sources = _selected(names, folder or resources.notebooks())
    if len(sources) != 1:
        raise ValueError(f"{len(sources)} notebooks are given; a grid is of one")
    (source,) = sources
    combinations = [(given or {}) | combination for combination in parameters.combinations(source, grid)]
    for combination in combinations:
        check(source, combination)
    place = out / f"grid-{source.stem}"
    files.clean(place)
    _write_script(place / "assets" / "vega.js")
    results: list[Result] = []
    for combination in combinations:
        name = hashlib.sha256(json.dumps(combination, sort_keys=True).encode()).hexdigest()[:12]
        results.append(_make(source, combination, place, None, name=name))
        write(place / "index.html", _index_of_grid(source, place))
        told = ", ".join(f"{key}={value}" for key, value in combination.items())
        harmless.show(f"{name} ({told}): {results[-1].status} {results[-1].reason}".rstrip(), sys.stderr)
    if earlier := {path.stem for path in place.glob("*.ipynb")} - {result.name for result in results}:
        harmless.show(
            f"the index keeps {len(earlier)} pages of earlier runs; remove {place} to be rid of them", sys.stderr
        )
    return Summary(index=place / "index.html", results=tuple(results))


def _index_of_grid(source: Path, place: Path) -> str:
    """Return the index over all pages of a folder, those of earlier runs too, each by the parameters that differ."""
    pages = {path.stem: page.read(path) for path in sorted(place.glob("*.ipynb"))}
    values = {
        name: {parameter["name"]: parameter["value"] for parameter in notebook["metadata"]["capacity"]["parameters"]}
        for name, notebook in pages.items()
    }
    differ = [key for key in declared(source) if len({told.get(key) for told in values.values()}) > 1]
    entries = [
        replace(
            page.entry(name, notebook, link=f"{name}.html"), question="",
            title=", ".join(f"{key} = {values[name].get(key)}" for key in differ) or source.stem,
        )
        for name, notebook in pages.items()
    ]  # fmt: skip
    return page.index(source.stem, sorted(entries, key=lambda entry: str(entry.title)), None)


def _beside(source: Path, sources: list[Path], folder: Path, out: Path) -> tuple[str, str]:
    """Return the names of the notebooks before and after one, of those that have a page here or get one."""
    written = [path for path in folder.glob("[0-9]*.py") if (out / f"{path.stem}.html").exists()]
    names = sorted({path.stem for path in [*written, *sources]})
    place = names.index(source.stem)
    return names[place - 1] if place else "", names[place + 1] if place + 1 < len(names) else ""


def _make(
    source: Path,
    given: dict[str, Any],
    out: Path,
    timeout: int | None,
    beside: tuple[str, str] = ("", ""),
    name: str | None = None,
) -> Result:
    reason, started = "", time.monotonic()
    try:
        executed = execute(source, given, out=out, timeout=timeout, name=name)
    except NotebookError as error:
        executed, reason = error.executed, error.reason
    write(out / f"{executed.stem}.html", page.page(executed, before=beside[0], after=beside[1]))
    status = "failed" if reason else "complete"
    return Result(name=executed.stem, status=status, reason=reason, seconds=time.monotonic() - started)


def _selected(names: Iterable[str] | None, folder: Path) -> list[Path]:
    if names is None:
        return sorted(folder.glob("[0-8]*.py"))
    by_name = {path.stem: path for path in sorted(folder.glob("[0-9]*.py"))}
    names = [Path(name).stem if name.endswith(".py") else name for name in names]  # a path of one says it, too
    for name in names:
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"unknown notebook {name!r}; allowed are {', '.join(by_name)}{hint}")
    return [by_name[name] for name in sorted(set(names))]


def _index(folder: Path, sources: list[Path], out: Path) -> str:
    entries, picture, headlines = [], None, {}
    for source in sorted({*folder.glob("[0-8]*.py"), *sources}):
        executed = out / f"{source.stem}.ipynb"
        notebook = page.read(executed) if executed.exists() else harmless.plain(jupytext.read(source))
        entries.append(page.entry(source.stem, notebook, link=f"{source.stem}.html" if executed.exists() else ""))
        if source.stem in _PICTURES and picture is None:
            picture = page.first_chart(notebook)
        if source.stem in _HEADLINES and (end := page.verdict(notebook)):
            headlines[source.stem] = end.headline
    headline = next((headlines[name] for name in _HEADLINES if headlines.get(name)), "")
    return page.index(_TITLE, entries, picture, headline=headline)


def _write_script(path: Path) -> None:
    version = importlib.metadata.version("vl-convert-python")
    mark = f"// Vega, from vl-convert-python {version}\n"
    if not path.exists() or not path.read_text(encoding="utf-8").startswith(mark):
        write(path, mark + page.script())
