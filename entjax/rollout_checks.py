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


def check_shapes(rollout: Rollout) -> None:
    """Refuse arrays that do not belong to the same tokens; what may be None and is, is not looked at."""
    of_tokens = getattr(rollout.tokens, "shape", ())
    if len(of_tokens) != 2:
        raise ValueError(f"rollout.tokens has shape {of_tokens}: give one row a sequence, [B, T].")
    rows = (of_tokens[0],)
    for name in ("mask", "logp", "entropy", "old_logp", "reward", "group"):
        x, wanted = getattr(rollout, name), rows if name in ("reward", "group") else of_tokens
        if x is None and name in ("logp", "entropy", "old_logp"):
            continue
        if not hasattr(x, "shape"):
            raise ValueError(f"rollout.{name} is a {type(x).__name__}: give an array of shape {wanted}.")
        if x.shape != wanted:
            why = "it needs one entry a row:" if wanted == rows else "but rollout.tokens has"
            raise ValueError(f"rollout.{name} has shape {x.shape}; {why} {wanted}.")


def check_rollout(rollout: Rollout, objective: Objective, minibatches: int, microbatches: int) -> None:
    """Refuse, before anything is compiled, a rollout that the step cannot use."""
    check_shapes(rollout)
    if rollout.entropy is None:
        raise ValueError("rollout.entropy is None: make_score(model, objective)(state, rollout) fills it in.")
    check_rows(
        rollout, minibatches * microbatches, f"{minibatches} minibatches of {microbatches} microbatches"
    )
    if rollout.old_logp is None and minibatches > 1:
        raise ValueError(
            f"{minibatches} minibatches move the policy away from the one that sampled: old_logp must be computed first, by "
            "make_score(model, objective)(state, rollout)."
        )
    missing = sorted((objective.needs | set(objective.remembers)) - set(rollout.extra))
    if missing:
        raise ValueError(
            f"The objective needs rollout.extra[{', '.join(map(repr, missing))}]. Reference log-probs and remembered features "
            "come from make_score(model, objective)(state, rollout); other keys come from the task or the rollout strategy."
        )
