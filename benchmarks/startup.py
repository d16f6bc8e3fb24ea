"""How long the shell waits: `import entjax` and `entjax methods`, each in a fresh process, files warm."""

from __future__ import annotations

import resource
import subprocess
import sys

from benchmarks.harness import Row


def rows(rounds=5):
    """The base is a Python that imports JAX and flax.nnx and nothing else."""

    def run(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    yield Row(
        "startup", "one process from start to end", {},
        {"import jax, flax.nnx": lambda: run("-c", "import jax, flax.nnx"), "import entjax": lambda: run("-c", "import entjax"),
         "entjax methods": lambda: run("-m", "entjax", "methods")},
        "import jax, flax.nnx", 0.0, rounds,
    )  # fmt: skip
