"""CURE: cut a rollout before a critical token and generate again (bytedance/CURE, stage 1).

    P = {t >= 1 : the text of token t has at least `characters` characters},  C = the K of them with highest entropy
    t* uniform from C (0 if P is empty),  q' = q + o[0:t*],  `branches` new rollouts from q'

The group of a prompt is n1 rollouts and n1 * branches branches, samples = n1 (1 + branches), advantages over all of them. A
branch has a fresh budget of max_new_tokens, as far as the context reaches. Mask: what a row sampled itself; the prefix o[0:t*] is
prompt to a branch. Stage 2 is plain groups: from step `until` on. Defaults K 20, branches 3 (n1 = 4), characters 2 (released).

Differences: entropies are the sampler's, not recomputed. Positions behind `longest` tokens of prompt and prefix are not
admissible; the release cuts the end of the prefix instead (`branch_prompt`). The verifier sees prefix and branch; the release
shows it the branch (`whole=False`). Alphabets of single characters need characters=1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entjax.rollouts.groups import sample_groups
from entjax.rollouts.grown import Grown, by_group, grow_all
from entjax.rollouts.harvest import Harvest, Strategy, Tools, full_groups, merge, stateless
from entjax.sampler import Completions
from entjax.tasks import Example


def cure(
    *,
    branches: int = 3,
    k: int = 20,
    characters: int = 2,
    longest: int | None = None,
    whole: bool = True,
    until: int | None = None,
) -> Strategy:
    """Re-generation at tokens of high entropy; plain groups from step `until` on."""
    if branches < 0 or k < 1:
        raise ValueError(f"cure needs branches >= 0 and k >= 1, got branches={branches}, k={k}.")

    def rows(prompts: int, samples: int) -> int:
        if samples % (1 + branches):
            raise ValueError(
                f"samples={samples}: a rollout and its {branches} branches are {1 + branches} rows; choose a multiple."
            )
        return full_groups(prompts, samples)

    def collect(tools, examples, step, knobs) -> Harvest:
        rows(1, tools.samples)
        if until is not None and step >= until:
            return sample_groups(tools, examples, 0)
        return grow_all(tools, examples, tools.samples, lambda *block: grow(step, *block))

    def grow(step: int, tools: Tools, examples: Sequence[Example], numbers: np.ndarray) -> Grown:
        stepper, first = tools.stepper, tools.samples // (1 + branches)
        new = stepper.how.max_new_tokens
        source = np.repeat(np.arange(len(examples)), first)
        names = numbers[source], np.tile(np.arange(first), len(examples))
        prompts = [tools.encode(example) for example in examples]
        state = stepper.run(stepper.begin(prompts, source, names, room=2 * new if branches else new))
        roots = stepper.finish(state, names[0])
        computed = int((roots.length - roots.prompt_length).sum())
        if not branches:
            return Grown(roots, computed)
        at = [
            _draw(roots, row, tools, tools.random(step, int(number), int(sample)), k, characters, longest)
            for row, (number, sample) in enumerate(zip(*names, strict=True))
        ]
        parent = np.repeat(np.arange(len(source)), branches)
        start = (roots.prompt_length + np.asarray(at))[parent]
        sample = first + names[1][parent] * branches + np.arange(len(parent)) % branches
        state = stepper.fork(state, parent, start, (names[0][parent], sample))
        state = stepper.run(stepper.reopen(state, np.ones(len(parent), bool), start + new))
        grown = stepper.finish(state, names[0][parent])
        computed += int((grown.length - start).sum())
        behind = np.arange(grown.tokens.shape[1])[None, :] >= start[:, None]
        grown = grown.replace(mask=grown.mask & behind)
        scored = (
            None if whole else _own_texts(tools, roots, roots.prompt_length) + _own_texts(tools, grown, start)
        )
        counts = {"branches_from_the_prompt": float(np.sum(np.asarray(at) == 0))}
        return by_group(Grown(merge([roots, grown]), computed, counts=counts, scored=scored))

    hyper = {"branches": branches, "k": k, "characters": characters, "longest": longest, "until": until}
    return stateless("cure", collect, rows=rows, hyper=hyper)


def critical_positions(entropy: np.ndarray, admissible: np.ndarray, k: int) -> np.ndarray:
    """[k] indices of the admissible tokens of highest entropy [T], in decreasing order, -1 behind; [0, -1 ...] if there are none.

    The first token is never admissible.
    """
    allowed = admissible & (np.arange(len(entropy)) >= 1)
    order = np.argsort(-entropy, kind="stable")
    found = order[allowed[order]][:k]
    found = found if len(found) else np.zeros(1, np.int64)
    return np.pad(found, (0, k - len(found)), constant_values=-1)


def branch_prompt(prompt: Sequence[int], response: Sequence[int], position: int, longest: int) -> list[int]:
    """q + o[0:t*], cut on the right to `longest` tokens as in the release."""
    return [*prompt, *response[:position]][:longest]


def _draw(
    roots: Completions, row: int, tools: Tools, random, k: int, characters: int, longest: int | None
) -> int:
    """t* of one rollout, counted from the end of its prompt."""
    start, end = int(roots.prompt_length[row]), int(roots.length[row])
    long_enough = [len(tools.decode([token]).strip()) >= characters for token in roots.tokens[row, start:end]]
    fits = np.arange(start, end) <= (end if longest is None else longest)
    found = critical_positions(roots.entropy[row, start:end], np.array(long_enough, bool) & fits, k)
    return int(random.choice(found[found >= 0]))


def _own_texts(tools: Tools, completions: Completions, start: np.ndarray) -> list[str]:
    """The text behind `start` of every row."""
    c = completions
    return [tools.decode(c.tokens[row, start[row] : c.length[row]].tolist()) for row in range(len(start))]
