"""The hot loop: many texts under way at once, each with its own vector, optimiser state, length and end.

Texts wait in a queue for each bucket of lengths; a bucket has a fixed number of slots, of which idle ones hold
dummies, so the shapes of every call are fixed and a text's result is the same bits alone and in any company. Two things
hold to rounding only: mixtures of experts, and a compiled step beside a text whose curve is traced.
"""

from collections.abc import Iterable, Iterator

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

    The bucket with the most tasks runs until it is half empty and another has more; who waits enters as others leave.
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
        queue = waiting.pop(shape)[::-1]
        n_slots = slots.get(shape) or slots_of(frozen, n_mem=n_mem, bucket=bucket)
        batch = Batch(
            frozen, recipe, n_mem=n_mem, bucket=bucket, slots=n_slots, scored_from=scored_from, compile=compile
        )
        while True:
            for slot in batch.free[: len(queue)]:
                batch.put(slot, queue.pop())
            others = max((len(tasks) for tasks in waiting.values()), default=0)
            if not batch.under_way:
                break
            if batch.under_way <= n_slots // 2 and others > batch.under_way and not queue:
                break
            try:
                left = batch.step(advance)
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
                slots[shape] = n_slots // 2
                break
            for task in left:
                if task.under_way:
                    enqueue(task)
                else:
                    yield task
        for slot, task in enumerate(batch.tasks):
            if task is not None:
                queue.append(batch.take(slot))
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
