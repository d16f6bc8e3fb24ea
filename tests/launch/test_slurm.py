"""slurm_gpu.sbatch: it submits itself once, the tasks get SIGTERM in time, and 143 puts the job back into the queue."""

import shlex

import pytest

from tests.launch.helpers import ROOT, script

JOB = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NTASKS": "8"}


def run_on_one_node(stubs, *args):
    """A test's folder is not shared between nodes, which two nodes would be refused for."""
    return script("slurm_gpu.sbatch", *args, folder=stubs.folder, NODES="1", WORKDIR_ROOT=str(stubs.folder))


def with_srun(stubs, body):
    """An srun stub that writes down its words and then does what the test says."""
    path = stubs.folder / "bin" / "srun"
    record = stubs.folder / "srun"
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >>{record}\nenv >{stubs.folder}/srun-env\n{body}\n')
    path.chmod(0o755)
    return record


def test_submit_once(cloud):
    stubs = cloud()
    done = run_on_one_node(stubs, "run", "--", "lr=3e-4")
    assert done.code == 0, done.err
    (call,) = stubs.calls("sbatch")
    words = shlex.split(call)
    assert words[-3:] == [str(ROOT / "launch" / "slurm_gpu.sbatch"), "job", "lr=3e-4"]
    assert "--signal=TERM@600" in words  # to the tasks, longer before the limit than one save
    assert "--ntasks-per-node=4" in words and "--gpus-per-node=4" in words and "--account=team" in words
    again = run_on_one_node(stubs, "retry")
    assert again.code == 0 and "already" in again.err
    assert len(stubs.calls("sbatch")) == 1


@pytest.mark.parametrize(
    "message, code",
    [
        ("Batch job submission failed: QOSMaxSubmitJobPerUserLimit", 3),
        ("Invalid account or account/partition", 1),
    ],
)
def test_refusal(message, code, cloud):
    stubs = cloud(refusals=[message])
    done = run_on_one_node(stubs, "run")
    assert done.code == code and message in done.err


def test_job_starts_one_process_per_gpu(cloud):
    stubs = cloud()
    record = with_srun(stubs, 'while [ "$1" != bash ]; do shift; done; PATH=/nowhere:$PATH; exit 0')
    done = script("slurm_gpu.sbatch", "job", "lr=3e-4", folder=stubs.folder, MEGASCALE_NUM_SLICES="2", **JOB)
    assert done.code == 0, done.err
    words = record.read_text().splitlines()
    assert "--ntasks=8" in words and "--kill-on-bad-exit=1" in words
    assert words[words.index("--coordinator") + 1] == f"node1:{20000 + 12345 % 10000}"
    assert words[words.index("--num-processes") + 1] == "8"
    assert "--resume" in words and "lr=3e-4" in words and "/scratch/team/runs/steer-a" in words
    env = (stubs.folder / "srun-env").read_text()
    assert "MEGASCALE_" not in env and "JAX_COMPILATION_CACHE_DIR=/scratch/team/compile-cache" in env


def test_task_is_the_program_itself_with_its_number(cloud):
    """`exec`: the process that Slurm signals is Python and not a shell."""
    stubs = cloud()
    fake = stubs.folder / "bin" / "entjax"
    fake.write_text(f'#!/bin/bash\necho "pid $$ $*" >>{stubs.folder}/tasks\n')
    fake.chmod(0o755)
    with_srun(
        stubs,
        'while [ "$1" != bash ]; do shift; done\n'
        f'for i in 0 1; do SLURM_PROCID=$i "$@" & echo "pid $!" >>{stubs.folder}/pids; wait; done',
    )
    done = script("slurm_gpu.sbatch", "job", folder=stubs.folder, **JOB)
    assert done.code == 0, done.err
    tasks = (stubs.folder / "tasks").read_text().splitlines()
    pids = (stubs.folder / "pids").read_text().splitlines()
    assert [task.rsplit(" ", 2)[1:] for task in tasks] == [["--process-id", "0"], ["--process-id", "1"]]
    assert [" ".join(task.split()[:2]) for task in tasks] == pids


def test_saved_after_sigterm_goes_back_into_the_queue(cloud):
    stubs = cloud()
    with_srun(stubs, "exit 143")
    done = script("slurm_gpu.sbatch", "job", folder=stubs.folder, **JOB)
    assert done.code == 143
    assert stubs.calls("scontrol requeue 12345")


def test_failure_is_not_requeued(cloud):
    stubs = cloud()
    with_srun(stubs, 'echo "srun: error: node2: task 5: Exited with exit code 1" >&2; exit 1')
    done = script("slurm_gpu.sbatch", "job", folder=stubs.folder, **JOB)
    assert done.code == 1 and "task 5" in done.err and "failed with code 1" in done.err
    assert not stubs.calls("requeue")


def test_sigterm_to_the_batch_script_reaches_the_step(cloud):
    stubs = cloud()
    with_srun(
        stubs, 'trap "exit 143" TERM; kill -TERM $PPID; for i in $(seq 100); do sleep 0.1; done; exit 9'
    )
    done = script("slurm_gpu.sbatch", "job", folder=stubs.folder, **JOB)
    assert done.code == 143, done.err
    assert stubs.calls("scontrol requeue 12345")


def test_wrong_number_of_tasks_is_refused(cloud):
    stubs = cloud()
    record = with_srun(stubs, "exit 0")
    done = script("slurm_gpu.sbatch", "job", folder=stubs.folder, **(JOB | {"SLURM_NTASKS": "2"}))
    assert done.code == 1 and "2 tasks" in done.err
    assert not record.exists()
