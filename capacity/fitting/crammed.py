"""One text in as few [mem] vectors as it takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from capacity.files import whole_number
from capacity.fitting.lengths import Longest, exact_length
from capacity.fitting.parallel import threads
from capacity.fitting.recipes import Recipe, recipe
from capacity.fitting.search import BUDGET
from capacity.fitting.tasks import checked, rows_of_ids
from capacity.models import Frozen
from capacity.texts import encode


def doubling(
    frozen: Frozen,
    ids: Sequence[int],
    recipe: Recipe,
    *,
    seed: int = 0,
    budget: int = BUDGET,
    scored_from: int = 0,
    stepped: Callable[[int, int, int], object] = lambda n_mem, token_steps, held: None,
) -> Iterator[tuple[int, Longest]]:
    """Yield (n_mem, what was found) of one text for 1, 2, 4, ... vectors, until all of it is decoded.

    budget: token-steps for each vector. stepped: gets the number of vectors, and what exact_length's gets.
    It ends without success where the next number of vectors would be no fewer than the tokens, or pass the context.
    """
    n_mem = 1
    while True:
        (longest,) = exact_length(
            frozen, [ids], recipe, n_mem=n_mem, seed=seed, budget=budget * n_mem, scored_from=scored_from,
            stepped=partial(stepped, n_mem),
        )  # fmt: skip
        yield n_mem, longest
        n_mem *= 2
        room = frozen.room(n_mem)
        if longest.length == len(ids) or n_mem >= len(ids) or (room is not None and len(ids) > room):
            return


@dataclass(frozen=True)
class Crammed:
    """One text in as many [mem] vectors as it took, or in those that were allowed."""

    ids: tuple[int, ...]  # the text's tokens
    n_mem: int  # vectors of the last try
    longest: Longest  # of the last try
    given: tuple[int, ...]  # leading tokens that the decoder gets beside the vectors
    text: str = ""  # as it was given; "": token ids were

    @property
    def mem(self) -> Float[Tensor, "n_mem dim"] | None:
        """The vectors, float32; None where no prefix was decoded."""
        return self.longest.mem

    @property
    def complete(self) -> bool:
        """Whether the whole text is decoded."""
        return self.longest.length == len(self.ids)

    @property
    def spent(self) -> bool:
        """Whether the budget ended the search, so that a larger one may find more; False where the fits failed."""
        return not self.complete and self.longest.censored

    def told(self, frozen: Frozen) -> str:
        """Return what one number of vectors came to, in a line, and what of the text where it is not all."""
        steps, n = sum(probe.steps for probe in self.longest.probes), len(self.ids)
        share = f"all {n}" if self.complete else f"the first {self.longest.length} of {n}"
        line = f"{self.n_mem} [mem]: {share} tokens come back · {steps} steps · {self.longest.token_steps} token-steps"
        back = frozen.tokenizer.decode(list(self.ids[: self.longest.length]))
        return line if self.complete else f"{line}\n    {back}"

    def why_not(self, frozen: Frozen, *, chosen: bool) -> str:
        """Return how an incomplete one ended, and what may help, in words of the command.

        chosen: whether the number of vectors was given, not found.
        """
        more, room = 2 * self.n_mem, frozen.room(2 * self.n_mem)
        why = "" if chosen else f" ({more} would be no fewer than its {len(self.ids)} tokens)"
        if not chosen and more < len(self.ids) and room is not None and len(self.ids) > room:
            why = f" ({more} and its {len(self.ids)} tokens are past the model's context)"
        tried = [*(["--n-mem auto"] if chosen else []), *(["a larger --budget"] if self.spent else [])]
        if frozen.tokenizer.bos_token_id is not None:
            tried.append(f"--bos {'none' if frozen.n_before else 'before_mem'}")
        hint = ", or ".join([*tried, "another --seed", "a wider model"])
        return f"the whole text did not fit into {self.n_mem} vector{'s' * (self.n_mem > 1)}{why}. Try {hint}"

    def __repr__(self) -> str:
        held = f"{'all' if self.complete else f'{self.longest.length} of'} {len(self.ids)} tokens"
        held += f" of {self.text[:40]!r}" if self.text else ""
        vectors = f"{self.n_mem} vector{'s' * (self.n_mem > 1)}"
        size = "" if self.mem is None else f", {4 * self.mem.numel():,} bytes"
        return f"Crammed({held} in {vectors}{size}, {self.longest.token_steps} token-steps)"


def _ids(text: Sequence[int]) -> list[int]:
    try:
        return rows_of_ids([text])[0]
    except ValueError as error:
        raise ValueError(
            f"{str(text)[:80]!r} is no text; give a str, or the token ids of one text, [1, 2, 3]"
        ) from error


def cram(
    text: str | Sequence[int],
    frozen: Frozen,
    how: Recipe | str = "default",
    *,
    n_mem: int | None = None,
    seed: int = 0,
    budget: int = BUDGET,
    given: int = 0,
    watch: Callable[[Crammed], None] = lambda crammed: None,
    stepped: Callable[[int, int, int], object] = lambda n_mem, token_steps, held: None,
) -> Crammed:
    """Return one text as [mem] vectors from which alone the model gives it back, if it fits.

    It runs on as many threads as `threads_for` says.

    Args:
        text: the text, or its token ids.
        frozen: the model.
        how: a recipe, or the name of one.
        n_mem: vectors; None: 1, 2, 4, ... until the text is decoded (see `doubling`).
        seed: of the start.
        budget: token-steps for each vector.
        given: leading tokens that the decoder gets: 0, or 1 as in the paper.
        watch: gets what each number of vectors came to, as soon as it is there.
        stepped: gets, at each step, the number of vectors, the step's token-steps, and the tokens right by then.

    Raises ValueError for a text that is empty, past the context or not of this vocabulary, as `texts.encode`, and as
    `exact_length`.
    """
    if given not in (0, 1):
        raise ValueError(f"given is {given}; 0 or 1 tokens can be given")
    checked(frozen)
    if n_mem is not None:
        whole_number("n_mem", n_mem, least=1)
    whole_number("budget", budget, least=1)
    words = text if isinstance(text, str) else ""
    ids = encode(frozen.tokenizer, text, least=1 + given) if isinstance(text, str) else _ids(text)
    frozen.check_length(len(ids), 1 if n_mem is None else n_mem)
    chosen = recipe(how)
    crammed = None
    with threads(frozen):
        if n_mem is None:
            tries = doubling(frozen, ids, chosen, seed=seed, budget=budget, scored_from=given, stepped=stepped)
        else:
            (longest,) = exact_length(
                frozen, [ids], chosen, n_mem=n_mem, seed=seed, budget=budget * n_mem, scored_from=given,
                stepped=partial(stepped, n_mem),
            )  # fmt: skip
            tries = iter([(n_mem, longest)])
        for number, longest in tries:
            crammed = Crammed(tuple(ids), number, longest, tuple(ids[:given]), words)
            watch(crammed)
    assert crammed is not None  # there is a first try
    return crammed
