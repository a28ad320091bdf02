"""Where rows lie, and the small tables beside them: in a store, or with those that travel with the project."""

import os
from pathlib import Path

from capacity import resources


def default_path() -> Path:
    """Return the folder rows are kept in: `$CAPACITY_STORE`, or `build/store`."""
    return Path(os.environ.get("CAPACITY_STORE") or "build/store")


def measured() -> Path:
    """Return the folder of rows that travel with the project, with their provenance, or `$CAPACITY_MEASURED`."""
    return Path(os.environ.get("CAPACITY_MEASURED") or resources.data() / "measured" / "rows")


def places(name: str, folder: Path | str | None, *, travelling: bool) -> tuple[Path, list[Path]]:
    """Return where a kind of tables of a store goes, and all folders where such tables are."""
    beside, own = measured().with_name(name), Path(folder if folder is not None else default_path())
    place = beside if own.resolve() == measured().resolve() else own / name
    return place, [place, *([beside] if travelling else [])]
