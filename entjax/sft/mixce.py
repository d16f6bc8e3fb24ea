"""MixCE: maximum likelihood mixed with an approximate reverse cross-entropy (Zhang et al. 2023, arXiv 2305.16958).

    loss = (1/n) sum (eta + (1 - eta) sg[q]) nll,   q = exp(-nll), the model's probability of the token

Tokens that the model likes already count more, so it lowers the entropy, opposite to Entropy-SFT. eta = 1 is maximum likelihood;
default 0.5 (released code; its grid is 0 to 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entjax import vocab
from entjax.sft.text_loss import TextLoss, token_mean


def mixce(eta: float = 0.5) -> TextLoss:
    """Negative log-likelihood weighted by eta + (1 - eta) q."""
    if not 0 <= eta <= 1:
        raise ValueError(f"mixce() needs 0 <= eta <= 1, got {eta}.")

    def per_token(row):
        logp = vocab.logp(row)
        return row.side["weight"] * (eta + (1 - eta) * jax.lax.stop_gradient(jnp.exp(logp))) * -logp

    return TextLoss("mixce", token_mean, per_token, hyper={"eta": eta})
