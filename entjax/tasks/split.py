"""A task parted by the text of its prompts, so that no prompt is both trained on and held out.

Indices do not do that: small procedural tasks ask the same question at many indices, and two seeds of reasoning-gym that are
closer than a data set is large share examples.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from entjax.tasks.task import Example, Task, check_index, stand_ins

WHOLE = 20_000  # a task up to this size is parted row by row; of a larger one another example stands in for one of the other side
TRIES = 10_000
MULTIPLIER = 0x9E3779B1  # Knuth's, 2^32 over the golden ratio: odd, so that no value of a hash is lost


def split(
    task: Task, share: float = 0.1, *, key: Callable[[str], str] = str, seed: int = 0
) -> tuple[Task, Task]:
    """`(training, evaluation)`, with `share` of the prompts in the second: `task, eval_task = ej.tasks.split(TASK)`.

    Prompts with the same `key` are on the same side: `key=lambda prompt: "".join(sorted(prompt))` holds out whole anagrams. A
    part is parted once more with another `seed`, which draws anew who is on which side.
    """
    if not 0 < share < 1:
        raise ValueError(f"split(share={share}): a share of the prompts lies between 0 and 1, say 0.1.")

    turn = pow(MULTIPLIER, seed, 2**32)  # a product, because a prefix would only exchange the values of crc32

    def held_out(example: Example) -> bool:
        if not isinstance(example, Example):
            raise TypeError(
                f"split: {task.name} gives a {type(example).__name__}; its example(index) has to make a tasks.Example."
            )
        text = str(key(example.prompt)).encode(errors="surrogatepass")
        return zlib.crc32(text) * turn % 2**32 < share * 2**32

    # The name is by which a checkpoint recognises its task: a run does not go on with other sides.
    named = task._replace(name=f"{task.name}, split {share:g}" + f"/{seed}" * bool(seed))
    return _side(named, held_out, False), _side(named, held_out, True)


def _side(task: Task, held_out: Callable[[Example], bool], wanted: bool) -> Task:
    if task.size is not None and task.size <= WHOLE:
        kept = [i for i in range(task.size) if held_out(task.example(i)) == wanted]
        if not kept:
            raise ValueError(
                f"split: all {task.size} prompts of {task.name} are {'trained on' if wanted else 'held out'}: give another share,"
                " or another seed (a part that is parted again with the seed it was made with stays as it is)."
            )

        def row(index: int) -> Example:
            check_index(index, len(kept), task.name)
            return task.example(kept[index])

        return task._replace(example=row, size=len(kept))

    def example(index: int) -> Example:
        check_index(index, task.size, task.name)
        for other in stand_ins(index, task.size, TRIES):
            found = task.example(other)
            if held_out(found) == wanted:
                return found
        side = "held out" if wanted else "trained on"
        raise ValueError(
            f"split: {TRIES} prompts of {task.name} were looked at and none is to be {side}: give another share, key or seed."
        )

    return task._replace(example=example)
