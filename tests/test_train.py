"""A run from end to end on the tiny model: its directory, its metrics, exact resume, and what bad input gets."""

import dataclasses
import gc
import json
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest

import entjax as ej
from entjax import cli
from entjax.checkpoint import CheckpointFault
from entjax.config import ConfigError
from entjax.log import read_lines
from entjax.plots import dashboard
from entjax.preemption import Preempted
from entjax.rundir import RunDirectoryError
from entjax.tasks.scoring import VerifierError
from entjax.train import train
from tests.records import untimed


def config(**changes):
    base = dict(  # noqa: C408
        task=ej.tasks.countdown(numbers=2, split="train"),
        eval_task=ej.tasks.countdown(numbers=2, split="eval"),
        model=ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=64),
        recipe="entropy_bonus",
        steps=4, prompts=4, samples=4, minibatches=2, max_new_tokens=9, lr=1e-3,
        sft_steps=8, sft_batch=16, eval_every=2, eval_prompts=4, eval_samples=4, eval_k=(1, 4), save_every=1, keep=3,
    )  # fmt: skip
    return ej.Config(**{**base, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run left alone."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    result = train(config(), workdir)
    return workdir, result


def test_run_directory(finished):
    workdir, result = finished
    records = read_lines(workdir / "metrics.jsonl")
    assert [r["step"] for r in records] == [0, 1, 2, 3, 4, 4]
    assert {"reward/mean", "entropy/mean", "grad_norm", "kl/old", "clip/low", "clip/high", "ratio/max", "length/mean",
            "length/truncated", "groups/no_signal", "mismatch/mean", "tokens/rollout_per_second",
            "tokens/update_per_second", "verifier/verified"} <= records[1].keys()  # fmt: skip
    assert {"eval/pass@1", "eval/pass@4", "eval/avg@4", "eval/maj@4"} <= result["after"].keys()
    assert (workdir / "plots" / "dashboard.png").stat().st_size > 10_000
    samples = read_lines(workdir / "samples.jsonl")
    assert len(samples) == 16 and samples[0].keys() == {"step", "prompt", "text", "reward", "group"}


def test_sampler_and_trainer_agree(finished):
    for record in read_lines(finished[0] / "metrics.jsonl")[1:5]:
        assert record["mismatch/max"] < 1e-5
        assert abs(record["entropy/rollout"] - record["entropy/mean"]) < 0.2


def test_the_temperature_of_an_evaluation(finished, tmp_path):
    """Near 0 all answers to a prompt are one answer, without entropy."""
    hot = finished[1]["before"]
    cold = train(config(steps=0, eval_temperature=1e-4), tmp_path / "run")["before"]
    assert cold["eval/entropy"] < 0.01 < 0.3 < hot["eval/entropy"]
    assert cold["eval/pass@1"] == cold["eval/pass@4"]


def test_resume_is_exact(finished, tmp_path):
    """Two steps, then two more in another process's place: the same metrics, samples and weights as four steps."""
    alone, result = finished
    train(config(steps=2), tmp_path / "run")
    again = train(config(), tmp_path / "run", resume=True)
    assert again["after"] == result["after"] and again["before"] == result["before"]
    mine = [r for r in untimed(read_lines(tmp_path / "run" / "metrics.jsonl")) if "reward/mean" in r]
    theirs = [r for r in untimed(read_lines(alone / "metrics.jsonl")) if "reward/mean" in r]
    strip = lambda rs: [{k: v for k, v in r.items() if not k.startswith("eval/")} for r in rs]
    assert strip(mine) == strip(theirs)
    assert read_lines(tmp_path / "run" / "samples.jsonl") == read_lines(alone / "samples.jsonl")
    written = (
        tmp_path / "run" / "metrics.jsonl"
    ).read_bytes()  # a run that has finished has nothing left to do
    assert train(config(), tmp_path / "run", resume=True)["after"] == result["after"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == written


def test_sigterm_saves_and_resume_goes_on(finished, tmp_path):
    alone, result = finished

    def end_after_step_one():
        while (
            len(
                read_lines(tmp_path / "run" / "metrics.jsonl")
                if (tmp_path / "run" / "metrics.jsonl").exists()
                else []
            )
            < 2
        ):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=end_after_step_one)
    watcher.start()
    with pytest.raises(Preempted):
        train(config(save_every=100), tmp_path / "run")
    watcher.join()
    assert train(config(save_every=100), tmp_path / "run", resume=True)["after"] == result["after"]
    assert untimed(read_lines(tmp_path / "run" / "metrics.jsonl")) == untimed(
        read_lines(alone / "metrics.jsonl")
    )


def test_sigterm_saves_while_a_verifier_of_this_process_hangs_but_only_its_end_ends_the_run(tmp_path):
    hangs, goes_on, saved = threading.Event(), threading.Event(), []
    run = tmp_path / "run"

    def verify(example, text):
        if len(read_lines(run / "metrics.jsonl")) > 1:
            hangs.set()
            goes_on.wait(60)
        return float("1" in text)

    def end_what_hangs():
        hangs.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not (run / "checkpoints" / "step_00000001").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        saved.append(time.monotonic() < deadline)
        goes_on.set()

    task = config().task._replace(verify=verify)
    watcher = threading.Thread(target=end_what_hangs)
    watcher.start()
    with pytest.raises(Preempted):
        train(config(task=task, eval_task=None, sft_steps=0, eval_every=0, save_every=100), run)
    watcher.join()
    assert saved == [True]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Orbax's threads outlive its own error
def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path, capsys):
    train(config(steps=2), tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 100 and "d" in path.parts[-2]:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = train(config(), tmp_path / "run", resume=True)
    assert "is passed over" in capsys.readouterr().err
    assert result["after"] == finished[1]["after"]


def test_a_run_without_a_checkpoint_begins_anew_with_the_config_it_is_given(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    with pytest.raises(CheckpointFault, match="its checkpoints are gone"):  # and its lines would be as well
        train(config(steps=1, save_every=1, eval_every=0), tmp_path / "run", resume=True)
    lines = tmp_path / "run" / "metrics.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:2]))
    train(config(steps=1, lr=2e-3, eval_every=0), tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["lr"] == 2e-3
    steps = [r["step"] for r in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps[0] == 0 and max(steps) == 1


def test_pictures_leave_a_notebooks_way_of_showing_them_alone(finished, tmp_path):
    import matplotlib
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        assert dashboard([finished[0], finished[0]], tmp_path / "two.png", ["a", "b"]).stat().st_size > 10_000
        assert matplotlib.get_backend() == "svg" and plt.get_fignums() == []
    finally:
        matplotlib.use(before)


def test_workdirs_that_cannot_be_used(finished, tmp_path):
    alone, _ = finished
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        train(config(), alone)
    with pytest.raises(ConfigError, match=r"another config \(other lr\): resume"):
        train(config(lr=2e-3, steps=5), alone, resume=True)
    with pytest.raises(ConfigError, match="has done 4 steps, and steps=2"):
        train(config(steps=2), alone, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        train(config(), tmp_path / "file" / "run")


def test_a_failing_reward_is_zero_and_counted_and_told_once(tmp_path, capsys):
    def verify(example, text):
        if sum(map(ord, text)) % 3 == 0:
            raise RuntimeError("broken")
        return [0.0, float("nan")][sum(map(ord, text)) % 3 - 1]

    task = config().task._replace(verify=verify)
    result = train(config(task=task, eval_task=None, steps=1, sft_steps=0), tmp_path / "run")
    record = read_lines(tmp_path / "run" / "metrics.jsonl")[1]
    failed = record["verifier/raised"] + record["verifier/nan"]
    assert record["reward/mean"] == 0.0 and failed == 16 - record["verifier/verified"] > 0
    assert result["step"] == 1 and 0 < result["after"]["eval/verifier_failed"] < 1
    assert capsys.readouterr().err.count("answers got no verdict") == 1


@pytest.mark.parametrize(("where", "held_out"), [("first evaluation", True), ("first training batch", False)])
def test_a_verifier_that_judges_nothing_ends_the_run(tmp_path, where, held_out):
    broken = config().task._replace(verify=lambda example, text: -1.0)
    tasks = {"task": broken, "eval_task": broken if held_out else config().eval_task}
    with pytest.raises(
        VerifierError, match=rf"The {where} .* out of range\).*raw\(baseline=0\.5, scale=2\.0\)"
    ):
        train(config(**tasks, steps=1, sft_steps=0), tmp_path / "run")
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == (0 if held_out else 1)


def test_updates_that_are_not_finite_stop_the_run_with_advice(tmp_path):
    bad = ej.Objective(
        ej.stateless("bad", lambda s, c: s.replace(advantage=s.advantage * np.nan), writes={"advantage"})
    )
    with pytest.raises(FloatingPointError, match="Lower lr"):
        train(config(objective=bad, sft_steps=0, stop_after_skips=2), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"steps": 1.5}, "whole number"),
        ({"minibatches": 5}, "cannot be split"),
        ({"eval_k": (8,)}, "eval_k"),
        ({"task": "countdown"}, "expected a Task"),
        ({"max_new_tokens": 64}, "context"),
        ({"lr_decay": "cubic"}, "lr_decay"),
        ({"profile": "3"}, "FIRST:LAST"),
        ({"temperature": float("nan")}, "temperature"),
        ({"model_options": {"lora": 4}}, "model.replace"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        config(**change)


def test_overrides():
    made = config().override({"model.lora": "2", "model.int8": "true", "model.dtype": "bfloat16"}).model
    assert (made.lora, made.int8, made.dtype.name) == (2, True, "bfloat16")
    folder = config().override({"model": "FOLDER", "model.lora": "2", "model.adapter": "a/b"})
    assert (folder.model, folder.model_options) == ("FOLDER", {"lora": 2, "adapter": "a/b"})
    both = (
        config().override({"model": "F", "model_options": {"remat": "full"}, "model.lora": 2}).model_options
    )
    assert both == {"remat": "full", "lora": 2}
    for key, message in (
        ("model.layer", "no such field"),
        ("model.adapter", "beside the model of a folder"),
        ("model.lora", "rank of the"),
    ):
        with pytest.raises(ConfigError, match=message):
            config().override({key: "-1"})
    with pytest.raises(ConfigError, match="a decoder has no field layer"):
        config().override({"model": "FOLDER", "model.layer": "3"})
    c = config().override({"lr": "3e-4", "eval_k": "1,2", "recipe.coef": "0.5", "recipe": "entropy_bonus"})
    assert (c.lr, c.eval_k, c.recipe_options) == (3e-4, (1, 2), {"coef": 0.5})
    assert dataclasses.replace(c, steps=9).identity() == c.identity() != config().identity()
    with pytest.raises(ConfigError, match="did you mean 'prompts'"):
        config().override({"promts": "3"})
    with pytest.raises(ConfigError, match="did you mean 'steer'"):
        ej.setup.build(config(recipe="ster"))
    with pytest.raises(ConfigError, match="such as fsdp:4"):
        config().override({"mesh": "foo"})
    with pytest.raises(ConfigError, match="coef=nan is no number"):
        ej.setup.build(config(recipe="entropy_bonus").override({"recipe.coef": "nan"}))
    with pytest.raises(ConfigError, match="has no option alfa"):
        ej.setup.build(config(recipe_options={"alfa": 1}))


def test_vocabulary_must_fit():
    with pytest.raises(ConfigError, match="vocab=19"):
        ej.setup.build(config(model=ej.models.tiny(vocab=12, width=16, layers=1, heads=2, context=64)))


def test_checkpoint_of_another_model(finished, tmp_path):
    from entjax.checkpoint import Checkpoints

    parts = ej.setup.build(config(model=ej.models.tiny(vocab=19, width=32, layers=1, heads=2, context=64)))
    checkpoints = Checkpoints(finished[0] / "checkpoints")
    with pytest.raises(CheckpointFault, match="sizes differ"):
        checkpoints.restore(4, parts.fresh_state())
    checkpoints.close()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{}, {"fsdp": 8}])
def test_weights_are_held_three_times_and_no_more(tmp_path, monkeypatch, mesh):
    """Weights and two moments: in a step of a new run, while a checkpoint is read, and in a step after that."""
    from entjax import checkpoint
    from entjax import train as loop

    model = ej.models.tiny(vocab=19, width=24, layers=1, heads=2, context=64)
    c = config(
        model=model, mesh=mesh, prompts=8, minibatches=1, sft_steps=2, eval_every=0, save_every=2, steps=1
    )
    seen: dict[str, list[int]] = {"step": [], "restore": []}

    def held():
        gc.collect()
        return sum(x.shape == (19, 24) for x in jax.live_arrays())

    before = held()

    def watch(module, name, where):
        function = getattr(module, name)
        look = lambda *given: (seen[where].append(held() - before), function(*given))[1]
        monkeypatch.setattr(module, name, look)

    watch(loop, "harvest_metrics", "step")
    train(c, tmp_path)
    watch(checkpoint, "fingerprints", "restore")
    monkeypatch.setattr(checkpoint.Checkpoints, "save", lambda *given, **how: None)
    train(dataclasses.replace(c, steps=2), tmp_path, resume=True)
    assert seen == {"step": [3, 3], "restore": [3]}


def test_a_run_is_looked_at_without_a_mesh_that_does_not_fit(tmp_path, capsys):
    """The rules of its sampler go with the mesh."""
    run, rules = tmp_path / "run", "ej.sharding.ShardingRules().without('fsdp')"
    (tmp_path / "small.py").write_text(CONFIG_FILE.replace("samples=2,", "samples=4,"))
    assert cli.main(["train", str(tmp_path / "small.py"), "--workdir", str(run)]) == 0
    as_run = (run / "config.py").read_text()
    for mesh, words in (("8", ["mesh="]), ("32", [])):
        there = f"lr=1e-3, mesh={{'fsdp': {mesh}}}, sampler_sharding={rules}"
        (run / "config.py").write_text(as_run.replace("lr=1e-3", there))
        capsys.readouterr()
        assert cli.main(["export", str(run), str(tmp_path / mesh), *words]) == 0
        assert ("Going on without a mesh" in capsys.readouterr().err) == (not words)
    assert (tmp_path / "8/model.safetensors").read_bytes() == (tmp_path / "32/model.safetensors").read_bytes()
    flags = ["--prompts", "2", "--samples", "2", "--updates", "0"]
    for command in (
        ["eval", str(run), "eval_samples=4"],
        ["sample", str(run)],
        ["analyze", str(run), *flags],
    ):
        assert cli.main(command) == 0
        assert capsys.readouterr().err.count("mesh=fsdp:32 is for 32 devices, but there are 8") == 1
    assert "Not made" not in (run / "analysis" / "report.md").read_text()


@pytest.mark.parametrize(
    "command", [["eval"], ["export", "run"], ["plot"], ["analyze"], ["replay"], ["train"]]
)
def test_buckets_are_refused_where_a_path_is_needed(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*command, "gs://bucket/run"])
    assert "copied here first" in capsys.readouterr().err


CONFIG_FILE = """
import entjax as ej

def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=2), model=ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=64),
        steps=1, prompts=2, samples=2, max_new_tokens=9, eval_prompts=2, eval_samples=2, eval_k=(1,), lr=1e-3)
"""


@pytest.mark.parametrize("name", ["quickstart.py", "configs/quickstart.py"])
def test_a_shipped_config_is_found_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    seen = {}
    told = {"before": {}, "after": {}}
    monkeypatch.setattr("entjax.train.train", lambda config, workdir, **how: seen.update(how) or told)
    assert cli.main(["train", name, "steps=3"]) == 0
    (tmp_path / "as_run.py").write_text(seen["source"])
    assert ej.config.load_config("as_run.py").steps == 3


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(CONFIG_FILE)
    assert cli.main(["train", "small.py", "steps=2", "lr=1e-4"]) == 0
    assert "before" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/small/config.json").read_text())["steps"] == 2
    for command in (["eval", "runs/small"], ["plot", "runs/small"], ["sample", "runs/small", "--prompts", "1"],
                    ["export", "runs/small", "exported"], ["train", "small.py", "model=exported", "steps=0", "--workdir", "next"],
                    ["export", "next", "again"], ["methods"], ["methods", "grpo"]):  # fmt: skip
        assert cli.main(command) == 0, command
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("exported", "again"))
    assert first == second
    capsys.readouterr()
    elsewhere = ["export", "runs/small", "elsewhere"]
    assert cli.main([*elsewhere, "mesh=fsdp:32"]) == 2
    assert "mesh=fsdp:32 is for 32 devices" in capsys.readouterr().err
    assert cli.main(["train", "small.py", "stepz=2"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert cli.main(["train", "nothing.py"]) == 2
    assert cli.main(["eval", "nowhere"]) == 2
    assert cli.main(["train", "small.py", "--resume"]) == 2
