"""Golden arrays as a Rollout and a Signal, and the loss of a composition on them as a function of log-probs or logits."""

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax.loss import log_ratios, token_losses

AVERAGES = {
    "token_mean": ej.averages.token_mean(),
    "seq_mean_token_sum": ej.averages.sequence_mean_token_sum(),
    "seq_mean_token_mean": ej.averages.sequence_mean_token_mean(),
}


def average(name, length):
    """verl's aggregation of that name; its fourth divides by the padded length."""
    if name == "seq_mean_token_sum_norm":
        return ej.averages.constant_length(length, over_sequences=False)
    return AVERAGES[name]


def f64(x):
    return jnp.asarray(np.asarray(x), jnp.float64)


def rollout_of(x, **more):
    """A rollout from a golden case; what the case does not give is 0. Padding keeps its garbage."""
    mask = np.asarray(x["mask"]).astype(bool)
    zeros = np.zeros(mask.shape)
    get = lambda *names: next((x[name] for name in names if name in x), zeros)
    fields = {
        "tokens": jnp.asarray(get("tokens"), jnp.int32),
        "mask": jnp.asarray(mask),
        "logp": f64(get("old_logp")),
        "old_logp": f64(get("old_logp")),
        "entropy": f64(get("old_entropy")),
        "reward": jnp.zeros(mask.shape[0]),
        "group": jnp.asarray(x["group_ids"] if "group_ids" in x else np.arange(len(mask)), jnp.int32),
    }
    return ej.Rollout(**{**fields, **more})


def signal_of(rollout, advantage, weight=None):
    """The start of a per-step chain: an advantage, and the weights that something before has decided."""
    signal = ej.Signal.start(rollout)
    signal = signal.replace(advantage=f64(advantage) * jnp.ones_like(signal.weight))
    return signal if weight is None else signal.replace(weight=f64(weight))


def decide(transform, signal, rollout, stats, key=0):
    """The Signal after a chain that sees these statistics of the current policy."""
    t = ej.chain(transform)
    context = ej.Context(rollout, stats, jnp.int32(0), jax.random.key(key))
    return t.update(signal, t.init(None), context)[0]


def loss_of_logp(logp, rollout, signal, surrogate):
    """(loss, d loss / d logp) as the train step's loss function defines them."""

    def loss(logp):
        x = log_ratios(logp, rollout.old_logp, signal.mask & rollout.mask)
        return jnp.where(rollout.mask, token_losses(x, signal, {}, surrogate), 0).sum()

    return jax.value_and_grad(loss)(f64(logp))


def loss_of_logits(logits, rollout, signal, surrogate, terms):
    """(loss, d loss / d logits); logits [B, T, V] predict the token of the same index."""

    def loss(logits):
        side = {"old_logp": rollout.old_logp, "mask": rollout.mask, **rollout.extra}
        row = ej.vocab.Row(logits, rollout.tokens, side)
        x = log_ratios(ej.vocab.logp(row), rollout.old_logp, signal.mask & rollout.mask)
        values = {name: feature(row) for name, feature in terms.items()}
        return jnp.where(rollout.mask, token_losses(x, signal, values, surrogate), 0).sum()

    return jax.value_and_grad(loss)(f64(logits))


def stats_of(logits, rollout):
    """Every feature that a transform of this page reads, from full logits."""
    row = ej.vocab.Row(f64(logits), rollout.tokens, {"old_logp": rollout.old_logp})
    names = ("logp", "entropy", "prob_sq", "prob_sq_logp")
    return {name: getattr(ej.vocab, name)(row) for name in names}
