"""An own objective tried on shapes before a run begins: what would fail in the first step, behind warm start and evaluation,
fails at once and says where. Nothing is computed or compiled."""

from __future__ import annotations

import traceback
from collections.abc import Set as AbstractSet
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array

from entjax import vocab
from entjax.loss import Objective, surrogate_losses, term_losses
from entjax.passes import run_chains
from entjax.rollouts.inputs import FROM_SCORING
from entjax.types import Rollout

VOCABULARY = 2**18  # larger than any id that a feature may name; nothing is computed
PACKAGE = Path(__file__).parent


def rehearse(objective: Objective, rows: int, tokens: int, provided: AbstractSet[str]) -> None:
    """Raise ValueError if the chains, features or surrogate fail on a batch of [rows, tokens]; `provided`: names that the
    strategy puts into rollout.extra. With inputs of which only their maker knows the shapes, nothing can be said."""
    if objective.needs - FROM_SCORING:
        return
    try:
        jax.eval_shape(lambda: _decide_and_weigh(objective, rows, tokens))
    except Exception as error:
        missing = error.args[0] if isinstance(error, KeyError) and error.args else None
        if missing in provided:
            return
        why = f"{type(error).__name__}: {error}"
        if missing is not None:
            why = (
                f"nothing gives {missing!r}. A transform declares what it looks at: reads={{{missing!r}: feature}} for "
                f"context.stats, needs={{{missing!r}}} for context.rollout.extra"
            )
        raise ValueError(f"The objective cannot run. {_where(error)}{why}.") from error


def _decide_and_weigh(objective: Objective, rows: int, tokens: int) -> Array:
    """The loss of every token of a batch of zeros, the way of `entjax.step` and `entjax.loss`."""
    shape = (rows, tokens)
    floats, ids = jnp.zeros(shape), jnp.zeros(shape, jnp.int32)
    logits = jnp.zeros((*shape, VOCABULARY))
    mask = jnp.ones(shape, bool)
    side = {"sampled_logp": floats, "old_logp": floats, "ref_logp": floats, "ref_logits": logits}
    here = vocab.Row(logits, ids, side)
    remembered = {name: feature(here) for name, feature in objective.remembers.items()}
    extra = {**dict.fromkeys(objective.needs, floats), **remembered}
    rollout = Rollout(ids, mask, floats, floats, floats, floats[:, 0], ids[:, 0], extra)
    read = {name: feature(here) for name, feature in objective.per_step.reads.items()}
    signal, _, _ = run_chains(objective, rollout, read)
    side = {**side, **extra, "signal": signal, "mask": mask}
    terms = {name: f(here.replace(side=side)) for name, f in objective.terms.items() if name in signal.coef}
    return surrogate_losses(floats, signal, objective.per_token) + term_losses(signal, terms, floats)


def _where(error: BaseException) -> str:
    """The last line of the user's own code on the way to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    library = lambda path: PACKAGE in path.parents or "site-packages" in path.parts
    own = [frame for frame in frames if not library(Path(frame.filename))]
    return f"{own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}: " if own else ""
