"""Several processes as one run: how they find each other, and the few things that they tell each other on the host.

Every process runs the same program on global arrays. What happens on the host is made the same everywhere: prompts are read
in shares and exchanged, each text is verified by one process, whatever only the first process sees (files) is told to the
others, and SIGTERM to one is noticed by all at the same point. With one process every function here does nothing.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from entjax.fingerprint import digest
from entjax.tasks import Example, Report

INIT_TIMEOUT = 1800  # seconds; the hosts of a spot gang come back minutes apart
HEARTBEAT = 40  # seconds without a sign of life after which the others give up
PORT = 8476


class ClusterError(ValueError):
    """The processes of a run do not fit together; the message says what to change."""


class Cluster(NamedTuple):
    """How a process finds the others; no coordinator: from the TPU, Slurm or GKE environment."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    init_timeout: int = INIT_TIMEOUT
    heartbeat: int = HEARTBEAT


def cluster(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    *,
    auto: bool = False,
    init_timeout: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Cluster | None:
    """The cluster that the flags ask for; None for a run of one process. Mistakes end with a sentence."""
    environment = os.environ if environment is None else environment
    timeout = INIT_TIMEOUT if init_timeout is None else init_timeout
    if timeout < 1:
        raise ClusterError(f"--init-timeout {timeout}: give a positive number of seconds.")
    given = {"--coordinator": coordinator, "--num-processes": processes, "--process-id": process}
    if all(value is None for value in given.values()):
        return Cluster(init_timeout=timeout) if auto else None
    if auto:
        raise ClusterError(
            "--distributed auto finds the processes by itself: leave out --coordinator, --num-processes, --process-id."
        )
    missing = [flag for flag, value in given.items() if value is None]
    if missing:
        raise ClusterError(f"{' and '.join(missing)} missing: a process needs all of {', '.join(given)}.")
    if not 0 <= process < processes:
        raise ClusterError(
            f"--process-id {process}: {processes} processes are counted from 0 to {processes - 1}."
        )
    if ":" not in coordinator:
        coordinator = f"{coordinator}:{environment.get('JAX_COORDINATOR_PORT', PORT)}"
    return Cluster(coordinator, processes, process, timeout)


def expected_processes(environment: Mapping[str, str]) -> int | None:
    """How many processes the environment promises, or None where it does not say."""
    if environment.get("SLURM_NTASKS"):
        return int(environment["SLURM_NTASKS"])
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if not hosts:
        return None
    return len(hosts.split(",")) * int(environment.get("MEGASCALE_NUM_SLICES") or 1)


def drop_stale_slices(environment: MutableMapping[str, str]) -> list[str]:
    """Forget MEGASCALE_* variables outside Kubernetes, where they are left over from a machine that is gone; their names."""
    if "KUBERNETES_SERVICE_HOST" in environment:
        return []
    stale = sorted(name for name in environment if name.startswith("MEGASCALE_"))
    for name in stale:
        del environment[name]
    return stale


def start(here: Cluster | None) -> None:
    """Join the other processes. Must come before anything touches a device."""
    if here is None:
        return
    stale = drop_stale_slices(os.environ)
    if stale:
        _say(f"{', '.join(stale)} unset: left over from another slice, it would be waited for.")
    if here.coordinator is None:
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(PORT))
    where = here.coordinator or f"port {os.environ['JAX_COORDINATOR_PORT']} of the first host"
    who = "the processes" if here.processes is None else f"process {here.process} of {here.processes}"
    _say(
        f"{who}: meeting the others at {where}, for at most {here.init_timeout} s. If this ends with DEADLINE_EXCEEDED, one "
        "was not started or cannot reach that port."
    )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours: see preemption.py
    known = {} if here.coordinator is None else {
        "coordinator_address": here.coordinator, "num_processes": here.processes, "process_id": here.process,
    }  # fmt: skip
    try:
        jax.distributed.initialize(
            **known, initialization_timeout=here.init_timeout, heartbeat_timeout_seconds=here.heartbeat,
            shutdown_timeout_seconds=here.heartbeat,
        )  # fmt: skip
    except ValueError as error:
        raise ClusterError(
            f"--distributed auto finds no TPU slice, Slurm job or other cluster here ({error}): "
            "give --coordinator HOST:PORT --num-processes N --process-id I."
        ) from error
    check(here.processes or expected_processes(os.environ))


