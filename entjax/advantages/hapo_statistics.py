"""HAPO's hand-over to the sampler (arXiv 2509.16591): the entropy scale of this rollout, for the temperatures of the next.

    knobs: hapo_pivot c, hapo_spread s, hapo_up 1 / max z, hapo_down 1 / min z      (z as in `advantages.hapo`)

Taken from the behaviour policy's entropies; use it `per_rollout`. `decoding.hapo_temperature` turns the knobs into
T = T0 (1 + tau clip(h, -1, 1)); before the first update there are none and T = T0. In the released code the sampler reads the
statistics under another name than the trainer writes, so this part may never have run.
"""

from __future__ import annotations

from entjax.advantages.hapo import check_pivot, normalized_entropy
from entjax.transform import Transform, stateless


def hapo_statistics(*, pivot: float = 0.8) -> Transform:
    """Writes the four numbers that HAPO's adaptive temperature needs into the knobs."""
    check_pivot(pivot)

    def f(signal, context):
        _, scale = normalized_entropy(context.rollout.entropy, signal.mask, pivot)
        knobs = {f"hapo_{name}": value for name, value in scale._asdict().items()}
        return signal.replace(knobs={**signal.knobs, **knobs})

    return stateless(
        "hapo_statistics", f, writes={"knobs"}, knobs={"hapo_pivot", "hapo_spread", "hapo_up", "hapo_down"}
    )
