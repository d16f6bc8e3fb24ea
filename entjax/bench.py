"""`entjax bench`: run the files of benchmarks/ one after another, print a row each and write their JSON.

The benchmarks belong to the source tree, not to the wheel: they need peers, baselines and room that a library should not carry.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

SOURCE = "https://github.com/entjax/entjax"


def folder() -> Path:
    """The benchmarks/ folder of the checkout."""
    for root in (Path(__file__).resolve().parent.parent, Path.cwd()):
        if (root / "benchmarks" / "harness.py").is_file():
            return root / "benchmarks"
    raise ValueError(
        "The benchmarks are not part of the installed package: get the source of entjax (the folder benchmarks/ lies beside "
        "entjax/), go there and run `entjax bench` again."
    )


def names() -> list[str]:
    """Every benchmark: the files of the folder that have a function rows()."""
    return sorted(path.stem for path in folder().glob("*.py") if "\ndef rows(" in path.read_text())


def run(options: Any) -> int:
    """Run the benchmarks that were named, or all of them."""
    here, known = folder(), names()
    wanted = [word for word in options.name if "=" not in word]
    choices = dict(_choice(word) for word in options.name if "=" in word)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"There is no benchmark '{unknown[0]}'; there are {', '.join(known)}.")
    if str(here.parent) not in sys.path:
        sys.path.insert(0, str(here.parent))
    import jax

    if options.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(options.device, options.device))
    harness = importlib.import_module("benchmarks.harness")
    out = options.out or here / "results" / jax.default_backend()
    print(harness.HEADER, flush=True)
    for name in wanted or known:
        rows = importlib.import_module(f"benchmarks.{name}").rows
        own = choices | {"out": out} | ({"peers": True} if options.peers else {})
        taken = {key: value for key, value in own.items() if key in inspect.signature(rows).parameters}
        harness.report(name, functools.partial(rows, **taken), out)
    print(f"\nJSON: {out}")
    return 0


def _choice(word: str) -> tuple[str, Any]:
    """ "rounds=3", "works=a,b" or "model=30M": a number, several words, or one."""
    key, _, value = word.partition("=")
    if value.isdigit():
        return key, int(value)
    return key, tuple(value.split(",")) if key.endswith("s") else value
