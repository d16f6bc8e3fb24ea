"""Leave out groups whose rewards are all equal: they have no signal (DAPO's dynamic sampling, without the resampling).

    keep group g if std_g R > 0 or the group has one member

R is the outcome reward of the rollout, not a shaped one, as in DAPO. With denominator="selected" (default) the tokens leave
the averages, so the others get the weight that they would have in a batch without dead groups; "all" only zeroes their weight,
which keeps regularizers on them.
"""

from __future__ import annotations

import jax.numpy as jnp

from entjax import masked
from entjax.transform import Transform, stateless
from entjax.weights._keep import check, keep_tokens, writes


def zero_variance(*, denominator: str = "selected") -> Transform:
    """Drop groups without reward variance."""
    check("zero_variance", denominator)

    def f(signal, context):
        reward, group = context.rollout.reward.astype(signal.reward.dtype), context.rollout.group
        differs = masked.group_max(reward, group) > -masked.group_max(-reward, group)
        alone = masked.group_count(group) == 1
        kept = jnp.broadcast_to((differs | alone)[:, None], signal.mask.shape)
        some = context.rollout.mask.any(axis=1) & (group >= 0)
        return keep_tokens(signal, kept, denominator).note(context, kept=masked.mean(kept[:, 0], some))

    return stateless("zero_variance", f, writes=writes(denominator))
