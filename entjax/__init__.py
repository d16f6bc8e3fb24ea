"""entjax: entropy-aware policy optimization for language models."""

from entjax import (
    advantages,
    averages,
    clips,
    control,
    kl,
    masked,
    models,
    regularizers,
    rollouts,
    surrogates,
    tasks,
    vocab,
    weights,
)
from entjax.config import Config
from entjax.control import Controller
from entjax.loss import Objective, policy_loss
from entjax.step import TrainState, init_train_state, make_score, make_train_step
from entjax.transform import Transform, chain, during, identity, rename, stateless, tunable
from entjax.types import Context, Rollout, Signal
