"""What is changed of an executed notebook's outputs: paths of a machine, and the error of a cell that found nothing."""

import re
from pathlib import Path
from typing import Any

import nbformat

from capacity import verdicts

_ABSOLUTE = re.compile(r"(?:^|:)(/[^#:]+)")  # in the value of a parameter: a model's folder, file:/PATH#COLUMN


def end(notebook: nbformat.NotebookNode, why: str) -> None:
    """End a notebook at the cell that found nothing, with the verdict in place of its error and papermill's banners."""
    banners = {"papermill-error-cell-tag"}
    notebook.cells = [cell for cell in notebook.cells if not banners & set(cell.metadata.get("tags", ()))]
    places = [
        at for at, cell in enumerate(notebook.cells) if any(o.output_type == "error" for o in cell.get("outputs", ()))
    ]
    del notebook.cells[places[0] + 1 :]
    data = verdicts.nothing(why)._repr_mimebundle_()
    cell = notebook.cells[places[0]]
    cell.outputs = [o for o in cell.outputs if o.output_type != "error"] + [
        nbformat.v4.new_output("display_data", data)
    ]


def shorten(notebook: Any, values: dict[str, Any]) -> None:
    """Name files and folders that parameters name by their absolute paths by their last part, in all outputs."""
    given = [item for value in values.values() for item in (value if isinstance(value, list) else [value])]
    paths = {match[1] for item in given if isinstance(item, str) and (match := _ABSOLUTE.search(item))}
    short = {path: Path(path).name for path in paths}
    short = {path: name for path, name in short.items() if name and list(short.values()).count(name) == 1}

    def named(value: Any) -> Any:
        match value:
            case dict():
                return {key: named(item) for key, item in value.items()}
            case list():
                return [named(item) for item in value]
            case str():
                for path in sorted(short, key=len, reverse=True):
                    value = value.replace(path, short[path])
        return value

    for cell in notebook.cells:
        if cell.cell_type == "code" and short:
            cell.outputs = [nbformat.from_dict(named(output)) for output in cell.outputs]
