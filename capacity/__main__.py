"""The command line: `capacity cram`, `decode`, `check`, `sweep`, `run`, `report`; the work is done elsewhere."""

import ast
import contextlib
import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

# torch and the notebooks' tools take seconds to import: each command imports what it needs.

_SMALL = 10_000_000  # parameters

app = typer.Typer(
    help="How many tokens an optimised input vector of a frozen language model holds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Incomplete(RuntimeError):
    """The command did what it could, and that was not all: exit code 1."""


def _coded(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with its failures turned into one line and an exit code: 1 failed, 2 usage, 130 interrupted."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            again = " ".join(["capacity", *sys.argv[1:]])
            print(f"\ninterrupted; finished work is kept, the same command resumes it: {again}", file=sys.stderr)
            raise typer.Exit(130) from None
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except (Incomplete, RuntimeError, LookupError, OSError) as error:
            print(f"failed: {error}", file=sys.stderr)
            raise typer.Exit(1) from error

    return run


def _say(text: str) -> None:
    """Print a line for a person: what is in it can't steer the terminal."""
    from capacity import harmless

    print(harmless.visible(text))


def _read(text: str | None, file: Path | None) -> str:
    if text is not None and file is not None:
        raise ValueError("a text and --file are given; give one of them")
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        if text is None:
            if sys.stdin.isatty():
                raise ValueError('no text; give it as `capacity cram "some text"`, with --file, or on standard input')
            return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 (byte {error.start}); convert it first") from error
    except OSError as error:
        raise ValueError(f"{file} can't be read ({error.strerror}); give a text file") from error
    return text or ""


@app.command()
@_coded
def cram(
    text: Annotated[str | None, typer.Argument(help="The text; without it and --file, standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="A text file instead.")] = None,
    model: Annotated[str, typer.Option(help="Embedded name, folder or hub name.")] = "llama-128-bos",
    n_mem: Annotated[str, typer.Option(help="Vectors, or `auto`: doubled until the text fits.")] = "auto",
    recipe: Annotated[str, typer.Option(help="How to optimise: `default`, `progressive` or `paper`.")] = "default",
    budget: Annotated[int, typer.Option(help="Token-steps a vector.")] = 8000,
    given: Annotated[int, typer.Option(help="1: the first token is given, as in the paper; it counts.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the start.")] = 0,
    bos: Annotated[str, typer.Option(help="BOS: `none`, `before_mem`, or `auto`, as the tokenizer has it.")] = "auto",
    save: Annotated[Path | None, typer.Option(help="Write the vectors to this .safetensors file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")] = None,
) -> None:
    """Optimise [mem] vectors until the model, fed only those, gives the text back; print it as it came back."""
    content = _read(text, file)
    if n_mem != "auto" and not (n_mem.isascii() and n_mem.isdigit() and int(n_mem)):
        raise ValueError(f"--n-mem is {n_mem!r}; give a whole number from 1 on, or auto")
    if bos not in ("auto", "none", "before_mem"):
        raise ValueError(f"--bos is {bos!r}; auto, none and before_mem are allowed")
    if given not in (0, 1):
        raise ValueError(f"--given is {given}; 0 or 1 tokens can be given")
    import torch

    from capacity import coding, decoding, fitting, models, texts, vector_files

    how = fitting.recipe(recipe)
    texts.check_text(content)
    frozen = models.load(model, device=device, bos=bos)
    if frozen.device.type == "cpu" and frozen.model.num_parameters() < _SMALL:
        torch.set_num_threads(1)  # as fast alone, and far faster where the processor is shared
    ids = texts.encode(frozen.tokenizer, content, least=1 + given)
    frozen.check_length(len(ids), 1 if n_mem == "auto" else int(n_mem))
    _say(f"{frozen.name} · {len(ids)} tokens · {len(content.encode())} bytes of text\n")
    if n_mem == "auto":
        tries = fitting.doubling(frozen, ids, how, seed=seed, budget=budget, scored_from=given)
    else:
        options: dict[str, Any] = {"seed": seed, "budget": budget * int(n_mem), "scored_from": given}
        tries = [(int(n_mem), fitting.exact_length(frozen, [ids], how, n_mem=int(n_mem), **options)[0])]
    number, found = 0, None
    for number, found in tries:
        steps = sum(probe.steps for probe in found.probes)
        share = f"all {len(ids)}" if found.length == len(ids) else f"the first {found.length} of {len(ids)}"
        _say(f"{number} [mem]: {share} tokens come back · {steps} steps · {found.token_steps} token-steps")
        if found.length < len(ids):
            _say(f"    {frozen.tokenizer.decode(ids[: found.length])}")
    if found is None or found.mem is None or found.length < len(ids):
        hint = "a larger --budget or a wider model" if n_mem == "auto" else "--n-mem auto, or a larger --budget"
        raise Incomplete(f"the whole text did not fit into {number} vectors; nothing is saved. Try {hint}")
    back = decoding.free_running(frozen, found.mem, len(ids), given=ids[:given])
    _say(f"\n{frozen.tokenizer.decode(back)}\n")
    for line in coding.ledger(frozen, found.mem, content, ids, given=given):
        _say(f"{line['what']:<34}{line['bytes']:>8,} bytes")
    if save is not None:
        vector_files.save(save, found.mem, frozen, n_tokens=len(ids), given=tuple(ids[:given]))
        _say(f"\nsaved to {save}; `capacity decode {save}` gives the text back")


@app.command()
@_coded
def decode(
    file: Annotated[Path, typer.Argument(help="A file written by `capacity cram --save`.")],
    model: Annotated[str | None, typer.Option(help="The model, where it is not found by the name in the file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")] = None,
) -> None:
    """Print the text that a file of [mem] vectors holds, decoded free-running."""
    from capacity import decoding, models, vector_files

    stored = vector_files.load(file)
    frozen = models.load(model or stored.model, device=device, dtype=stored.dtype, bos=stored.bos)
    stored.check(frozen)
    ids = decoding.free_running(frozen, stored.mem, stored.n_tokens, given=stored.given)
    sys.stdout.buffer.write(str(frozen.tokenizer.decode(ids)).encode())
    sys.stdout.buffer.write(b"\n" if sys.stdout.isatty() else b"")
    sys.stdout.flush()


@app.command()
@_coded
def check(
    model: Annotated[str, typer.Argument(help="Embedded name, folder or hub name.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")] = None,
) -> None:
    """Measure what the project relies on in a model, and print it with the model's facts."""
    from capacity import decoding, models, texts, theory

    frozen = models.load(model, device=device, dtype=dtype, bos="auto")
    found = frozen.contract
    assert found is not None  # of what was loaded there is one
    _say(f"{frozen.name} · {type(frozen.model).__name__} · {frozen.revision} · every check holds")
    for name, deviation in found.deviations.items():
        allowed = 0 if name == "given_vectors" else found.tolerance
        shown = "nothing is carried on" if deviation is None else f"{deviation:.1e}, {allowed:g} is allowed"
        _say(f"{name.replace('_', ' '):<24}{shown}")
    for name, shown in {
        "head": found.head,
        "weights": f"{found.n_weights:,}, all finite and used",
        "not counted": ", ".join(found.left_out) or "nothing",
        "width": f"{frozen.dim:,}",
        "vocabulary": f"{frozen.vocab_size:,} rows, {len(frozen.tokenizer):,} tokens",
        "context": "no limit" if frozen.context is None else f"{frozen.context:,} positions",
        "Eq. 1": f"{theory.token_capacity(frozen.dim, frozen.vocab_size):,.1f} tokens at 16 bits a dimension",
        "scale of embeddings": f"{frozen.embedding_std:.4g}",
        "scale of logits": f"{frozen.logit_std:.4g}",
        "BOS, auto": frozen.bos,
    }.items():
        _say(f"{name:<24}{shown}")
    for policy, bits in decoding.bos_costs(frozen, texts.sample("embedded", frozen.tokenizer, n_texts=12, length=64)):
        _say(f"{'BOS, ' + policy:<24}{bits:.3f} bits a token of embedded texts")


def _parameters(pairs: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"-p {pair!r} is no name=value; give for example -p n_texts=8")
        found[name] = value
        with contextlib.suppress(ValueError, SyntaxError):  # what is no literal is a text
            found[name] = ast.literal_eval(value)
    return found


_Settings = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value in place of the preset's.")]
_Pairs = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value of a notebook's parameter.")]
_Out = Annotated[Path, typer.Option(help="Folder of the pages.")]
_Store = Annotated[Path | None, typer.Option(help="Folder of the rows; CAPACITY_STORE or build/store by default.")]


@app.command("sweep")
@_coded
def sweep_preset(
    preset: Annotated[str, typer.Option(help="PAPER/NAME, for example kuratov2025/table1.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="Instead of the preset's; may be given again.")] = None,
    parameter: _Settings = None,
    store: _Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, by a short probe.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="One compiled graph a step: slower to start.")] = False,
) -> None:
    """Run a published protocol on its models or any other; rows that the store has are not measured again."""
    from capacity import sweep
    from capacity.store import default_path
    from capacity.sweep import estimate, presets

    chosen = presets.load(preset)
    every = presets.experiments(chosen, models=model or (), given=_parameters(parameter))
    wanted, left_out = presets.within_context(every)
    _say(f"{chosen.name} · {chosen.title}")
    if left_out:
        _say(f"{len(left_out):,} cells are left out: past the model's context, or fewer tokens than vectors")
    place = store or default_path()
    if dry_run:
        for line in (line for one in estimate.estimate(wanted, place) for line in estimate.lines(one)):
            _say(line)
        return
    rows = sweep.run(wanted, place, travelling=False, compile=compile)
    ended = ", ".join(f"{n:,} {status}" for status, n in sorted(rows["status"].value_counts().iter_rows()))
    _say(f"{rows['key'].n_unique():,} cells are in {place}, {rows.height:,} rows: {ended}")


def _build(names: list[str] | None, parameter: list[str] | None, out: Path, store: Path | None) -> None:
    from capacity import report

    given = _parameters(parameter) | ({} if store is None else {"store": str(store)})
    summary = report.build(names, out=out, given=given)
    print(f"the report is in {summary.index}")
    if summary.failed:
        raise Incomplete(f"failed: {', '.join(result.name for result in summary.failed)}; their pages say why")


@app.command()
@_coded
def run(
    names: Annotated[list[str], typer.Argument(help="Notebooks, for example 01_decoding_capacity.")],
    parameter: _Pairs = None,
    out: _Out = Path("build/report"),
    store: _Store = None,
) -> None:
    """Run notebooks with parameters and write a page for each."""
    _build(names, parameter, out, store)


@app.command()
@_coded
def report(parameter: _Pairs = None, out: _Out = Path("build/report"), store: _Store = None) -> None:
    """Run all notebooks (but the 90s) and write the report."""
    _build(None, parameter, out, store)


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line; exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, _terminate)
    app()


if __name__ == "__main__":
    main()
