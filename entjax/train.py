"""The training loop, top to bottom: warm start -> (rollout -> score -> step -> log -> save)* -> evaluation.

A run directory holds config.py (as run), metrics.jsonl, samples.jsonl, checkpoints/ and plots/. The only state that goes
round is TrainState, the position in the stream of prompts and what a strategy remembers; all are in every checkpoint, with
the lengths of the logs.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from entjax import distributed, faults, setup, sft
from entjax.batch import Ahead, Batch, make_batch
from entjax.bucket import Place, place_of
from entjax.checkpoint import CheckpointFault, Checkpoints
from entjax.config import Config, ConfigError
from entjax.evaluate import evaluate_run
from entjax.fingerprint import versions
from entjax.log import Lines, Nowhere, Progress, TensorBoard, read_lines
from entjax.plots import dashboard
from entjax.preemption import Notice, Preempted
from entjax.profile import Profile
from entjax.rollouts import Harvest
from entjax.rollouts.memory import pack, unpack
from entjax.room import WHOLE
from entjax.rundir import RunDirectory
from entjax.setup import Parts
from entjax.step import TrainState
from entjax.tasks.scoring import Watch
from entjax.types import Rollout
from entjax.warmup import solutions, warm_up


def train(
    config: Config, workdir: str | Path, *, resume: bool = False, source: str | None = None
) -> dict[str, Any]:
    """Run `config` in `workdir`; with `resume`, go on where the run directory's last checkpoint stands.

    Returns {"before": eval metrics, "after": eval metrics, "step": steps done}. Raises Preempted after a clean save when
    SIGTERM comes.
    """
    if config.lag and distributed.started():
        raise ConfigError(
            f"lag={config.lag} lets one process sample while it updates; with several processes set lag=0."
        )
    distributed.agree(config.describe() | versions())
    files = {"config.json": json.dumps(config.describe(), indent=1)} | (
        {} if source is None else {"config.py": source}
    )
    with contextlib.closing(setup.build(config)) as parts:
        place = place_of(workdir)
        directory = RunDirectory(place.local, resume=resume, files=files, fill=place.pull)
        with distributed.leading(directory) as run, Notice() as notice:
            return Loop(parts, run, notice, place).go()


def _steps_told(path: Path) -> int:
    lines = path / "metrics.jsonl"
    return max((line.get("step", 0) for line in read_lines(lines)), default=0) if lines.is_file() else 0


def _differing(path: Path, config: Config) -> str:
    """(other lr, seed): the keys in which a config is not that of the run, which it left beside its logs."""
    try:
        told = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return ""
    now = json.loads(json.dumps(config.lasting()))
    keys = [key for key, value in now.items() if told.get(key) != value]
    return f" (other {', '.join(keys)})" if keys else ""


class Loop:
    """The mutable side of a run: its state, its logs, its checkpoints."""

    def __init__(self, parts: Parts, run: RunDirectory, notice: Notice, place: Place):
        self.parts, self.config, self.run, self.notice, self.place = parts, parts.config, run, notice, place
        self.checkpoints = Checkpoints(place.checkpoints, keep=self.config.keep)
        self.identity = parts.config.identity()
        self.state, host = self._restore() if run.resumed else (None, {})
        if run.resumed and self.state is None and _steps_told(run.path) > 2 * self.config.save_every:
            raise CheckpointFault(
                f"{run.path} tells of finished steps, but its checkpoints are gone: begin anew in another --workdir."
            )
        if host and int(host["step"]) > self.config.steps:
            raise ConfigError(
                f"{run.path} has done {host['step']} steps, and steps={self.config.steps}: set more to go on."
            )
        if run.resumed and distributed.first():
            run.write()  # with what was changed
        self.memory = unpack(host["memory"]) if host.get("memory") else dict(parts.strategy.start)
        parts.plan.bins = host.get("bins", 0)
        self.ahead = Ahead()
        self.before: dict[str, float] = host.get("before", {})
        self.after: dict[str, float] | None = host.get("after")  # once the last step has been evaluated
        self.bad_in_a_row = int(host.get("bad_in_a_row", 0))
        # The lines of a finished step that SIGTERM kept from its evaluation.
        self.unwritten: dict[str, Any] | None = host.get("unwritten")
        self.writes = distributed.first()
        self.watch = Watch(lambda told: print(f"\n{told}", file=sys.stderr) if self.writes else None)
        lines = lambda name, end: Lines(run.path / name, host.get(end, 0)) if self.writes else Nowhere()
        self.metrics = lines("metrics.jsonl", "metrics_bytes")
        self.samples = lines("samples.jsonl", "samples_bytes")
        self.saved = int(host["step"]) if host else None
        self.board = TensorBoard(run.path / "tensorboard", self.saved) if self.writes else Nowhere()

    def go(self) -> dict[str, Any]:
        """All steps that are left."""
        try:
            self.state = self._start() if self.state is None else self.state
            self._first_evaluation()
            self._write_step()
            progress = self._progress(self.config.steps, "step")
            with Profile(self.config.profile, self.run.path / "profile") as profile:
                for step in range(int(self.state.step), self.config.steps):
                    profile.at(step)
                    record = self._one(step)
                    progress.show(step + 1, brief(record))
            progress.close()
            return self._finish()
        except Preempted:
            if (
                not self.ahead.busy
            ):  # the batch of a policy that is gone cannot be made again: its run goes on from the last save
                self._save(wait=True)
            distributed.barrier("saved")  # no process may say "resume me" before all have saved
            what = "before the first step" if self.saved is None else f"after saving step {self.saved}"
            print(f"\nEnded by SIGTERM {what}; go on with --resume.", file=sys.stderr)
            raise
        finally:
            self.ahead.close()
            for log in (self.metrics, self.samples, self.board):
                log.close()
            self.checkpoints.close()

    def _start(self) -> TrainState:
        """The state of a new run: the model, warmed up if asked for."""
        c, parts = self.config, self.parts
        params = nnx.state(parts.model)
        if c.sft_steps:
            task = setup.training_task(c)
            known = task.size is not None and task.size <= WHOLE
            shown = map(task.example, range(task.size)) if known else parts.eval_examples
            longest = max(len(parts.encode(example)) for example in shown)
            length = longest + c.max_new_tokens
            progress = self._progress(c.sft_steps, "warm-up step")
            batch = solutions(task, parts.tokenizer, parts.encode, seed=c.seed, length=length)

            loss = c.sft_loss or sft.nll()

            def report(step, value):
                self.notice.check()
                progress.show(step, f"{loss.name} {value:.4f}")

            params = warm_up(
                parts.model,
                params,
                batch,
                steps=c.sft_steps,
                size=c.sft_batch,
                lr=c.sft_lr,
                chunk=c.chunk,
                report=report,
                loss=loss,
                teacher=None if parts.teacher is None else parts.teacher.model,
            )
            progress.close()
        return parts.fresh_state(params)

    def _first_evaluation(self) -> None:
        if not self.before:
            self.before = self._evaluate(0)
            self._log({"step": 0, **self.before})
            self._save()

    def _one(self, step: int) -> dict[str, Any]:
        """One rollout batch and its optimizer steps."""
        self.after = None
        c, parts, started = self.config, self.parts, time.perf_counter()
        ready = self.ahead.take()
        harvest, given, rollout, places, share, self.memory, rolling = ready or self._batch(step)
        self.watch.look(harvest.report, "training batch")
        beside = 0.0 if ready is None else rolling  # what the step did not wait for
        if c.lag and step + 1 < c.steps and (step + 1) % c.save_every:  # a save finds nothing half done
            self.ahead.start(parts, self.state, step + 1, self.memory)
        self.state, device_metrics = parts.step(self.state, rollout, places)
        values = {name: float(x) for name, x in jax.device_get(device_metrics).items()}
        updating = time.perf_counter() - started - (rolling - beside)
        self.ahead.wait()
        record = {
            "step": step + 1,
            **harvest_metrics(harvest),
            **values,
            **harvest.metrics,
            **harvest.report.metrics(),
        }
        tokens = int(harvest.completions.mask.sum())
        record |= {
            "time/rollout": rolling,
            "time/update": updating,
            "tokens/rollout_per_second": tokens / rolling,
            "tokens/update_per_second": tokens / updating,
            "tokens/real_share": share,
        }
        rows = np.linspace(0, len(harvest.texts) - 1, min(c.log_samples, len(harvest.texts))).astype(int)
        samples = [{"step": step + 1, "prompt": harvest.examples[row].prompt, "text": harvest.texts[row],
                    "reward": float(harvest.reward[row]), "group": int(harvest.completions.group[row])}
                   for row in rows]  # fmt: skip
        self.unwritten = {"record": record, "samples": samples}
        self.bad_in_a_row = self.bad_in_a_row + 1 if values["update/skipped"] else 0
        if self.bad_in_a_row:
            self._keep_batch(given, harvest)
        record = self._write_step() or record
        if (step + 1) % c.save_every == 0 and step + 1 < c.steps:
            self._save()
        self.notice.check()
        return record

    def _write_step(self) -> dict[str, Any] | None:
        """Evaluate if it is time, and write the lines of the last step; what SIGTERM breaks off here is done after a restart."""
        if self.unwritten is None:
            return None
        record, c = self.unwritten["record"], self.config
        if c.eval_every and record["step"] % c.eval_every == 0 and record["step"] < c.steps:
            record = record | self._evaluate(record["step"])
        self._log(record)
        for sample in self.unwritten["samples"]:
            self.samples.write(sample)
        self.unwritten = None
        self._check_skips()
        return record

    def _batch(self, step: int) -> Batch:
        """The batch of a step, by the policy as it is; SIGTERM breaks it off and leaves no trace."""
        position = self.parts.stream.state()
        try:
            with self.notice.at_once():
                return make_batch(self.parts, self.state, step, self.memory)
        except Preempted:
            self.parts.stream.restore(position)
            raise

    def _evaluate(self, step: int) -> dict[str, float]:
        """Metrics on the held-out prompts; the same random numbers at every evaluation. SIGTERM breaks it off."""
        with self.notice.at_once():
            return evaluate_run(self.parts, self.state.params, self.watch)

    def _finish(self) -> dict[str, Any]:
        if self.after is None:
            self.after = self._evaluate(self.config.steps)
            if self.config.steps:
                self._log({"step": self.config.steps, **self.after})
        self._save(wait=True)
        if self.writes:
            dashboard([self.run.path], self.run.path / "plots" / "dashboard.png")
            self.place.push()
        distributed.barrier("finished")
        return {"before": self.before, "after": self.after, "step": self.config.steps}

    def _progress(self, total: int, what: str) -> Progress | Nowhere:
        return Progress(total, what) if self.writes else Nowhere()

    def _log(self, record: Mapping[str, Any]) -> None:
        self.metrics.write(record)
        self.board.write(int(record["step"]), record)

    @property
    def _faults(self) -> Any:
        return self.place.checkpoints.parent / "faults"

    def _keep_batch(self, rollout: Rollout, harvest: Harvest) -> None:
        """Tell of an update that was not finite and keep its batch."""
        first = self.bad_in_a_row == 1
        told = faults.note(self._faults, self.parts, self.state, rollout, harvest, first=first)
        print(f"\n{told}", file=sys.stderr)

    def _check_skips(self) -> None:
        """Stop with advice after too many updates in a row that were not finite."""
        if self.bad_in_a_row >= self.config.stop_after_skips:
            raise FloatingPointError(
                f"{self.bad_in_a_row} steps in a row were not finite and were skipped; stop_after_skips="
                f"{self.config.stop_after_skips} ends the run. Lower lr ({self.config.lr}) or clip_gradient, or mend what "
                f"`entjax replay` names first; the batches are in {self._faults}."
            )

    def _save(self, *, wait: bool = False) -> None:
        if self.state is None:
            return
        step = int(self.state.step)
        if step == self.saved:
            return
        host = {
            "step": step,
            "identity": self.identity,
            "stream": self.parts.stream.state(),
            "before": self.before,
            "after": self.after,
            "bad_in_a_row": self.bad_in_a_row,
            "unwritten": self.unwritten,
            "memory": pack(self.memory),
            "bins": self.parts.plan.bins,
            "made_by": versions(),
            "metrics_bytes": self.metrics.position(),
            "samples_bytes": self.samples.position(),
        }
        if self.writes:
            self.place.push()
        self.checkpoints.save(step, self.state, host, refound=self.parts.refound, wait=wait)
        self.saved = step

    def _restore(self) -> tuple[TrainState | None, dict[str, Any]]:
        """The newest usable checkpoint; a damaged one is passed over loudly."""
        fault: Exception | None = None
        for step in reversed(self.checkpoints.steps()):
            try:
                host = self.checkpoints.host(step)
                if host["identity"] != self.identity:
                    raise ConfigError(
                        f"{self.run.path} holds a run of another config{_differing(self.run.path, self.config)}: resume it "
                        "with its own config.py, or start this one in another --workdir."
                    )
                state, error = self.parts.restore(self.checkpoints, step), None
            except ConfigError:
                raise
            except Exception as caught:
                error = caught
            if distributed.anywhere(error is not None):  # what one process cannot read no process uses
                fault = error or fault or CheckpointFault(f"another process cannot read step {step}")
                print(f"Checkpoint {step} is passed over: {fault}", file=sys.stderr)
                continue
            self.parts.stream.restore(host["stream"])
            for damaged in [other for other in self.checkpoints.steps() if other > step]:
                self.checkpoints.set_aside(damaged)
            if host.get("made_by", versions()) != versions():
                print(f"The checkpoint was made by {host['made_by']} and is read by {versions()}: the last digits may differ.",
                      file=sys.stderr)  # fmt: skip
            return state, host
        if self.checkpoints.steps():
            raise CheckpointFault(
                f"No checkpoint in {self.run.path} can be used; the last error was: {fault}"
            )
        return None, {}


def harvest_metrics(harvest: Harvest) -> dict[str, float]:
    """What can be said of a rollout batch before the trainer sees it."""
    c = harvest.completions
    lengths = c.mask.sum(1)
    by_group: dict[int, list[float]] = {}
    for group, reward in zip(c.group.tolist(), harvest.reward.tolist(), strict=True):
        by_group.setdefault(group, []).append(reward)
    return {
        "reward/mean": float(harvest.reward.mean()),
        "reward/std": float(harvest.reward.std()),
        "groups/no_signal": float(np.mean([len(set(r)) == 1 for r in by_group.values()])),
        "length/mean": float(lengths.mean()),
        "length/max": float(lengths.max()),
        "length/truncated": float(np.mean(~c.finished)),
        "entropy/rollout": float(c.entropy[c.mask].mean()) if c.mask.any() else 0.0,
    }


def brief(record: Mapping[str, Any]) -> str:
    """The few numbers of the progress line."""
    text = f"reward {record['reward/mean']:.3f}  entropy {record['entropy/mean']:.3f}  length {record['length/mean']:.1f}"
    return text + (f"  pass@1 {record['eval/pass@1']:.3f}" if "eval/pass@1" in record else "")
