"""What most recipes add a rule or two to: GRPO's and DAPO's compositions."""

from __future__ import annotations

from entjax import advantages, averages, clips, surrogates
from entjax.loss import Objective
from entjax.transform import Transform, chain


def dapo_base(
    *per_step: Transform, before: tuple = (), after: tuple = (), c: float = 10.0, **options
) -> Objective:
    """DAPO's base: group-normalised reward, clip 0.2 to 0.28, dual clip c, token mean; rules before and after the advantage."""
    first = chain(*before, advantages.group_normalize(), *after)
    step = chain(clips.asymmetric(0.2, 0.28), *per_step, averages.token_mean())
    return Objective(first, step, surrogates.dual_clip(c), **options)


def grpo_base(
    *per_step: Transform, before: tuple = (), after: tuple = (), baseline: Transform | None = None, **options
) -> Objective:
    """GRPO's base: PPO clip 0.2, token mean."""
    first = chain(*before, baseline or advantages.group_normalize(), *after)
    return Objective(first, chain(*per_step, averages.token_mean()), **options)
