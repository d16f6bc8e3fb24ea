"""No baseline, or a constant one: the (shaped) reward itself is the advantage.

    A_i = scale (R_i - baseline)

What plain REINFORCE, RAFT and W-REINFORCE start from; rewards of 0 and 1 become -1 and 1 with baseline .5 and scale 2. A chain
that changes the reward and names no baseline needs it, because a Signal starts with the reward as it came out of the verifier.
"""

from __future__ import annotations

from entjax.advantages.returns import on_tokens
from entjax.transform import Transform, stateless


def raw(*, baseline: float = 0.0, scale: float = 1.0) -> Transform:
    """The reward as advantage."""
    if not scale > 0:
        raise ValueError(f"raw needs scale > 0, got {scale}.")

    def f(signal, context):
        return signal.replace(advantage=on_tokens(scale * (signal.reward - baseline), signal.mask))

    hyper = {"baseline": baseline, "scale": scale}
    return stateless("raw", f, hyper=hyper, writes={"advantage"}, owns={"baseline"})
