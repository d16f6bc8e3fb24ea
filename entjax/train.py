"""The training loop, top to bottom: warm start -> (rollout -> score -> step -> log -> save)* -> evaluation.

A run directory holds config.py (as run), metrics.jsonl, samples.jsonl, checkpoints/ and plots/. The only state that goes
round is TrainState and the position in the stream of prompts; both are in every checkpoint, with the lengths of the logs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from entjax import distributed, packing, setup, sft
from entjax.ahead import Ahead, Batch, behaviour
from entjax.bucket import Place, place_of
from entjax.checkpoint import CheckpointFault, Checkpoints
from entjax.config import Config, ConfigError
from entjax.evaluate import evaluate
from entjax.log import Lines, Nowhere, Progress, TensorBoard
from entjax.packing import bucket, plain_share
from entjax.plots import dashboard
from entjax.preemption import Notice, Preempted
from entjax.profile import Profile
from entjax.rollouts import Harvest, to_rollout
from entjax.rollouts.inputs import add_inputs
from entjax.rollouts.memory import pack, unpack
from entjax.rundir import RunDirectory
from entjax.setup import Parts
from entjax.step import TrainState
from entjax.warmup import solutions, warm_up


def train(
    config: Config, workdir: str | Path, *, resume: bool = False, source: str | None = None
) -> dict[str, Any]:
    """Run `config` in `workdir`; with `resume`, go on where the run directory's last checkpoint stands.

    Returns {"before": eval metrics, "after": eval metrics, "step": steps done}. Raises Preempted after a clean save when
    SIGTERM comes.
    """
    parts = setup.build(config)
    files = {"config.json": json.dumps(config.describe(), indent=1)} | (
        {} if source is None else {"config.py": source}
    )
    place = place_of(workdir)
    if distributed.first():
        place.pull()
    directory = RunDirectory(place.local, resume=resume, files=files)
    with distributed.leading(directory) as run, Notice() as notice:
        try:
            return Loop(parts, run, notice, place).go()
        finally:
            parts.scorer.close()


class Loop:
    """The mutable side of a run: its state, its logs, its checkpoints."""

    def __init__(self, parts: Parts, run: RunDirectory, notice: Notice, place: Place):
        self.parts, self.config, self.run, self.notice, self.place = parts, parts.config, run, notice, place
        self.checkpoints = Checkpoints(place.checkpoints, keep=self.config.keep)
        self.state, host = self._restore() if run.resumed else (None, {})
        self.memory = unpack(host["memory"]) if host.get("memory") else dict(parts.strategy.start)
        if self.config.lag and distributed.started():
            raise ConfigError(
                "lag=1 overlaps the rollouts of one process with its updates: set lag=0 for several processes."
            )
        self.ahead = Ahead()
        self.before: dict[str, float] = host.get("before", {})
        self.bad_in_a_row = int(host.get("bad_in_a_row", 0))
        self.writes = distributed.first()
        lines = lambda name, end: Lines(run.path / name, host.get(end, 0)) if self.writes else Nowhere()
        self.metrics = lines("metrics.jsonl", "metrics_bytes")
        self.samples = lines("samples.jsonl", "samples_bytes")
        self.board = TensorBoard(run.path / "tensorboard") if self.writes else Nowhere()
        self.saved = int(host["step"]) if host else None

    def go(self) -> dict[str, Any]:
        """All steps that are left."""
        try:
            if self.state is None:
                self.state = self._start()
            progress = self._progress(self.config.steps, "step")
            with Profile(self.config.profile, self.run.path / "profile") as profile:
                for step in range(int(self.state.step), self.config.steps):
                    profile.at(step)
                    record = self._one(step)
                    progress.show(step + 1, brief(record))
            progress.close()
            return self._finish()
        except Preempted:
            self.ahead.drop()
            self._save(wait=True)
            distributed.barrier("saved")  # no process may say "resume me" before all have saved
            print(f"\nEnded by SIGTERM after saving step {int(self.state.step) if self.state else 0}; go on with --resume.",
                  file=sys.stderr)  # fmt: skip
            raise
        finally:
            self.ahead.close()
            self.checkpoints.close()
            self.metrics.close()
            self.samples.close()
            self.board.close()

    def _start(self) -> TrainState:
        """The state of a new run: the model, warmed up if asked for, and its first evaluation."""
        c, parts = self.config, self.parts
        state = parts.fresh_state()
        if c.sft_steps:
            length = max(len(parts.encode(e)) for e in parts.eval_examples) + c.max_new_tokens
            progress = self._progress(c.sft_steps, "warm-up step")
            batch = solutions(c.task, parts.tokenizer, seed=c.seed, length=length)

            loss = c.sft_loss or sft.nll()

            def report(step, value):
                self.notice.check()
                progress.show(step, f"{loss.name} {value:.4f}")

            params = warm_up(
                parts.model,
                state.params,
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
            state = parts.with_weights(state, params)
        self.state = state
        self.before = self._evaluate(0)
        self._log({"step": 0, **self.before})
        self._save()
        return self.state

    def _one(self, step: int) -> dict[str, Any]:
        """One rollout batch and its optimizer steps."""
        c, parts, started = self.config, self.parts, time.perf_counter()
        harvest, rollout, places, share = self.ahead.take() or self._batch(step)
        rolled = time.perf_counter()
        if c.lag and step + 1 < c.steps and (step + 1) % c.save_every:  # a save leaves nothing half done
            self.ahead.start(functools.partial(self._prepare, step + 1, behaviour(self.state)), self._undo())
        self.state, device_metrics = parts.step(self.state, rollout, places)
        values = {name: float(x) for name, x in jax.device_get(device_metrics).items()}
        done = time.perf_counter()
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
            "time/rollout": rolled - started,
            "time/update": done - rolled,
            "tokens/rollout_per_second": tokens / (rolled - started),
            "tokens/update_per_second": tokens / (done - rolled),
            "tokens/real_share": share,
        }
        self._watch(values, harvest)
        if c.eval_every and (step + 1) % c.eval_every == 0 and step + 1 < c.steps:
            record |= self._evaluate(step + 1, waits=True)  # or the record of a finished step would be lost
        self._log(record)
        for row in np.linspace(0, len(harvest.texts) - 1, min(c.log_samples, len(harvest.texts))).astype(int):
            self.samples.write({"step": step + 1, "prompt": harvest.examples[row].prompt, "text": harvest.texts[row],
                                "reward": float(harvest.reward[row]), "group": int(harvest.completions.group[row])})  # fmt: skip
        if (step + 1) % c.save_every == 0 and step + 1 < c.steps:
            self._save()
        self.notice.check()
        return record

    def _batch(self, step: int) -> Batch:
        """The batch of a step, by the policy as it is; SIGTERM breaks it off and leaves no trace."""
        undo = self._undo()
        try:
            with self.notice.at_once():
                return self._prepare(step, behaviour(self.state) if self.config.lag else self.state)
        except Preempted:
            undo()
            raise

    def _undo(self) -> Callable[[], None]:
        """Takes the stream of prompts and the memory back to where they are now."""
        position, memory = self.parts.stream.state(), self.memory

        def undo() -> None:
            self.parts.stream.restore(position)
            self.memory = memory

        return undo

    def _prepare(self, step: int, state: TrainState) -> Batch:
        """Sampled, verified, laid out and scored by the policy of `state`."""
        parts, c = self.parts, self.config
        with jax.profiler.TraceAnnotation("rollout"):
            harvest = self._collect(step, state)
        length = bucket(int(harvest.completions.length.max()))
        rollout = to_rollout(harvest, rows=c.rows, length=length, temperature=self._temperature(state))
        places = parts.plan(rollout)
        share = plain_share(rollout) if places is None else packing.share(places)
        return Batch(harvest, parts.score(state, rollout, places), places, share)

    def _collect(self, step: int, state: TrainState) -> Harvest:
        tools = self.parts.tools(
            state.params, step, temperature=self._temperature(state), knobs=self._knobs(state)
        )
        examples = distributed.examples(self.parts.stream.next())
        harvest, memory = self.parts.strategy.collect(tools, examples, step, self._knobs(state), self.memory)
        harvest = add_inputs(harvest, self.parts.objective.needs, tools, self.config.task)
        self.memory = memory  # last: a rollout that SIGTERM breaks off leaves no trace
        return harvest

    def _knobs(self, state: TrainState) -> dict[str, float]:
        """The scalars that transforms have set for the rollout; what nobody has set yet is not there."""
        knobs = {name: float(x) for name, x in jax.device_get(state.knobs).items()}
        return {name: value for name, value in knobs.items() if value == value}

    def _temperature(self, state: TrainState) -> float:
        return self._knobs(state).get("temperature", self.config.temperature)

    def _evaluate(self, step: int, *, waits: bool = False) -> dict[str, float]:
        """Metrics on the held-out prompts; the same random numbers at every evaluation. SIGTERM breaks it off, or `waits`."""
        tools = self.parts.tools(
            self.state.params, 0, samples=self.config.eval_samples, temperature=1.0, held_out=True
        )
        with contextlib.nullcontext() if waits else self.notice.at_once():
            sample = self.parts.strategy.sample
            return evaluate(
                tools, self.parts.eval_examples, self.config.eval_k, self.config.task.canonical, sample
            )

    def _finish(self) -> dict[str, Any]:
        after = self._evaluate(self.config.steps)
        if self.config.steps:
            self._log({"step": self.config.steps, **after})
        self._save(wait=True)
        if self.writes:
            dashboard([self.run.path], self.run.path / "plots" / "dashboard.png")
            self.place.push()
        distributed.barrier("finished")
        return {"before": self.before, "after": after, "step": self.config.steps}

    def _progress(self, total: int, what: str) -> Progress | Nowhere:
        return Progress(total, what) if self.writes else Nowhere()

    def _log(self, record: Mapping[str, Any]) -> None:
        self.metrics.write(record)
        self.board.write(int(record["step"]), record)

    def _watch(self, values: Mapping[str, float], harvest: Harvest) -> None:
        """Count updates that were skipped; stop with advice after too many in a row."""
        if not values["update/skipped"]:
            self.bad_in_a_row = 0
            return
        self.bad_in_a_row += 1
        if self.bad_in_a_row >= self.config.stop_after_skips:
            raise FloatingPointError(
                f"{self.bad_in_a_row} updates in a row were not finite and were skipped. Lower lr ({self.config.lr}) or raise "
                f"clipping; a reward or a coefficient may be infinite (see the last lines of {self.run.path / 'metrics.jsonl'})."
            )

    def _save(self, *, wait: bool = False) -> None:
        if self.state is None:
            return
        step = int(self.state.step)
        if step == self.saved:
            return
        host = {
            "step": step,
            "identity": self.config.identity(),
            "stream": self.parts.stream.state(),
            "before": self.before,
            "bad_in_a_row": self.bad_in_a_row,
            "memory": pack(self.memory),
            "metrics_bytes": self.metrics.position(),
            "samples_bytes": self.samples.position(),
        }
        if self.writes:
            self.place.push()
        self.checkpoints.save(step, self.state, host, wait=wait)
        self.saved = step

    def _restore(self) -> tuple[TrainState | None, dict[str, Any]]:
        """The newest usable checkpoint; a damaged one is passed over loudly."""
        fault: Exception | None = None
        for step in reversed(self.checkpoints.steps()):
            try:
                host = self.checkpoints.host(step)
                if host["identity"] != self.config.identity():
                    raise ConfigError(
                        f"{self.run.path} holds a run of another config: resume it with its own config.py, or start this one "
                        "in another --workdir."
                    )
                state, error = self.checkpoints.restore(step, self.parts.like()), None
            except ConfigError:
                raise
            except Exception as caught:
                error = caught
            if distributed.anywhere(error is not None):  # what one process cannot read no process uses
                fault = error or fault or CheckpointFault(f"another process cannot read step {step}")
                print(f"Checkpoint {step} is passed over: {fault}", file=sys.stderr)
                continue
            self.parts.stream.restore(host["stream"])
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
