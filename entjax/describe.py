"""The parts of a config as JSON values that are equal where two parts do the same: what makes a resumed run the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

from entjax.loss import Objective
from entjax.tasks import Task
from entjax.transform import Transform

# What a function may have taken along that tells it from another; arrays and models do not.
TELLING = (
    bool,
    int,
    float,
    str,
    types.NoneType,
    tuple,
    list,
    Mapping,
    set,
    frozenset,
    types.FunctionType,
    functools.partial,
)


def plain(value: Any, inside: tuple = ()) -> Any:
    """JSON values; `inside`: the functions that hold this one."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    within = functools.partial(plain, inside=inside)
    if isinstance(value, Task):
        return value.name
    if isinstance(value, Transform):
        rule = (
            {"parts": [within(p) for p in value.parts]}
            if value.parts is not None
            else {"update": within(value.update)}
        )
        return {"name": value.name, "hyper": within(value.hyper), **rule}
    if isinstance(value, Objective):
        about = {"per_rollout": value.per_rollout, "per_step": value.per_step, "per_token": value.per_token,
                 "rules": value.rules, "reference_decay": value.reference_decay}  # fmt: skip
        return {name: within(part) for name, part in about.items()}
    if dataclasses.is_dataclass(value):
        return {f.name: within(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): within(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [within(item) for item in value]
    if isinstance(value, (set, frozenset)):  # their order is another one in every process
        return sorted(str(within(item)) for item in value)
    if isinstance(value, functools.partial):
        return {"function": within(value.func), "arguments": within([value.args, value.keywords])}
    name = getattr(value, "__qualname__", None) or str(value).split(" at 0x")[0]
    if not isinstance(value, types.FunctionType) or value in inside:
        return name
    held = _held(value, (*inside, value))
    return {"function": name, **held} if held else name


def _held(function: types.FunctionType, inside: tuple) -> dict[str, Any]:
    """What a function took along when it was made: the variables around it, and the defaults of one made inside another."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not filled yet
            found[name] = cell.cell_contents
    if "<locals>" in function.__qualname__:
        found["defaults"] = [function.__defaults__, function.__kwdefaults__]
    return {name: plain(value, inside) for name, value in found.items() if isinstance(value, TELLING)}
