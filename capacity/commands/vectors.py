"""`capacity cram`, `decode`, `check`: one text, its vectors, and the model they are for."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from capacity.commands.exits import Incomplete, coded, obtain, read_text, say, try_place
from capacity.commands.options import Device, Fetch, Terms, With, use
from capacity.commands.watching import Watching


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
    device: Device = None,
    fetch: Fetch = False,
    accept_terms: Terms = False,
    as_tokenized: Annotated[
        bool, typer.Option("--as-tokenized", help="Cram a text that the tokenizer changes, as it changes it.")
    ] = False,
    own: With = None,
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
    if picture is not None and picture.suffix.lower() != ".svg":
        raise ValueError(f"--picture {picture} is to be an SVG; give a name that ends in .svg")
    for option, place in (("--save", save), ("--picture", picture)):
        if place is not None:
            try_place(place, option)
    from capacity import charts, coding, decoding, files, fitting, models, texts, vector_files

    use(own)
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

    with Watching(len(ids), budget) as line:

        def watch(crammed: fitting.Crammed) -> None:
            line.clear()
            say(crammed.told(frozen))

        crammed = fitting.cram(
            ids, frozen, how, n_mem=number, seed=seed, budget=budget, given=given, watch=watch, stepped=line.stepped
        )
    if crammed.mem is None or not crammed.complete:
        raise Incomplete(f"{crammed.why_not(frozen, chosen=number is not None)}; nothing is saved or drawn")
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
        say(f"\ndrawn in {picture}")
    if save is not None:
        say(f"\nsaved to {save}; `{shlex.join(['capacity', 'decode', str(save)])}` gives the text back")


@coded()
def decode(
    file: Annotated[Path, typer.Argument(help="A file written by `capacity cram --save`.")],
    model: Annotated[str | None, typer.Option(help="The model, where it is not found by the name in the file.")] = None,
    device: Device = None,
    fetch: Fetch = False,
    accept_terms: Terms = False,
) -> None:
    """Print the text that a file of [mem] vectors holds, decoded free-running."""
    from capacity import decoding, harmless, models, vector_files

    stored = vector_files.load(file)
    obtain(model or stored.model, fetch=fetch, accept_terms=accept_terms)
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


@coded()
def check(
    model: Annotated[str, typer.Argument(help="Embedded name, folder or hub name.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Device = None,
    fetch: Fetch = False,
    accept_terms: Terms = False,
) -> None:
    """Measure what the project relies on in a model, and print it with the model's facts."""
    from capacity import decoding, models, texts, theory

    obtain(model, fetch=fetch, accept_terms=accept_terms)
    frozen = models.load(model, device=device, dtype=dtype, bos="auto")
    contract = frozen.contract
    assert contract is not None  # of what was loaded there is one
    say(f"{frozen.name} · {type(frozen.model).__name__} · {frozen.revision} · every check holds")
    for name, deviation in contract.deviations.items():
        allowed = 0 if name == "given_vectors" else contract.tolerance
        shown = "nothing is carried on" if deviation is None else f"{deviation:.1e}, {allowed:g} is allowed"
        say(f"{name.replace('_', ' '):<24}{shown}")
    for name, shown in {
        "head": contract.head,
        "weights": f"{contract.n_weights:,}, all finite and used",
        "not counted": ", ".join(contract.left_out) or "nothing",
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
