"""Where the data, papers and notebooks lie, in a checkout and in an installed wheel."""

from pathlib import Path

__all__ = ["data", "notebooks", "papers", "root"]
__dir__ = __all__.copy  # what completion shows

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Return the folder that holds `data/`, `papers/` and `notebooks/`.

    In a wheel they travel inside the package (`capacity/_shared`); in a checkout they stand beside it.
    """
    inside = _PACKAGE / "_shared"
    folder = inside if inside.is_dir() else _PACKAGE.parent
    if not (folder / "data").is_dir():
        raise FileNotFoundError(f"no data folder at {folder}; install the package whole, or run from a checkout")
    return folder


def data() -> Path:
    """Return the folder of embedded models, texts, words and measured rows."""
    return root() / "data"


def papers() -> Path:
    """Return the folder of published numbers, one folder a paper."""
    return root() / "papers"


def notebooks() -> Path:
    """Return the folder of notebook sources."""
    return root() / "notebooks"
