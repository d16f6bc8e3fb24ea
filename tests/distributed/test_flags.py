"""Which flags and environments make which cluster, without starting any process."""

import pytest

from entjax import cli, distributed
from entjax.distributed import Cluster, ClusterError, cluster, drop_stale_slices, expected_processes
from entjax.fingerprint import digest


def test_flags_of_the_launch_scripts():
    given = cluster("127.0.0.1:8476", 4, 3, init_timeout=300)
    assert given == Cluster("127.0.0.1:8476", 4, 3, 300)
    assert cluster(None, None, None, auto=True, init_timeout=1800) == Cluster(init_timeout=1800)
    assert cluster(None, None, None) is None and cluster("a:1", 1, 0).init_timeout == 1800
    assert cluster("host", 2, 0, environment={"JAX_COORDINATOR_PORT": "9001"}).coordinator == "host:9001"
    assert cluster("host", 2, 0, environment={}).coordinator == "host:8476"
    options = cli.parser().parse_args(["train", "c.py", "--distributed", "auto", "--init-timeout", "60"])
    assert (options.distributed, options.init_timeout) == ("auto", 60)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator": "a:1"}, "--num-processes and --process-id missing"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "counted from 0 to 1"),
        ({"coordinator": "a:1", "processes": 2, "process": 0, "auto": True}, "leave out"),
        ({"init_timeout": 0, "auto": True}, "positive number of seconds"),
    ],
)
def test_flags_that_contradict_each_other(flags, message):
    flags = {"coordinator": None, "processes": None, "process": None, **flags}
    with pytest.raises(ClusterError, match=message):
        cluster(**flags)


def test_how_many_processes_the_environment_promises():
    assert expected_processes({}) is None
    assert expected_processes({"SLURM_NTASKS": "16"}) == 16
    assert expected_processes({"TPU_WORKER_HOSTNAMES": "a,b,c", "MEGASCALE_NUM_SLICES": "2"}) == 6


def test_left_over_slices_are_forgotten_outside_kubernetes():
    environment = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "PATH": "x"}
    pod = {**environment, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert drop_stale_slices(pod) == [] and pod["MEGASCALE_NUM_SLICES"] == "2"
    assert drop_stale_slices(environment) == ["MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"]
    assert environment == {"PATH": "x"}


def test_one_process_talks_to_itself():
    assert distributed.gather({"a": [1, "é"]}) == [{"a": [1, "é"]}]
    assert distributed.share() == (0, 1) and distributed.first() and not distributed.started()
    with pytest.raises(ClusterError, match="1 processes have met and 4 were expected"):
        distributed.check(4)


def test_processes_that_differ_are_named(monkeypatch):
    mine = {"lr": 1e-6, "mesh": {"fsdp": 2}, "jax": "1"}
    distributed.agree(mine)
    theirs = [{}, {"lr": 0.5, "jax": "2"}, {}, {"jax": "2"}]
    monkeypatch.setattr(
        distributed,
        "gather",
        lambda found: [found | {k: digest(v) for k, v in one.items()} for one in theirs],
    )
    with pytest.raises(ClusterError, match="1, 3 of 0 to 3 differ from process 0 in jax, lr"):
        distributed.agree(mine)


def test_overrides_may_stand_behind_the_flags():
    words = ["train", "c.py", "lr=1", "--workdir", "w", "steps=2", "--init-timeout", "5", "seed=3"]
    assert cli._parse(words).override == ["lr=1", "steps=2", "seed=3"]
    assert cli._parse(["bench", "grpo", "--peers", "rounds=3"]).name == ["grpo", "rounds=3"]
    for bad in (["train", "c.py", "--workdir", "w", "--nothing=1"], ["methods", "grpo", "lr=1"]):
        with pytest.raises(SystemExit):
            cli._parse(bad)
