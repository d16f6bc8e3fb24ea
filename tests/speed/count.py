"""FLOPs of the matrix products of a function, counted in its jaxpr: a scan's body as often as it runs, a while's body once."""

import math
from typing import Any

import jax


def flops(function, *arguments) -> int:
    """2 m n k for every product that the function asks for, whatever the compiler makes of it."""
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    inner = [_of(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if equation.primitive.name == "cond":
        return max(inner, default=0)
    return sum(inner) * (equation.params["length"] if equation.primitive.name == "scan" else 1)


def _jaxprs(value: Any) -> list[Any]:
    found = []
    for one in value if isinstance(value, (tuple, list)) else [value]:
        one = getattr(one, "jaxpr", one)
        found += [one] if isinstance(one, jax.extend.core.Jaxpr) else []
    return found
