"""The hot loop: many texts under way at once, each with its own vector, optimiser state, length and end.

Texts wait in a queue for each bucket of lengths; a bucket has a fixed number of slots, of which idle ones hold
dummies, so that a text's result is the same bits alone and in any company. Where a smaller batch was seen to give the
same bits, few texts run in that. Two things hold to rounding only: mixtures of experts, and a compiled step beside a
text whose curve is traced.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from capacity import stepping
from capacity.batch import Batch
from capacity.memory import bucket_of, is_exhausted, room_of, slots_of
from capacity.models import Frozen
from capacity.recipes import Recipe
from capacity.tasks import Advance, Probe, Task


def run(
    frozen: Frozen,
    tasks: Iterable[Task],
    recipe: Recipe,
    advance: Advance,
    *,
    scored_from: int = 0,
    compile: bool = False,
) -> Iterator[Task]:
    """Yield each task as it ends, its probes filled in; the order depends on the tasks, their results do not.

    The bucket with the most tasks runs until it is half empty and another has more, or a smaller batch holds the rest;
    who waits enters as others leave.
    Where memory runs out, the batch is halved and its tasks go on as they were before the step; a text that does not
    fit alone ends with status `oom`.

    compile: step in one compiled graph; a minute or less for each bucket of lengths, then faster.
    """
    recipe = recipe.of(frozen)
    waiting: dict[tuple[int, int], list[Task]] = {}
    slots: dict[tuple[int, int], int] = {}  # of a shape, where memory has run out

    def enqueue(task: Task) -> None:
        n_mem = task.mem.shape[0]
        bucket = bucket_of(task.length, most=room_of(frozen, n_mem=n_mem))
        waiting.setdefault((n_mem, bucket), []).append(task)

    for task in tasks:
        enqueue(task)
    while waiting:
        n_mem, bucket = shape = max(waiting, key=lambda shape: (len(waiting[shape]), -shape[1]))
        queue, batch = waiting.pop(shape)[::-1], None
        n_slots = most = slots.get(shape) or slots_of(frozen, n_mem=n_mem, bucket=bucket)
        narrowest = partial(stepping.narrowed, frozen, recipe, n_mem=n_mem, bucket=bucket, slots=most, compile=compile)
        try:
            n_slots = narrowest(len(queue))
            batch = Batch(
                frozen, recipe, n_mem=n_mem, bucket=bucket, slots=n_slots, scored_from=scored_from, compile=compile
            )
            while True:
                for slot in batch.free[: len(queue)]:
                    batch.put(slot, queue[-1])
                    queue.pop()
                busy, others = batch.under_way, max((len(tasks) for tasks in waiting.values()), default=0)
                half_empty = not queue and busy <= n_slots // 2
                if not busy or (half_empty and (others > busy or narrowest(busy) < n_slots)):
                    break
                for task in batch.step(advance):
                    if task.under_way:
                        enqueue(task)
                    else:
                        yield task
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            slots[shape] = n_slots // 2
        if batch is not None:
            queue += [batch.take(slot) for slot, task in enumerate(batch.tasks) if task is not None]
        for task in queue:
            if slots.get(shape) == 0:
                yield _exhausted(task, scored_from)
            else:
                enqueue(task)
        if slots.get(shape) == 0:
            del slots[shape]


def _exhausted(task: Task, scored_from: int) -> Task:
    """Return a task that does not fit into memory alone, ended so."""
    steps, n_correct = task.steps, max(0, task.best)
    task.token_steps += task.length * steps
    task.probes.append(
        Probe(
            length=task.length, status="oom", steps=steps, token_steps=task.length * steps, n_correct=n_correct,
            n_scored=task.length - scored_from, bits_min=None, seconds=task.seconds, curve=task.curve,
            mem=task.best_mem,
        )
    )  # fmt: skip
    return task
