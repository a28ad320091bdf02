"""The hot loop: many texts under way at once, each with its own vector, optimiser state, length and end.

Texts wait in a queue for each bucket of lengths; a bucket has a fixed number of slots, of which idle ones hold
dummies, so that a text's result is the same bits alone and in any company. Where a smaller batch was seen to give the
same bits, few texts run in that. Two things hold to rounding only: mixtures of experts, and a compiled step beside a
text whose curve is traced.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from capacity.fitting import graph
from capacity.fitting.batch import Batch
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe, check_margin
from capacity.fitting.slots import narrowed, shape_of
from capacity.fitting.tasks import Advance, Task
from capacity.models import Frozen, is_exhausted


def run(
    frozen: Frozen,
    tasks: Iterable[Task],
    recipe: Recipe,
    advance: Advance,
    *,
    compile: bool | str = False,
    stepped: Callable[[int], object] = lambda token_steps: None,
) -> Iterator[Task]:
    """Yield each task as it ends, its probes filled in; the order depends on the tasks, their results do not.

    The shortest bucket runs until it is empty, in ever smaller batches, so that the longer find all texts together;
    who waits enters as others leave. Where no smaller batch gives the same bits, a bucket that is half empty waits for
    one with more tasks.
    Where memory runs out, the batch is halved and its tasks go on as they were before the step; a text that does not
    fit alone ends with status `oom`.

    compile: True, step in one compiled graph: a minute or less for each bucket of lengths, then faster. `capture`, on
    a GPU: the step recorded, once for each bucket, and replayed, without launching kernel by kernel.
    stepped: gets the token-steps of each step, all texts' together.
    """
    graph.check(compile)
    recipe = recipe.scaled_to(frozen)
    check_margin(recipe, frozen)
    waiting: dict[tuple[int, int], list[Task]] = {}  # by vectors and padded length
    wholes: dict[tuple[int, int], Shape] = {}  # with fewer slots where memory has run out

    def enqueue(task: Task) -> None:
        shape = shape_of(frozen, task.length, n_mem=task.mem.shape[0], compile=compile)
        kind = shape.n_mem, shape.bucket
        wholes.setdefault(kind, shape)
        waiting.setdefault(kind, []).append(task)

    def narrow(kind: tuple[int, int], n_tasks: int) -> Shape:
        return narrowed(frozen, recipe, n_tasks, wholes[kind], compile=compile)

    def half_full(kind: tuple[int, int]) -> bool:
        return 2 * len(waiting[kind]) > narrow(kind, len(waiting[kind])).slots

    for task in tasks:
        enqueue(task)
    while waiting:
        kind = next(
            filter(half_full, sorted(waiting, key=lambda kind: kind[1])),
            max(waiting, key=lambda kind: (len(waiting[kind]), -kind[1])),
        )
        queue, batch = waiting.pop(kind)[::-1], None
        shape = narrow(kind, len(queue))
        try:
            batch = Batch(frozen, recipe, shape, compile=compile)
            while True:
                batch.fill(queue)
                busy, others = batch.under_way, max((len(tasks) for tasks in waiting.values()), default=0)
                if not busy or (not queue and busy < shape.slots and narrow(kind, busy).slots < shape.slots):
                    break
                if not queue and busy <= shape.slots // 2 and others > busy:
                    break
                token_steps = sum(task.length for task in batch.tasks if task is not None)
                for task in batch.step(advance):
                    if task.under_way:
                        enqueue(task)
                    else:
                        yield task
                stepped(token_steps)
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            wholes[kind] = replace(shape, slots=shape.slots // 2)
        if batch is not None:
            queue += batch.take_all()
        for task in queue:
            if wholes[kind].slots == 0:
                task.close("oom", task.best_mem, recipe)
                yield task
            else:
                enqueue(task)
        if wholes[kind].slots == 0:  # for who left for another length of this bucket, or comes by later
            wholes[kind] = shape_of(frozen, kind[1], n_mem=kind[0], compile=compile)
