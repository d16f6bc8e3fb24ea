"""AEPO's tempered rows (arbitrary entropy, 597358816/AEPO): a part of the prompts is sampled again, flatter or sharper.

    pi^T = softmax(policy logits / T),   T = knobs["tempered_temperature"], `start` before a transform has set it

The first quarter of the prompts gets a second group each, marked extra["tempered"]; regularizers.aepo decides which of these rows
count. T is a decoding rule before the run's own, so log-prob and entropy of a row are the policy's (temperature 1 there) and its
ratio starts at 1. Rows of a batch: prompts * samples + the tempered groups. Mask: every sampled token. Defaults: a quarter, T 1.2
(released).
"""

from __future__ import annotations

import math

import numpy as np

from entjax import decoding
from entjax.rollouts.groups import sample_groups
from entjax.rollouts.harvest import Harvest, Strategy, join, stateless
from entjax.transform import chain


def tempered(*, share: float = 0.25, start: float = 1.2) -> Strategy:
    """Plain groups and, for `share` of the prompts, a tempered one."""
    if not 0 < share <= 1 or not start > 0:
        raise ValueError(f"tempered needs 0 < share <= 1 and start > 0, got share={share}, start={start}.")
    again = lambda prompts: math.ceil(prompts * share)

    def collect(tools, examples, step, knobs) -> Harvest:
        n, T = len(examples), float(knobs.get("tempered_temperature", start))
        plain = sample_groups(tools, examples, 0)
        own, flatter = tools.stepper.how.rules, decoding.temperature(T)
        rules = flatter if own is None else chain(flatter, own)
        more = sample_groups(tools, examples[: again(n)], n, rules=rules)
        both = join([plain, more])
        mark = np.arange(len(both.texts)) >= len(plain.texts)
        rate = float(more.reward.mean())
        return both._replace(
            extra={"tempered": mark}, metrics={"tempered/temperature": T, "tempered/reward": rate}
        )

    rows = lambda prompts, samples: (prompts + again(prompts)) * samples
    hyper = {"share": share, "start": start}
    return stateless("tempered", collect, rows=rows, provides=frozenset({"tempered"}), hyper=hyper)
