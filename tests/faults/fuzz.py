"""Mutations of the shipped configs, and what `entjax train` makes of them.

    python -m tests.faults.fuzz [--count 500] [--run]        --run: take one step with every config that is accepted

A mutation is accepted and takes a step, or is refused before anything is compiled by a sentence that names its key.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import entjax as ej
from entjax import cli, setup
from entjax import train as training
from entjax.config import FIELDS, ConfigError, load_config, shipped_configs


def readable(path):
    """Whether the config itself can be read here: some need the libraries of entjax[tasks]."""
    try:
        return bool(load_config(path))
    except ConfigError as error:
        if "entjax[tasks]" not in str(error):
            raise
        return False


SHIPPED = sorted(path.stem for path in shipped_configs().glob("*.py") if readable(path))
HERE = {"quickstart", "warm_start"}  # the others need a checkpoint folder that is not in the repository
# Small enough for one step in seconds; only what the mutation does not touch is replaced.
SMALL = {"steps": 1, "prompts": 2, "samples": 4, "max_new_tokens": 9, "sft_steps": 0, "eval_prompts": 2, "eval_samples": 2,
         "eval_k": (1,), "minibatches": 1, "microbatches": 1, "lr_warmup": 0, "chunk": 64, "eval_every": 0}  # fmt: skip
RECIPE_OPTIONS = ["target", "kp", "ki", "maximum", "nothing", "budget", "coef"]
VALUES = [
    "-1", "0", "1", "2", "3", "0.5", "1.5", "-0.1", "1e-30", "1e30", "1e400", "nan", "inf", "-inf", "", " ", "true", "False",
    "None", "many", "1,2", "1,0", "a:1", "fsdp:0", "fsdp:-1", "fsdp:3", "nothing:2", "2147483647", "2147483648",
    "10000000000000000000000", "-5", "7", "0x10", "1_000", "../../etc/passwd", "/nowhere", "[1, 2]", "{}", "é", "1:2", "2:1",
    ":", "cosine", "grpo", "steer", "9" * 5000,
]  # fmt: skip
OBJECTS = [
    None, True, -1, 0, 1, 3, 2.5, -2.5, 1e300, float("nan"), float("inf"), 10**30, 2**31, "", "word", "/nowhere", b"x", (),
    (1,), (0,), ("a",), [2, "b"], (1.5,), {}, {"a": 1}, {"fsdp": "x"}, {"fsdp": 0}, {1: 2}, object, len, 1j, {1, 2},
]  # fmt: skip


def mutations(count, seed=0):
    """(name of the config, how it is given, key, value)"""
    draw = random.Random(seed)
    keys = sorted(FIELDS)
    for _ in range(count):
        name = draw.choice([*SHIPPED, *sorted(HERE)])
        kind = draw.choice(["word", "word", "object", "object", "unknown", "option"])
        key = draw.choice(keys)
        if kind == "unknown":
            cut = draw.randrange(len(key))
            key = draw.choice([key[:cut] + key[cut + 1 :], key + "s", key.upper(), "x" + key, "recipe.", ""])
        if kind == "option":
            key = f"recipe.{draw.choice(RECIPE_OPTIONS)}"
        yield name, kind, key, draw.choice(OBJECTS if kind == "object" else VALUES)


def words(folder, name, kind, key, value):
    """The command line of a mutation; one that no word can express goes through a config file of its own."""
    small = {k: v for k, v in SMALL.items() if k != key}
    path = folder / f"{name}.py"
    change = f"dataclasses.replace(config, **{{{key!r}: VALUE}})" if kind == "object" else "config"
    path.write_text(
        "import dataclasses\nfrom pathlib import Path\nimport entjax as ej\nfrom tests.faults.fuzz import SMALL, shrunk\n\n"
        f"def get_config():\n    config = shrunk({name!r}, {sorted(small)!r})\n    return {change}\n"
    )
    return path, ([f"{key}={value}"] if kind != "object" else [])


def shrunk(name, keys):
    """A shipped config, small; what is not in the repository is put in the place of a checkpoint and its data."""
    config = load_config(shipped_configs() / f"{name}.py")
    there = {
        "task": ej.tasks.countdown(numbers=3),
        "eval_task": None,
        "model": ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=64),
        "model_options": {},
        "mesh": {},
        "sampler_sharding": None,
    }
    there = {} if name in HERE else there
    return dataclasses.replace(config, **there, **{k: SMALL[k] for k in keys})


def attempt(folder, mutation, run):
    """(outcome, what was said): "ran", "refused", or what is wrong with how it ended."""
    name, kind, key, value = mutation
    path, override = words(folder, *mutation)
    path.write_text(path.read_text().replace("VALUE", f"OBJECTS[{OBJECTS.index(value) if kind == 'object' else 0}]")
                    .replace("import SMALL", "import OBJECTS, SMALL"))  # fmt: skip
    said = io.StringIO()
    started, real = time.process_time(), training.train

    def only_build(config, workdir, **_):
        setup.build(config).close()
        return {"before": {}, "after": {}, "step": 1}

    def one_step(config, workdir, **options):
        few = {"steps": min(config.steps, 1), "sft_steps": min(config.sft_steps, 1)}
        return real(dataclasses.replace(config, **few), workdir, **options)

    training.train = one_step if run else only_build
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(
                ["train", str(path), *override, "--workdir", str(folder / f"run{time.monotonic_ns()}")]
            )
    except SystemExit as error:
        code = error.code
    except Exception as error:
        return f"raw {type(error).__name__}", str(error)[:300]
    finally:
        training.train = real
    text, seconds = said.getvalue().strip(), time.process_time() - started
    if code == 0:
        return "accepted", f"{seconds:.1f} s"
    last = text.split("entjax: ")[-1]
    names = [
        key.removeprefix("recipe."),
        *(["model", "holds no", "not a folder", "Fetch", "Convert", "Download"] if name not in HERE else []),
    ]
    if "not finite" in last:
        return "ran, then stopped with advice", last
    if not any(n in last for n in names):
        return "does not name its key", last[:300]
    if seconds > 60:
        return "slow", f"{seconds:.1f} s"
    return "refused", last


def study(count, *, run, seed=0, only=lambda mutation: True):
    """Outcome -> the mutations and what was said."""
    found = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for mutation in filter(only, mutations(count, seed)):
            outcome, said = attempt(Path(folder), mutation, run)
            found[outcome].append((mutation, said))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", action="store_true")
    options = parser.parse_args()
    found = study(options.count, run=options.run, seed=options.seed)
    for outcome, cases in sorted(found.items()):
        if outcome not in ("accepted", "refused"):
            for mutation, said in cases:
                print(outcome, repr(mutation)[:150], "->", said)
    print(json.dumps({outcome: len(cases) for outcome, cases in sorted(found.items())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
