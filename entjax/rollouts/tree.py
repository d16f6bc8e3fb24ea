"""ETMR, the tree rollout of ETTRL (arXiv 2508.11356): grow M trees, fork each at its most uncertain tokens, let all leaves vote.

    R = M (1 + B N) leaves:  M full rollouts, B continuations of each before its N tokens of highest entropy

`samples` is R. The forking token is drawn again; forks on branches and a filter of tokens are not in the paper and not here.
The expected cost is (1 + B N / 2) / (1 + B N) of independent rollouts. Mask: the whole completion of
every leaf; a shared prefix is in the loss of each leaf that holds it. A rollout with fewer than N tokens grows the missing
branches from the prompt. Defaults N = B = 2 (the main run, M = 12). Vote with rewards.majority_vote (recipe ettrl).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entjax.rollouts.grown import Grown, by_group, grow_all
from entjax.rollouts.harvest import Harvest, Strategy, Tools, full_groups, merge, stateless
from entjax.tasks import Example


def tree(*, forks: int = 2, branches: int = 2) -> Strategy:
    """`forks` branching points a tree, `branches` continuations at each."""
    if forks < 0 or branches < 1:
        raise ValueError(f"tree needs forks >= 0 and branches >= 1, got forks={forks}, branches={branches}.")
    leaves = 1 + forks * branches

    def rows(prompts: int, samples: int) -> int:
        if samples % leaves:
            raise ValueError(
                f"samples={samples}: a tree with {forks} forks of {branches} branches has {leaves} leaves; choose a multiple."
            )
        return full_groups(prompts, samples)

    def collect(tools, examples, step, knobs) -> Harvest:
        rows(1, tools.samples)
        return grow_all(tools, examples, tools.samples, grow)

    def grow(tools: Tools, examples: Sequence[Example], numbers: np.ndarray) -> Grown:
        trees, stepper = tools.samples // leaves, tools.stepper
        source = np.repeat(np.arange(len(examples)), trees)
        trunk_names = numbers[source], np.tile(np.arange(trees), len(examples))
        state = stepper.begin([tools.encode(e) for e in examples], source, trunk_names)
        state = stepper.run(state)
        trunks = stepper.finish(state, trunk_names[0])
        computed = int((trunks.length - trunks.prompt_length).sum())
        if not forks:
            return Grown(trunks, computed)
        at = fork_positions(trunks.entropy, trunks.mask, forks)
        at = np.where(at < 0, trunks.prompt_length[:, None], at)
        parent = np.repeat(np.arange(len(source)), forks * branches)
        sample = (
            trees + trunk_names[1][parent] * forks * branches + np.arange(len(parent)) % (forks * branches)
        )
        start = np.repeat(at, branches, axis=1).ravel()
        state = stepper.run(stepper.fork(state, parent, start, (trunk_names[0][parent], sample)))
        grown = stepper.finish(state, trunk_names[0][parent])
        computed += int((grown.length - start).sum())
        return by_group(Grown(merge([trunks, grown]), computed))

    return stateless("tree", collect, rows=rows, hyper={"forks": forks, "branches": branches})


def fork_positions(entropy: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """[B, count]: where the entropy [B, T] is highest inside the mask, in descending order; -1 where the row is shorter."""
    ranked = np.argsort(np.where(mask, -entropy, np.inf), axis=1, kind="stable")[:, :count]
    found = np.where(np.take_along_axis(mask, ranked, axis=1), ranked, -1)
    return np.pad(found, ((0, 0), (0, count - found.shape[1])), constant_values=-1)
