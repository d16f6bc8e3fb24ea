"""Stories on TPU VMs and queued resources: success, refusals, preemption, a failing host."""

import re

import pytest

from tests.launch.helpers import script

READY = {"tpu_vm.sh": "READY", "queued_resource.sh": "ACTIVE"}
PREEMPTED = {"tpu_vm.sh": "PREEMPTED", "queued_resource.sh": "SUSPENDED"}
KIND = {"tpu_vm.sh": "tpu-vm", "queued_resource.sh": "queued-resources"}
QUOTA = "(gcloud) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProject' has been exceeded. Limit: 0"
CAPACITY = "(gcloud) There is no more capacity in the zone us-east5-b"

both = pytest.mark.parametrize("name", ["tpu_vm.sh", "queued_resource.sh"])


def play(cloud, name, *args, settings=None, **fields):
    """Run one sub-command in a fresh world."""
    stubs = cloud(**({"ready": READY[name]} | fields))
    return stubs, script(name, *args, folder=stubs.folder, **(settings or {}))


@both
def test_create_names_the_project_and_does_nothing_the_second_time(name, cloud):
    stubs, done = play(cloud, name, "create")
    assert done.code == 0, done.err
    (create,) = stubs.calls(KIND[name], " create steer-a")
    assert "--project=my-project --zone=us-east5-b" in create and "--spot" in create
    again = script(name, "create", folder=stubs.folder)
    assert again.code == 0 and "already there" in again.err
    assert len(stubs.calls(" create ")) == 1


@both
def test_every_call_names_project_and_zone(name, cloud):
    stubs, done = play(cloud, name, "retry")
    assert done.code == 0, done.err
    for call in stubs.calls("gcloud"):
        assert "--project=my-project --zone=us-east5-b" in call


@both
@pytest.mark.parametrize(
    "capacity, flag", [("spot", "--spot"), ("reserved", "--reserved"), ("on-demand", None)]
)
def test_capacity_is_what_was_asked_for(name, capacity, flag, cloud):
    stubs, done = play(cloud, name, "create", settings={"CAPACITY": capacity})
    assert done.code == 0
    (create,) = stubs.calls(" create ")
    assert re.findall(r"--spot|--reserved|--on-demand", create) == ([flag] if flag else [])


@both
@pytest.mark.parametrize(
    "message, code, said", [(QUOTA, 3, "quota"), (CAPACITY, 4, "no capacity"), ("boom", 1, "failed")]
)
def test_refusals_are_explained_and_start_nothing(name, message, code, said, cloud):
    stubs, done = play(cloud, name, "retry", refusals=[message])
    assert done.code == code
    assert message in done.err and said in done.err
    assert stubs.calls("ssh") == [] and stubs.world()["state"] is None


@both
def test_network_error_is_not_taken_for_absence(name, cloud):
    """`describe` failing for another reason must neither create a second slice nor claim that one is deleted."""
    stubs = cloud(broken="(gcloud) PERMISSION_DENIED", state=READY[name])
    for command in ("create", "delete", "retry"):
        done = script(name, command, folder=stubs.folder)
        assert done.code != 0 and "PERMISSION_DENIED" in done.err
        assert stubs.calls(" create ") == stubs.calls(" delete ") == []


@both
def test_setup_warms_ssh_host_by_host_before_all(name, cloud):
    stubs, done = play(cloud, name, "setup", state=READY[name], hosts=2)
    assert done.code == 0, done.err
    workers = [re.search(r"--worker=(\w+)", call)[1] for call in stubs.calls(" ssh ")]
    assert workers == ["0", "1", "all"]
    assert all("--ssh-flag=-oServerAliveInterval=30" in call for call in stubs.calls(" ssh "))
    assert "checkout --quiet --detach v0.1.0" in stubs.calls("--worker=all")[0]


@both
def test_run_starts_in_the_background_and_probes_every_host(name, cloud):
    stubs, done = play(cloud, name, "run", state=READY[name])
    assert done.code == 0, done.err
    (start,) = stubs.calls("worker.sh start")
    assert "--worker=all" in start
    assert "start steer-a -- entjax train configs/quickstart.py" in start
    assert "--workdir gs://my-bucket/entjax/runs/steer-a --resume" in start
    assert "--distributed auto --init-timeout 1800" in start  # gangs come back slowly
    assert "JAX_COORDINATOR_PORT=8476" in start  # pinned
    assert "JAX_COMPILATION_CACHE_DIR=gs://my-bucket/entjax/compile-cache" in start
    probes = stubs.calls("worker.sh status")
    assert [re.search(r"--worker=(\w+)", call)[1] for call in probes] == ["0", "1"]
    assert "billed until 'delete'" in done.err


