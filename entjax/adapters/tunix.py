"""An entjax Objective as policy loss and advantage estimator of google-tunix 0.1.7.

    GRPOConfig(num_generations=8, beta=0.0, **tunix.register(ej.recipes.dapo()))

Tunix asks for advantages before it knows log-probs or entropies, so the estimator registered here hands the rewards through and
the whole objective runs inside the loss, on the rows of one Tunix micro-batch: group statistics are exact, since groups are
never split; statistics of the batch are those of the micro-batch, so leave `train_micro_batch_size` unset where that matters.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from entjax.adapters.arrays import check_stateless, loss_from_logits
from entjax.loss import Objective
from entjax.types import Rollout


def register(objective: Objective, name: str = "entjax") -> dict[str, str]:
    """Register the objective under `name`; returns the two arguments of GRPOConfig that choose it.

    Tunix's own `epsilon`, `loss_agg_mode` and `kl_loss_mode` then have no effect. A `beta` other than 0 only makes Tunix compute
    the reference log-probs, for objectives with `regularizers.kl`.
    """
    from tunix.rl import function_registry

    check_stateless(objective)
    if objective.needs - {"ref_logp"}:
        raise ValueError(
            f"The objective needs {', '.join(sorted(objective.needs - {'ref_logp'}))}, which Tunix's training examples lack."
        )

    def loss(model: nnx.Module, train_example: Any, algo_config: Any, pad_id: int, eos_id: int, **_: Any):
        rollout = rollout_of(train_example, algo_config)
        logits = _logits(model, train_example, pad_id, eos_id)
        # Tunix has no key to give: the batch's own tokens stand for one.
        key = jax.random.fold_in(jax.random.key(0), jnp.sum(rollout.tokens).astype(jnp.uint32))
        value, metrics = loss_from_logits(objective, logits, rollout, key=key)
        # the two that Tunix's GRPO learner logs by name; the others appear with actor_trainer.with_rl_metrics_to_log
        return value, {
            "kl": metrics["kl/old"],
            "pg_clipfrac": metrics["clip/low"] + metrics["clip/high"],
            **metrics,
        }

    def rewards_as_they_are(rewards: np.ndarray, num_generations: int) -> np.ndarray:
        del num_generations
        return np.asarray(rewards)

    function_registry.register_policy_loss_fn(name)(loss)
    function_registry.register_advantage_estimator(name)(rewards_as_they_are)
    return {"policy_loss_fn": name, "advantage_estimator": name}


def rollout_of(example: Any, algo_config: Any) -> Rollout:
    """A TrainExample as a Rollout of its completions. Tunix keeps no entropies: with several iterations on a batch they are NaN,
    and so is the loss of an objective that looks at the entropy of the policy that sampled.
    """
    if example.segment_ids is not None:
        raise ValueError(
            "Packed rows mix groups: leave max_seq_token_per_tpu unset to use an entjax objective."
        )
    rows, samples = example.completion_ids.shape[0], algo_config.num_generations
    if rows % samples or example.advantages.ndim != 1:
        raise ValueError(
            f"{rows} rows with rewards of shape {example.advantages.shape} are no groups of {samples}: choose both names that "
            "register() returns, policy_loss_fn and advantage_estimator."
        )
    mask = example.completion_mask.astype(bool)
    old = example.old_per_token_logps
    unknown = jnp.full(mask.shape, jnp.nan, jnp.float32)
    reference = example.ref_per_token_logps
    return Rollout(
        tokens=example.completion_ids,
        mask=mask,
        logp=unknown if old is None else old.astype(jnp.float32),
        entropy=unknown,
        old_logp=None if old is None else old.astype(jnp.float32),
        reward=example.advantages.astype(jnp.float32),
        group=jnp.arange(rows, dtype=jnp.int32) // samples,
        extra={} if reference is None else {"ref_logp": reference.astype(jnp.float32)},
        temperature=float(algo_config.temperature),
    )


def _logits(model: nnx.Module, example: Any, pad_id: int, eos_id: int):
    """The policy's logits [B, T, V] at the completion tokens, before the temperature."""
    from tunix.rl import common

    graphdef, state = nnx.split(model)
    return common.compute_per_token_logps(
        graphdef, state, prompt_tokens=example.prompt_ids, completion_tokens=example.completion_ids, pad_id=pad_id,
        eos_id=eos_id, stop_gradient=False, return_logits=True,
    )[1]  # fmt: skip