def check(expected: int | None) -> None:
    """Refuse to go on with fewer processes than promised, or with processes that have different numbers of devices."""
    found = jax.process_count()
    if expected is not None and found != expected:
        raise ClusterError(
            f"{found} processes have met and {expected} were expected: start all of them, on all hosts of the slice, with the "
            "same flags."
        )
    devices = [sum(d.process_index == i for d in jax.devices()) for i in range(found)]
    if len(set(devices)) > 1:
        raise ClusterError(
            f"The processes have {devices} devices; every process needs as many as the others."
        )
    _say(f"process {jax.process_index()} of {found}: {devices[0]} of {sum(devices)} devices ({jax.devices()[0].device_kind}). "
         f"If a process dies the others end within {HEARTBEAT + 20} s; start all again with --resume.")  # fmt: skip


def started() -> bool:
    """Is this one of several processes? Asks no device."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Is this the process that writes files?"""
    return not started() or jax.process_index() == 0


def share() -> tuple[int, int]:
    """(number of this process, number of processes)."""
    return (jax.process_index(), jax.process_count()) if started() else (0, 1)


# What processes tell each other -----------------------------------------------------------------------------------------------


def gather(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order; all must call it."""
    if not started():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(text), np.int32)).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def anywhere(flag: bool) -> bool:
    """Is the flag set on any process? All must call it."""
    return flag if not started() else any(gather(bool(flag)))


def agree(mine: Mapping[str, Any]) -> None:
    """Refuse to go on where processes differ in one of these values; all must call it."""
    told = gather({name: digest(value) for name, value in mine.items()})
    names = sorted(n for n in set().union(*told) if any(other.get(n) != told[0].get(n) for other in told))
    if names:
        others = ", ".join(str(i) for i, other in enumerate(told) if other != told[0])
        raise ClusterError(
            f"The processes do not run the same thing: {others} of 0 to {len(told) - 1} differ from process 0 in "
            f"{', '.join(names)}. Start all with the same command, config file and versions."
        )


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if started():
        multihost_utils.sync_global_devices(name)


def examples(mine: Sequence[Example]) -> list[Example]:
    """The examples of all processes in order, from the share that each has read."""
    if not started():
        return list(mine)
    parts = gather([list(example) for example in mine])
    parts[jax.process_index()] = mine
    return [Example(*fields) for part in parts for fields in part]


def scoring(score: Callable) -> Callable:
    """score(examples, texts) -> (rewards, Report) of which every process does its block; the result is the same everywhere."""

    def shared(given: Sequence[Example], texts: Sequence[str]) -> tuple[np.ndarray, Report]:
        index, count = share()
        if count == 1:
            return score(given, texts)
        block = slice(len(texts) * index // count, len(texts) * (index + 1) // count)
        rewards, report = score(given[block], texts[block])
        parts = gather([np.asarray(rewards, np.float64).tolist(), list(report)])
        total = Report(*(_sum(column) for column in zip(*(part[1] for part in parts), strict=True)))
        return np.asarray([r for part in parts for r in part[0]], np.float32), total

    return shared


def _sum(column: Sequence[Any]) -> Any:
    """Counts added up; of messages the first that says something."""
    return next(filter(None, column), "") if isinstance(column[0], str) else sum(column)


class Follower(NamedTuple):
    """The run directory as a process sees it that does not write to it."""

    path: Path
    resumed: bool


@contextmanager
def leading(run: Any) -> Iterator[Any]:
    """Enter a run directory on the first process; what it found, or why it refused, is told to the others."""
    if not started():
        with run as entered:
            yield entered
        return
    fault: Exception | None = None
    try:
        entered = run.__enter__() if first() else None
    except Exception as error:
        fault = error
    told = gather(None if not first() else str(fault) if fault else bool(entered.resumed))[0]
    if isinstance(told, str):
        raise fault if fault is not None else ClusterError(f"the first process says: {told}")
    try:
        yield entered if first() else Follower(run.path, told)
    finally:
        if first():
            run.__exit__(*sys.exc_info())


def leave(error: BaseException) -> None:
    """End this process at once after a failure: waiting for the others, who wait for us, would only delay the news."""
    if isinstance(error, ValueError):
        _say(str(error))
    else:
        traceback.print_exception(error)
    if isinstance(error, jax.errors.JaxRuntimeError):
        _say(f"process {jax.process_index()} ends here, most likely because another process died: see the other logs. "
             "Start all of them again with --resume.")  # fmt: skip
    sys.stdout.flush()
    os._exit(2 if isinstance(error, ValueError) else 1)


def _say(text: str) -> None:
    print(f"entjax: {text}", file=sys.stderr, flush=True)
