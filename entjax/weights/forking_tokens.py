"""80/20: only the tokens of highest entropy learn (Beyond the 80/20 Rule, arXiv 2506.01939).

    top = { t : H_t among the k highest },  k = max(1, ceil(rho n)),   loss = sum over top / k

H is the current policy's entropy, n the number of valid tokens in the batch, or in each sequence with scope="sequence".

Default rho 0.2 (paper). What becomes of the denominator is a factor 1 / rho in the effective learning rate: "selected" divides
by k (the official code, default), "all" by n (the paper's formula; TRL). `rule`: "ceil" is the official int(rho n + 0.9999),
"floor" int(rho n) (Lp-Reg's repository), "quantile" keeps H >= the interpolated quantile 1 - rho (TRL for the batch; for
sequences, SIREN's baseline).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import masked, vocab
from entjax.conflicts import steered
from entjax.control import Controller, Target
from entjax.transform import Transform, is_dynamic, tunable
from entjax.weights._keep import DENOMINATORS, keep_tokens, writes

RULES = {"ceil": 0.9999, "floor": 0.0}


def forking_tokens(
    rho: Target | Controller = 0.2,
    *,
    scope: str = "batch",
    denominator: str = "selected",
    rule: str = "ceil",
) -> Transform:
    """Keep the fraction `rho` of highest-entropy tokens."""
    if not is_dynamic(rho) and not 0 < rho <= 1:
        raise ValueError(f"forking_tokens needs a fraction 0 < rho <= 1, got {rho}.")
    for name, value, known in (
        ("scope", scope, ("batch", "sequence")),
        ("denominator", denominator, DENOMINATORS),
        ("rule", rule, (*RULES, "quantile")),
    ):
        if value not in known:
            raise ValueError(f"forking_tokens: {name} must be one of {known}, got {value!r}.")

    def select(entropy, mask, rho):
        if rule == "quantile":
            single = entropy.astype(
                jnp.float32
            )  # as TRL and SIREN do: decides whether the threshold's own token stays
            threshold = masked.quantile(single, mask, 1 - rho.astype(jnp.float32))
            return mask & (entropy >= threshold.astype(entropy.dtype))
        share = rho * masked.count(mask, dtype=entropy.dtype)
        whole = jnp.floor(share)
        # int(rho n + 0.9999); the sum itself would be rounded up in float32 from some thousand tokens on
        k = whole + (share - whole >= 1 - RULES[rule]).astype(whole.dtype)
        return masked.highest(entropy, mask, jnp.maximum(k.astype(jnp.int32), 1))

    def f(signal, context, *, rho):
        entropy, mask = context.stats["entropy"], signal.mask
        entropy = masked.keep(entropy, mask)
        rho = jnp.asarray(rho, entropy.dtype)
        choose = select if scope == "batch" else jax.vmap(select, in_axes=(0, 0, None))
        top = choose(entropy, mask, rho)
        signal = keep_tokens(signal, top, denominator)
        return signal.note(
            context,
            kept=masked.mean(top, mask),
            lowest_kept=masked.minimum(entropy, top),
        )

    return tunable(
        "forking_tokens",
        f,
        {"rho": rho},
        reads={"entropy": vocab.entropy},
        writes=writes(denominator),
        owns=steered(rho),
    )
