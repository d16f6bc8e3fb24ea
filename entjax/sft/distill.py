"""Distillation by whole distributions ("Decoupling KL and Trajectories", arXiv 2605.16826): four objectives and their mixtures.

    loss = (1/n) sum_t lambda KL(q || pT) + (1 - lambda) KL(pT || q)         q the student, pT the teacher (a constant)

                     text of the teacher                  text of the student
    lambda = 0       SFT with soft targets                DAgger-like
    lambda = 1       like offline RL                      on-policy distillation (OPD)

Who wrote the text is not differentiated: it is the caller who samples with one model's weights or the other's. The paper finds
forward-heavy mixtures best and gives no value; default 0. `opd` is lambda = 1 on the student's text by the sampled token only:
sg[log pT - log q] as a dense reward of REINFORCE, unbiased for the same gradient, without the sum over the vocabulary.
"""

from __future__ import annotations

import jax
from jaxtyping import Array

from entjax import features, vocab
from entjax.sft.text_loss import TextLoss, token_mean
from entjax.vocab import Row


def distill(reverse: float = 0.0) -> TextLoss:
    """KL to a teacher; `reverse` is lambda, the weight of the mode-seeking direction."""
    if not 0 <= reverse <= 1:
        raise ValueError(f"distill() needs 0 <= reverse <= 1, got {reverse}.")
    directions = ((reverse, features.reverse_kl), (1 - reverse, features.forward_kl))

    def per_token(row):
        return row.side["weight"] * sum(share * kl(row) for share, kl in directions if share > 0)

    return TextLoss("distill", token_mean, per_token, teacher=True, hyper={"reverse": reverse})


def opd() -> TextLoss:
    """On-policy distillation by the sampled tokens: minus reward times log-likelihood."""

    def per_token(row):
        logp = vocab.logp(row)
        reward = jax.lax.stop_gradient(teacher_logp(row) - logp)
        return row.side["weight"] * -reward * logp

    return TextLoss("opd", token_mean, per_token, teacher=True)


def teacher_logp(row: Row) -> Array:
    """log pT(token)."""
    return row.pick(jax.nn.log_softmax(row.side["ref_logits"], axis=-1))
