"""A notebook and parameters in, an executed notebook out."""

import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import default
from traitlets.config import Config

from capacity import files, provenance
from capacity.report import outputs
from capacity.report.parameters import check, declared

_SOCKET_BYTES = 90  # of a path: systems allow about 104, and the kernel puts -ipc-1 behind it
_OUTPUT_SECONDS = 60  # a busy machine may take long to hand over a cell's output


class NotebookError(RuntimeError):
    """A notebook that ran and failed; what it gave up to then is in `executed`."""

    def __init__(self, executed: Path, reason: str) -> None:
        super().__init__(f"{executed.stem} failed: {reason}")
        self.executed = executed
        self.reason = reason


def execute(
    source: Path, given: dict[str, Any], *, out: Path, timeout: int | None = None, name: str | None = None
) -> Path:
    """Return the path of the executed notebook, `<out>/<name>.ipynb`, written whole or not at all.

    `source` is a py:percent file, whose own name is taken where no other is given, `given` goes after its parameters
    cell, `timeout` is in seconds a cell. The kernel is this interpreter, in the caller's working folder. ParameterError
    before a kernel starts; NotebookError, after writing, for an exception in a cell, a dead kernel or a cell out of
    time. A notebook whose rows are not there (metrics.NothingFound) ends where it misses them, with a verdict that
    says so.
    """
    values = check(source, given)
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    run = _provenance(source, values)
    reason, found_nothing, started = "", False, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="capacity-") as scratch:
        draft = Path(scratch) / "draft.ipynb"
        # sockets in a folder of our own: of two kernels that start at once, both may pick the same TCP port
        sockets = Path(scratch) / "kernel.json"
        short = len(os.fsencode(sockets)) < _SOCKET_BYTES
        transport = "ipc" if os.name == "posix" and short else "tcp"
        connection = {"transport": transport, "connection_file": str(sockets)}
        try:
            papermill.execute_notebook(
                notebook,
                str(draft).replace("{", "{{").replace("}", "}}"),  # papermill puts parameters into paths
                given,
                kernel_name="python3",
                language="python",
                cwd=Path.cwd(),
                progress_bar=False,
                execution_timeout=timeout,
                iopub_timeout=_OUTPUT_SECONDS,
                kernel_manager_class=_KernelManager,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                config=Config(KernelManager=connection),
            )
        except PapermillExecutionError as error:
            found_nothing = error.ename == "NothingFound"
            reason = f"{error.ename}: {error.evalue}".splitlines()[0]
        except CellTimeoutError as error:
            reason = files.first_line(error)
        except DeadKernelError:
            reason = "the kernel died; it was killed, ran out of memory or left by itself"
        except RuntimeError as error:
            reason = f"the kernel did not start: {error}"
        if draft.exists():
            notebook = nbformat.read(draft, as_version=4)
    if found_nothing:
        outputs.end(notebook, reason.partition(": ")[2])
        reason = ""
    notebook.metadata.pop("papermill", None)  # it names paths of this machine
    status = "failed" if reason else "complete"
    run |= {"status": status, "reason": reason, "seconds": round(time.monotonic() - started, 3)}
    notebook.metadata["capacity"] = run
    executed = out / f"{name or source.stem}.ipynb"
    outputs.shorten(notebook, values)
    write(executed, nbformat.writes(notebook))
    if reason:
        raise NotebookError(executed, reason)
    return executed


class _KernelManager(AsyncKernelManager):
    """Kernels of the running interpreter, whatever kernels are registered on the machine."""

    @default("kernel_spec_manager")
    def _native_only(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def _provenance(source: Path, values: dict[str, Any]) -> dict[str, Any]:
    known = declared(source)
    table = [{"name": name, "value": repr(values[name]), "unit": known[name].comment} for name in known]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": provenance.machine(),
        "parameters": table,
        "versions": [f"{name} {version}" for name, version in provenance.versions().items()],
    }


def write(path: Path, text: str) -> None:
    """Write a text, whole or not at all; a lone surrogate, which has no UTF-8, as JSON would write it."""
    files.write(path, text.encode("utf-8", "backslashreplace"))
