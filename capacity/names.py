"""Which names can be given: of models, recipes, losses, sources of texts, presets and notebooks."""

from collections.abc import Callable

from capacity import extensions, fitting, models, report, texts
from capacity.sweep import presets

__all__ = ["KINDS", "known"]
__dir__ = __all__.copy  # what completion shows


def known(kind: str) -> dict[str, str]:
    """Return what the names of a kind of KINDS mean, in a line each; ValueError for another kind."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} can't be listed; {', '.join(KINDS)} can")
    return KINDS[kind]()


def _models() -> dict[str, str]:
    meanings = dict.fromkeys(models.EMBEDDED, "embedded")
    for name, packaged in models.PACKAGED.items():
        state = "packaged, on this machine" if models.is_cached(name) else "packaged, not fetched yet"
        meanings[name] = f"{state}: {packaged.offer()}"
    return meanings | {
        f"{models.TRAINED}NAME": "trained here, by ladder.train (`make train`)",
        "OWNER/NAME": "safetensors on the hub; OWNER/NAME@REVISION pins a commit, branch or tag",
        "hub:OWNER/NAME/FILE.gguf": "a GGUF file on the hub",
        "path/to/folder": "written by save_pretrained",
        "path/to/model.gguf": "a GGUF file; these need the extra `gguf`",
    }


def _recipes() -> dict[str, str]:
    own = extensions.own("recipes", fitting.RECIPES)
    every = {name: str(fitting.recipe(name)).removeprefix("Recipe") for name in (*fitting.RECIPES, *own)}
    return every | {"NAME:STEPS": "one of these with another number of steps a length"}


def _losses() -> dict[str, str]:
    return {name: _first_line(loss) for name, loss in (fitting.LOSSES | extensions.own("losses", ())).items()}


def _sources() -> dict[str, str]:
    ours = {name: _first_line(source) for name, source in texts.SOURCES.items()}
    own = {name: _first_line(source) for name, source in extensions.own("sources", ours).items()}
    return ours | own | texts.FORMS


def _presets() -> dict[str, str]:
    return {name: presets.load(name).title for name in presets.names()}


def _first_line(function: Callable) -> str:
    line = (function.__doc__ or "of your own").partition("\n")[0]
    return line.removeprefix("Return ").removeprefix("the source of ").rstrip(".")


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "models": _models, "recipes": _recipes, "losses": _losses, "sources": _sources, "presets": _presets,
    "notebooks": report.titles,
}  # fmt: skip
