"""A verifier's worker process: reads one JSON line per text from its input, writes one JSON line with the
verdict. Started by pool.py.

It is run as a file, not as a module, and puts empty packages in the place of `entjax` and `entjax.rewards`:
importing the real ones would import jax, which takes seconds and memory in every worker. Modules of
`entjax.tasks` and `entjax.rewards.text` import fine under the empty packages, as they need no jax.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import sys
import types
from collections.abc import Callable
from typing import Any, BinaryIO

LONGEST_MESSAGE = 300


def main() -> None:
    requests = sys.stdin.buffer
    # a library that prints must not write into the conversation: keep a private copy of the output, silence
    # the public one
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    hello = json.loads(requests.readline())
    try:
        verify, make_example = load(hello)
        from entjax.tasks import guard

        missing = guard.limit(hello["memory_mb"])
    except Exception as error:
        send(replies, {"failed": f"{type(error).__name__}: {error}"[:2000]})
        return
    send(replies, {"ready": True, "missing_limits": missing, "jax": "jax" in sys.modules})
    while line := requests.readline():
        send(replies, judge(verify, make_example, json.loads(line), hello["seconds"]))


def load(hello: dict[str, Any]) -> tuple[Callable, Callable]:
    """The verifier named by the first line, and the Example type that it takes.

    A verifier's module may say `import entjax as ej` and use `ej.tasks` and `ej.rewards.text`; of the empty
    packages it sees the submodules.
    """
    sys.path[:] = hello["path"]
    module, _, function = hello["factory"].partition(":")
    for name, folder in (
        ("entjax", hello["package"]),
        ("entjax.rewards", os.path.join(hello["package"], "rewards")),
    ):
        package = types.ModuleType(name)
        package.__path__ = [folder]
        package.__getattr__ = functools.partial(submodule, name)
        sys.modules[name] = package
    factory = getattr(importlib.import_module(module), function)
    from entjax.tasks.task import Example

    return factory(**(hello["kwargs"] or {})), Example


def submodule(package: str, name: str) -> types.ModuleType:
    """What `<package>.<name>` is under an empty package."""
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(
            f"In a verifier's worker {package} has submodules only, and none is named {name}."
        ) from error


def judge(
    verify: Callable, make_example: Callable, request: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The reply to one text. `random` is reseeded so that a verifier that uses it gives the same reward in
    any order.
    """
    from entjax.tasks import guard

    random.seed(0)
    try:
        reward = guard.timed(seconds, lambda: verify(make_example(*request["example"]), request["text"]))
        return {"reward": as_number(reward)}
    except guard.OutOfTime:
        return {"outcome": "timeouts", "message": f"took more than {seconds} s of processor time"}
    except BaseException as error:  # also SystemExit and MemoryError: the next text shall be verified
        return {"outcome": "raised", "message": f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]}


def as_number(reward: Any) -> float:
    """What the verifier returned as a number; NaN, which the pool counts, for what is none."""
    try:
        return float(reward)
    except (TypeError, ValueError):
        return float("nan")


def send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
