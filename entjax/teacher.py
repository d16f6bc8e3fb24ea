"""The teacher of a run: a model over the same vocabulary; objectives compare with it, strategies let it write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from entjax.config import ConfigError
from entjax.loss import Objective
from entjax.sampler import Sampler, make_sampler
from entjax.step import TrainState


class Teacher(NamedTuple):
    """A model that is never trained."""

    model: nnx.Module
    sampler: Sampler

    @property
    def params(self) -> Any:
        return nnx.state(self.model, nnx.Param)

    def enter(self, state: TrainState) -> TrainState:
        """The state of a student with this teacher for its reference policy; a copy, because steps donate their state."""
        if state.reference is None:
            return state
        return state.replace(reference=jax.tree.map(jnp.copy, self.params))


def make_teacher(model: Any, student: Any, objective: Objective, sampling: Mapping[str, Any]) -> Teacher:
    """The teacher, if the student can learn from it."""
    if model.config.vocab != student.config.vocab:
        raise ConfigError(
            f"teacher: it has a vocabulary of {model.config.vocab} tokens and the model one of {student.config.vocab}; a teacher "
            "must share the student's tokenizer."
        )
    if objective.reference_decay < 1.0:
        raise ConfigError(
            f"teacher: the objective lets its reference follow the policy (reference_decay={objective.reference_decay}); a "
            "teacher stays as it is. Leave the teacher out, or use an objective with reference_decay=1."
        )
    return Teacher(model, make_sampler(model, **sampling))
