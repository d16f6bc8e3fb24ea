"""entjax: entropy-aware policy optimization for language models."""

from entjax import (
    advantages,
    attention_entropy,
    averages,
    clips,
    config,
    control,
    data,
    decoding,
    entropy_change,
    kl,
    masked,
    models,
    recipes,
    regularizers,
    rewards,
    rollouts,
    setup,
    sft,
    surrogates,
    tasks,
    vocab,
    weights,
)
from entjax.config import Config
from entjax.control import Controller
from entjax.loss import Objective, policy_loss
from entjax.step import TrainState, init_train_state, make_score, make_train_step
from entjax.transform import Transform, chain, during, identity, rename, stateful, stateless, tunable
from entjax.types import Context, Rollout, Signal
