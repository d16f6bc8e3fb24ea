"""No baseline: the (shaped) reward itself is the advantage, A_i = R_i.

What plain REINFORCE, RAFT and W-REINFORCE start from. A chain that changes the reward and names no baseline needs it, because
a Signal starts with the reward as it came out of the verifier.
"""

from __future__ import annotations

from entjax.advantages.returns import on_tokens
from entjax.transform import Transform, stateless


def raw() -> Transform:
    """The reward as advantage."""

    def f(signal, context):
        return signal.replace(advantage=on_tokens(signal.reward, signal.mask))

    return stateless("raw", f, writes={"advantage"}, owns={"baseline"})
