"""A strategy from the command line: strategy=NAME strategy.OPTION=VALUE, read off the factories of entjax.rollouts."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from entjax import rollouts
from entjax.rollouts.harvest import Strategy

# types of options that can be written on a command line, and what they take
PLAIN = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (type(None),)}


def names() -> dict[str, Callable[..., Strategy]]:
    """Every public factory of a strategy."""
    makers = {
        name: f for name, f in vars(rollouts).items()
        if inspect.isfunction(f) and str(inspect.signature(f).return_annotation) == "Strategy"
    }  # fmt: skip
    return {name: makers[name] for name in sorted(makers) if name not in ("as_strategy", "stateless")}


def strategy_by_name(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy, or a sentence about what is wrong with its name or its options."""
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ValueError(
            f"There is no strategy '{name}'" + (f"; did you mean '{near[0]}'? " if near else ". ")
            + f"Known: {', '.join(known)}."
        )  # fmt: skip
    parameters = inspect.signature(known[name]).parameters
    needed = [p.name for p in parameters.values() if p.default is p.empty]
    if needed:
        raise ValueError(
            f"strategy={name} needs {', '.join(needed)}, which only a config file can hold: strategy=ej.rollouts.{name}(...)."
        )
    kinds = {p.name: set(str(p.annotation).replace("|", " ").split()) for p in parameters.values()}
    plain = [option for option, kind in kinds.items() if kind <= set(PLAIN)]
    unknown = sorted(set(options) - set(plain))
    if unknown:
        raise ValueError(
            f"strategy={name} has no option {', '.join(unknown)} for the command line; it takes {', '.join(plain) or 'none'}."
        )
    for option, value in options.items():
        if not any(type(value) in PLAIN[kind] for kind in kinds[option]):
            raise ValueError(f"strategy.{option}={value}: expected {parameters[option].annotation}.")
    return known[name](**options)