@both
@pytest.mark.parametrize("command", ["setup", "run"])
def test_wrong_number_of_hosts_is_refused(name, command, cloud):
    stubs, done = play(cloud, name, command, state=READY[name], hosts=4)
    assert done.code == 1
    assert "4 hosts but TPU_WORKERS=2" in done.err
    assert stubs.calls(" ssh ") == []


@both
def test_run_needs_machines(name, cloud):
    stubs, done = play(cloud, name, "run")
    assert done.code == 1 and "NOT_FOUND" in done.err
    assert stubs.calls(" ssh ") == []


@both
def test_one_failing_worker_is_named_and_the_rest_are_ended(name, cloud):
    stubs, done = play(cloud, name, "run", state=READY[name], status=[{"0.1": ["exited 1"]}])
    assert done.code == 1
    assert "slice 0 worker 1 (exited 1)" in done.err and "worker 0" not in done.err
    assert len(stubs.calls("--worker=all", "worker.sh stop steer-a")) == 1


@both
def test_status_names_the_failing_worker(name, cloud):
    _, done = play(
        cloud, name, "status", state=READY[name], status=[{"*": ["running"], "0.1": ["exited 137"]}]
    )
    assert done.code == 1
    assert "slice 0 worker 1 (exited 137)" in done.err
    assert "slice 0 worker 0: running" in done.out


@both
@pytest.mark.parametrize(
    "answer, code, said",
    [("running", 0, "runs on all"), ("exited 0", 0, "finished"), ("exited 143", 1, "retry"), ("lost", 1, "retry"),
     ("absent", 1, "not started"), ("no ssh", 1, "no answer")],
)  # fmt: skip
def test_status_tells_the_ends_apart(name, answer, code, said, cloud):
    _, done = play(cloud, name, "status", state=READY[name], status=[{"*": [answer]}])
    assert done.code == code and said in done.err, done.err


@both
def test_retry_after_preemption_keeps_the_run(name, cloud):
    """Same run name, same workdir, --resume: the run goes on instead of starting anew."""
    stubs, first = play(cloud, name, "retry")
    assert first.code == 0, first.err
    stubs.change(state=PREEMPTED[name])
    status = script(name, "status", folder=stubs.folder)
    assert status.code == 1 and "retry" in status.err
    second = script(name, "retry", folder=stubs.folder)
    assert second.code == 0, second.err
    creates, starts, deletes = (
        stubs.calls(" create "),
        stubs.calls("worker.sh start"),
        stubs.calls(" delete "),
    )
    assert len(creates) == len(starts) == 2 and len(deletes) == 1
    assert creates[0] == creates[1] and starts[0] == starts[1]
    assert "--resume" in starts[1] and "runs/steer-a" in starts[1]


@both
def test_retry_leaves_a_live_run_alone(name, cloud):
    stubs, done = play(cloud, name, "retry", state=READY[name], started=1)
    assert done.code == 0
    assert stubs.calls("worker.sh start") == stubs.calls(" create ") == stubs.calls(" delete ") == []


@both
def test_retry_on_living_machines_does_not_make_new_ones(name, cloud):
    stubs, done = play(
        cloud, name, "retry", state=READY[name], started=1, status=[{}, {"*": ["exited 143"]}, {}]
    )
    assert done.code == 0, done.err
    assert stubs.calls(" create ") == stubs.calls(" delete ") == []
    assert "--resume" in stubs.calls("worker.sh start")[0]


@both
def test_create_refuses_a_preempted_slice(name, cloud):
    stubs, done = play(cloud, name, "create", state=PREEMPTED[name])
    assert done.code == 1 and "use retry" in done.err
    assert stubs.calls(" create ") == []


