"""What a chain costs at [64, 4096] tokens, from its jaxpr: next to nothing beside the update of a 0.5B model, and no [B, T, V].

Traced only, nothing is compiled: the arrays a chain makes are counted with their sizes. Time is bounded by the roofline of a
TPU v5e chip (197 TFLOP/s, 819 GB/s): an elementwise pass over x bytes takes x / 819e9 s even when nothing is fused.
"""

import jax
import jax.numpy as jnp
import pytest

import entjax as ej
from entjax.learning import recipe, recipe_names
from tests import tiny
from tests.contract.table import inputs

B, T, PARAMETERS = 64, 4096, 0.5e9
PEAK_FLOPS, BANDWIDTH = 197e12, 819e9
UPDATE_SECONDS = 6 * PARAMETERS * B * T / PEAK_FLOPS  # at full utilisation: the most demanding comparison


def big_rollout(extra):
    small = tiny.rollout(extra={})
    small = small.replace(extra=inputs(small, extra))
    shape = lambda x: (B, T, *x.shape[2:]) if x.ndim > 1 else (B,) if x.ndim == 1 else ()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape(jnp.asarray(x)), jnp.asarray(x).dtype), small)


def arrays_made(jaxpr, times=1):
    """(shape, bytes, times) of every array that the equations of a jaxpr produce, loop bodies by their trip count."""
    for equation in jaxpr.eqns:
        inner = [p for v in equation.params.values() for p in (v if isinstance(v, (tuple, list)) else [v])]
        inner = [
            getattr(p, "jaxpr", p)
            for p in inner
            if hasattr(p, "eqns") or hasattr(getattr(p, "jaxpr", None), "eqns")
        ]
        trips = equation.params.get("length", 40) if equation.primitive.name in ("scan", "while") else 1
        for body in inner:
            yield from arrays_made(body, times * trips)
        for out in equation.outvars:
            if not inner and hasattr(out.aval, "shape") and jnp.issubdtype(out.aval.dtype, jnp.number):
                yield out.aval.shape, out.aval.size * out.aval.dtype.itemsize, times


@pytest.mark.parametrize("name", recipe_names())
def test_a_chain_costs_next_to_nothing(name):
    objective = recipe(name, {})
    rollout = big_rollout(sorted(objective.needs))
    feature = jax.ShapeDtypeStruct((B, T), jnp.float32)
    extra = {**rollout.extra, **dict.fromkeys(objective.remembers, feature)}
    rollout = rollout.replace(extra=extra)
    stats = dict.fromkeys([*objective.per_step.reads, *objective.per_rollout.reads], feature)
    state = objective.init()

    def chains(rollout, stats):
        context = ej.Context(rollout, stats, jnp.int32(1), jax.random.key(0))
        signal, _ = objective.per_rollout.update(ej.Signal.start(rollout), state["per_rollout"], context)
        return objective.per_step.update(signal, state["per_step"], context)

    made = list(arrays_made(jax.make_jaxpr(chains)(rollout, stats).jaxpr))
    largest = max(size for _, size, _ in made)
    assert largest <= 4 * B * T * 32, f"{name} makes an array of {largest / (4 * B * T):.0f} x [B, T]"
    seconds = (
        sum(2 * size * times for _, size, times in made) / BANDWIDTH
    )  # each array written once and read once
    assert seconds < 0.02 * UPDATE_SECONDS, f"{name}: {seconds / UPDATE_SECONDS:.1%} of the update"
