"""What a rollout must be for a training step to use it; said in a sentence, before anything is compiled."""

from __future__ import annotations

from entjax.loss import Objective
from entjax.types import Rollout


def check_rows(rollout: Rollout, pieces: int, what: str) -> None:
    """Refuse rows that cannot be cut, and a mask that is none."""
    if len(rollout.tokens) % pieces:
        raise ValueError(
            f"{len(rollout.tokens)} rows cannot be split into {what}: choose numbers whose product divides {len(rollout.tokens)}."
        )
    if rollout.mask.dtype != bool:
        raise ValueError(f"rollout.mask has type {rollout.mask.dtype}: give True and False, e.g. mask > 0.")


def check_rollout(rollout: Rollout, objective: Objective, minibatches: int, microbatches: int) -> None:
    """Refuse, before anything is compiled, a rollout that the step cannot use."""
    batch, length = rollout.tokens.shape
    check_rows(
        rollout, minibatches * microbatches, f"{minibatches} minibatches of {microbatches} microbatches"
    )
    if rollout.old_logp is None and minibatches > 1:
        raise ValueError(
            f"{minibatches} minibatches move the policy away from the one that sampled: old_logp must be computed first, by "
            "make_score(model, objective)(state, rollout)."
        )
    for name in ("mask", "logp", "entropy", *(() if rollout.old_logp is None else ("old_logp",))):
        if getattr(rollout, name).shape != (batch, length):
            raise ValueError(
                f"rollout.{name} has shape {getattr(rollout, name).shape}, but rollout.tokens has {(batch, length)}."
            )
    for name in ("reward", "group"):
        if getattr(rollout, name).shape != (batch,):
            raise ValueError(
                f"rollout.{name} has shape {getattr(rollout, name).shape}; it needs one entry a row: ({batch},)."
            )
    missing = sorted((objective.needs | set(objective.remembers)) - set(rollout.extra))
    if missing:
        raise ValueError(
            f"The objective needs rollout.extra[{', '.join(map(repr, missing))}]. Reference log-probs and remembered features "
            "come from make_score(model, objective)(state, rollout); other keys come from the task or the rollout strategy."
        )
