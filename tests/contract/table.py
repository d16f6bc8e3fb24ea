"""The contract table: every transform in one row. A row inherits all checks of test_contract.py.

    Row(factory, kwargs, writes, inputs)

`writes`: the Signal fields that the transform may change. `inputs`: names of entries of rollout.extra that it needs beside
what the scoring pass computes (see INPUTS). `random`: draws from context.key. Rooms add their rows in rows_<room>.py.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
import tests.contract


class Row(NamedTuple):
    factory: Callable[..., ej.Transform]
    kwargs: dict[str, Any]
    writes: set[str]
    inputs: tuple[str, ...] = ()
    where: str = "per_step"  # or "per_rollout"
    random: bool = False
    surrogate: Callable = ej.surrogates.ppo_clip
    label: str = ""

    def __str__(self):
        given = ",".join(
            f"{k}={getattr(v, '__name__', v)}" for k, v in self.kwargs.items() if not isinstance(v, tuple)
        )
        return self.label or f"{self.factory.__name__}({given})"[:80]


def rows() -> list[Row]:
    """All rows of all rooms."""
    found = []
    for module in pkgutil.iter_modules(tests.contract.__path__):
        if module.name.startswith("rows_"):
            found += importlib.import_module(f"tests.contract.{module.name}").ROWS
    return found


def inputs(rollout: ej.Rollout, names, seed: int = 7) -> dict:
    """Plausible values for the optional inputs of single methods, by name."""
    rng = np.random.default_rng(seed)
    b, t = rollout.tokens.shape
    index = np.broadcast_to(np.arange(t), (b, t))
    make = {
        "ref_logp": lambda: np.asarray(rollout.old_logp) + 0.2 * rng.normal(size=(b, t)),
        "cluster": lambda: rng.integers(0, 3, b).astype(np.int32),
        "turn": lambda: np.minimum(index // 3, 3).astype(np.int32),
        "phase": lambda: (index > t // 2).astype(np.int32),
        "planning": lambda: rng.random((b, t)) < 0.3,
        "trajectory": lambda: (np.arange(b) // 3).astype(np.int32),
        "row_turn": lambda: (np.arange(b) % 3).astype(np.int32),
        "embedding_distance": lambda: rng.random(b),
        "diversity": lambda: rng.random(b),
        "think_end": lambda: rng.integers(0, t + 2, b).astype(np.int32),
        "replayed": lambda: np.arange(b) % 3 == 0,
        "copied": lambda: rng.random(b) < 0.3,
        "stored_advantage": lambda: rng.normal(size=b),
        "tool_calls": lambda: rng.integers(0, 4, b).astype(np.int32),
        "tempered": lambda: rng.random(b) < 0.4,
        "baseline": lambda: rng.random(b),
        "value": lambda: rng.random((b, t)),
        "attention_entropy": lambda: rng.random((b, t)),
    }
    unknown = [name for name in names if name not in make]
    if unknown:
        raise KeyError(
            f"tests/contract/table.py has no plausible values for {unknown}: add them to `inputs`."
        )
    values = {name: np.asarray(make[name]()) for name in names}
    narrow = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
    return {name: jnp.asarray(narrow(x)) for name, x in values.items()}


def arrays(tree):
    """Leaves with paths, as NumPy."""
    return {
        jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
