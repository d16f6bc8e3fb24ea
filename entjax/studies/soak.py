"""A long run watched from outside: does it keep its memory, its files, its speed and its entropy?

    python -m entjax.studies.soak [--minutes 40] [--workdir runs/soak] [--docs docs]        Linux, two cores or one

starts the quickstart's model and task as an ordinary `entjax train`, reads /proc every few seconds, ends it by SIGTERM (so a
clean exit is part of it) and writes docs/soak.json and docs/images/soak.png. Throughput is also counted per second of
processor time, because on a shared machine the clock measures the neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from entjax.plots import panels

TARGET = 0.18
CONFIG = """
import entjax as ej

def get_config():
    return ej.config.load_config(ej.config.shipped_configs() / "quickstart.py").override(
        {{"steps": 1_000_000, "eval_every": 200, "save_every": 20, "recipe.target": {target}}})
"""
TICKS = os.sysconf("SC_CLK_TCK")
MB = 2**20


class Sample(NamedTuple):
    """What /proc and the logs say at one moment; `rss` and `cpu` with all children."""

    seconds: float
    rss: float  # MB
    cpu: float  # seconds of processor time so far
    files: int  # open file descriptors
    threads: int
    steps: int
    tokens: float


class Log:
    """Counts steps and sampled tokens in a metrics.jsonl that is being written."""

    def __init__(self, path: Path):
        self._path, self._read, self.steps, self.tokens = path, 0, 0, 0.0

    def look(self) -> tuple[int, float]:
        """(steps, tokens) so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                record = json.loads(line)
                if "time/rollout" in record:
                    self.steps = record["step"]
                    self.tokens += record["time/rollout"] * record["tokens/rollout_per_second"]
        return self.steps, self.tokens


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # it has ended meanwhile
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def look(pid: int, started: float, log: Log) -> Sample:
    """One sample of a running process."""
    page = os.sysconf("SC_PAGE_SIZE")
    rss = cpu = files = threads = 0.0
    for one in family(pid):
        folder = Path(f"/proc/{one}")
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            files += len(os.listdir(folder / "fd"))
        except OSError:
            continue
        rss += int(fields[21]) * page / MB
        cpu += sum(map(int, fields[11:15])) / TICKS  # of children that have ended, too
        threads += int(fields[17])
    return Sample(time.monotonic() - started, rss, cpu, int(files), int(threads), *log.look())


def watch(workdir: Path, minutes: float, every: float) -> tuple[list[Sample], int, float]:
    """(samples, exit code, seconds from SIGTERM to the end) of a run that is left alone for so long."""
    workdir.mkdir(parents=True)
    (workdir / "soak_config.py").write_text(CONFIG.format(target=TARGET))
    words = ["train", str(workdir / "soak_config.py"), "--workdir", str(workdir / "run")]
    log, samples = Log(workdir / "run" / "metrics.jsonl"), []
    with (workdir / "output.txt").open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "entjax", *words], stdout=output, stderr=output)
        started = time.monotonic()
        while time.monotonic() - started < 60 * minutes and process.poll() is None:
            time.sleep(every)
            samples.append(look(process.pid, started, log))
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=600)
    return samples, code, time.monotonic() - asked


def summary(samples: Sequence[Sample], entropy: np.ndarray, code: int, stop: float) -> dict[str, Any]:
    """The figures: the first quarter is warm-up; the rest is compared, its first third with its last. Memory goes up and down
    within a step, so a median also tells how long each part of a step took: the floor and the peak do not."""
    t = np.array(samples, np.float64)
    calm = t[t[:, 0] > t[-1, 0] / 4]
    third = max(1, len(calm) // 3)
    first, last = calm[:third], calm[-third:]
    rate = lambda part, over: float((part[-1, 6] - part[0, 6]) / (part[-1, over] - part[0, over]))
    late = entropy[len(entropy) // 4 :]
    return {
        "minutes": t[-1, 0] / 60,
        "steps": int(t[-1, 5]),
        "tokens": int(t[-1, 6]),
        "exit_code": code,
        "seconds_from_sigterm_to_exit": stop,
        "rss_mb": {name: compare(*(float(np.percentile(part[:, 1], q)) for part in (first, last)))
                   for name, q in (("floor", 10), ("median", 50), ("peak", 100))},
        "files": {"after_warm_up": int(np.median(first[:, 3])), "at_the_end": int(np.median(last[:, 3]))},
        "threads": {"after_warm_up": int(np.median(first[:, 4])), "at_the_end": int(np.median(last[:, 4]))},
        "tokens_per_cpu_second": {"first_third": rate(first, 2), "last_third": rate(last, 2)},
        "tokens_per_second": {"first_third": rate(first, 0), "last_third": rate(last, 0)},
        "entropy": {"target": TARGET, "mean": float(late.mean()), "std": float(late.std()),
                    "within_10_percent": float(np.mean(np.abs(late / TARGET - 1) < 0.1)),
                    "mean_of_last_100": float(late[-100:].mean())},
    }  # fmt: skip


def compare(first: float, last: float) -> dict[str, float]:
    """Two figures and the growth from one to the other."""
    return {"first_third": first, "last_third": last, "growth": last / first - 1}


def picture(samples: Sequence[Sample], entropy: np.ndarray, path: Path) -> None:
    """Memory, files, throughput and entropy over the minutes."""
    t = np.array(samples, np.float64)
    minutes, span = t[:, 0] / 60, max(1, len(t) // 40)
    figure, axes = panels(2, 2, size=(9, 5))
    axes[0, 0].plot(minutes, t[:, 1])
    axes[0, 0].set(title="resident memory, MB", ylim=(0, 1.15 * t[:, 1].max()))
    axes[0, 1].plot(minutes, t[:, 3], label="open files")
    axes[0, 1].plot(minutes, t[:, 4], label="threads")
    axes[0, 1].set(title="open files and threads", ylim=(0, None))
    axes[0, 1].legend()
    for over, name in ((0, "a second"), (2, "a second of processor time")):
        rates = (t[span:, 6] - t[:-span, 6]) / np.maximum(t[span:, over] - t[:-span, over], 1e-9)
        axes[1, 0].plot(minutes[span:], rates, label=name)
    axes[1, 0].set(title="sampled tokens (whole step)", xlabel="minutes", ylim=(0, None))
    axes[1, 0].legend()
    axes[1, 1].plot(np.arange(1, len(entropy) + 1), entropy, linewidth=0.7)
    axes[1, 1].axhline(TARGET, linestyle="--", color="black", linewidth=0.8)
    axes[1, 1].set(title="policy entropy, nats (dashed: target)", xlabel="step", ylim=(0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, watch, report."""
    parser = argparse.ArgumentParser(description="A long run, watched from outside.")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--workdir", type=Path, default=Path("runs/soak"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    samples, code, stop = watch(options.workdir, options.minutes, options.every)
    records = map(json.loads, (options.workdir / "run" / "metrics.jsonl").read_text().splitlines())
    entropy = np.array([r["entropy/mean"] for r in records if "entropy/mean" in r])
    found = summary(samples, entropy, code, stop)
    options.docs.mkdir(parents=True, exist_ok=True)
    table = {
        name: [round(x, 2) for x in column]
        for name, column in zip(Sample._fields, zip(*samples), strict=True)
    }
    (options.docs / "soak.json").write_text(json.dumps({"summary": found, "samples": table}) + "\n")
    picture(samples, entropy, options.docs / "images" / "soak.png")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
