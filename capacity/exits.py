"""How a command ends: what happened becomes one line and an exit code; what it says goes through one door."""

import errno
import functools
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from capacity import harmless

__all__ = ["OUTSIDE", "Incomplete", "Terminated", "coded", "is_usage", "say", "terminate", "try_place"]

_TRIED_BYTES = 65_536  # written where --save goes, and taken away, before the work begins


class Incomplete(RuntimeError):
    """The command did what it could, and that was not all: exit code 1."""


class Terminated(SystemExit):
    """The process was told to end."""


# What went wrong outside, whatever exception it became: no space, no permission, a broken disk, too many files.
OUTSIDE = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG")}
OUTSIDE |= {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def is_usage(error: BaseException) -> bool:
    """Return whether what was asked for was wrong, and not what happened to it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in OUTSIDE:
            return False
        cause = cause.__cause__
    return isinstance(error, ValueError)


def coded(*, resumes: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what turns the failures of a command into a line and an exit code.

    1 failed, 2 usage, 130 interrupted, 143 terminated. resumes: whether the same command goes on where it was.
    """

    def coded(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                command(*args, **kwargs)
            except (KeyboardInterrupt, Terminated) as error:
                again = shlex.join(["capacity", *sys.argv[1:]])
                kept = "finished work is kept, the same command resumes it" if resumes else "to begin again"
                ended, code = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
                say(f"\n{ended}; {kept}: {again}", err=True)
                raise typer.Exit(code) from None
            except (ValueError, Incomplete, RuntimeError, LookupError, OSError) as error:
                usage = is_usage(error)
                say(f"{'error' if usage else 'failed'}: {error}", err=True)
                raise typer.Exit(2 if usage else 1) from error

        return run

    return coded


def say(text: str, *, err: bool = False) -> None:
    """Print a line for a person, through the one door."""
    harmless.show(text, sys.stderr if err else sys.stdout)


def try_place(path: Path) -> None:
    """Raise Incomplete if no file can be written to `path`; what was there stays."""
    if path.is_dir():
        raise ValueError(f"--save {path} is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        raise Incomplete(f"{path} can't be written ({error.strerror or error}); choose another place") from error


def terminate(number: int, frame: object) -> None:
    """Raise Terminated: what a process does that is told to end."""
    raise Terminated(128 + number)