@both
def test_watch_goes_through_a_preemption_to_the_end(name, cloud):
    after = {"*": ["running", "running", "exited 0"]}
    stubs, done = play(
        cloud, name, "watch", "--", "lr=3e-4", state=READY[name], started=1, status=[{}, {"*": ["running"]}, after],
        states=[READY[name], READY[name], PREEMPTED[name]],
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "finished on all hosts" in done.err
    (start,) = stubs.calls("worker.sh start")
    assert "start steer-a --" in start and "lr=3e-4" in start and "--resume" in start
    assert len(stubs.calls(" create steer-a ")) == 1


@both
def test_watch_waits_for_capacity_but_not_for_quota(name, cloud):
    gone = {"state": PREEMPTED[name], "status": [{}, {"*": ["running", "exited 0"]}]}
    stubs, done = play(cloud, name, "watch", refusals=[CAPACITY, CAPACITY], **gone)
    assert done.code == 0, done.err
    assert len(stubs.calls(" create ")) == 3


@both
def test_watch_stops_at_a_quota_refusal(name, cloud):
    stubs, done = play(cloud, name, "watch", state=PREEMPTED[name], refusals=[QUOTA] * 5)
    assert done.code == 3
    assert len(stubs.calls(" create ")) == 1


@both
def test_watch_stops_at_a_failure(name, cloud):
    """A crash is not a preemption: starting it again and again would only cost money."""
    status = [{}, {"*": ["running"], "0.0": ["running", "exited 1"]}]
    stubs, done = play(cloud, name, "watch", state=READY[name], started=1, status=status)
    assert done.code == 1 and "slice 0 worker 0 (exited 1)" in done.err
    assert stubs.calls("worker.sh start") == []
    assert len(stubs.calls("worker.sh stop")) == 1


@both
def test_watch_resumes_what_saved_itself(name, cloud):
    """143 means: saved after SIGTERM, resume me."""
    status = [{}, {"*": ["exited 143"]}, {"*": ["running", "exited 0"]}]
    stubs, done = play(cloud, name, "watch", state=READY[name], started=1, status=status)
    assert done.code == 0, done.err
    assert len(stubs.calls("worker.sh start")) == 1 and stubs.calls(" create ") == []


@both
def test_watch_gives_up_after_max_retries(name, cloud):
    stubs, done = play(
        cloud, name, "watch", state=PREEMPTED[name], refusals=[CAPACITY] * 9, settings={"MAX_RETRIES": "3"}
    )
    assert done.code == 1 and "MAX_RETRIES" in done.err
    assert len(stubs.calls(" create ")) == 3


@both
def test_delete_is_idempotent_and_checked(name, cloud):
    stubs, done = play(cloud, name, "delete", state=READY[name])
    assert done.code == 0 and "is deleted" in done.err
    assert "--quiet" in stubs.calls(" delete ")[0]
    again = script(name, "delete", folder=stubs.folder)
    assert again.code == 0 and "nothing to delete" in again.err
    assert len(stubs.calls(" delete ")) == 1


@both
def test_delete_that_did_not_work_is_an_error(name, cloud):
    _, done = play(cloud, name, "delete", state=READY[name], states=[READY[name], "DELETING"])
    assert done.code == 1 and "may still be billed" in done.err


def test_queued_resource_waits_until_active(cloud):
    states = [None, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    _, done = play(cloud, "queued_resource.sh", "create", "--wait", states=states)
    assert done.code == 0, done.err
    assert "WAITING_FOR_RESOURCES" in done.err and "PROVISIONING" in done.err


@pytest.mark.parametrize("end", ["FAILED", "SUSPENDED"])
def test_queued_resource_that_fails_says_how_to_ask_why(end, cloud):
    _, done = play(cloud, "queued_resource.sh", "create", "--wait", states=[None, "ACCEPTED", end])
    assert done.code == 4
    assert f"state {end}" in done.err and "queued-resources describe steer-a" in done.err


def test_queued_resource_deletes_the_machines_with_the_request(cloud):
    stubs, done = play(cloud, "queued_resource.sh", "delete", state="ACTIVE")
    assert done.code == 0 and "--force" in stubs.calls(" delete ")[0]


def test_several_slices(cloud):
    stubs, done = play(cloud, "queued_resource.sh", "retry", settings={"NUM_SLICES": "2"})
    assert done.code == 0, done.err
    assert "--node-count=2 --node-prefix=steer-a" in stubs.calls(" create ")[0]
    asked = [
        re.search(r"--node=(\w+) --worker=(\w+)", call).groups() for call in stubs.calls("worker.sh status")
    ]
    assert asked == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert "--node=all --worker=all" in stubs.calls("worker.sh start")[0]
