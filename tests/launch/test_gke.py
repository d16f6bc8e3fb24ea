"""GKE: what the JobSets say, and stories through xpk and kubectl."""

import json
import re
import shlex

import pytest
import yaml

from tests.launch.helpers import LAUNCH, script

MANIFESTS = {"jobset.yaml": (), "jobset_cpu.yaml": ("--cpu",)}
via = pytest.mark.parametrize("name", ["xpk", "kubectl"])


def rendered(name, *overrides, **settings):
    """The manifest that xpk_gke.sh would apply, as data."""
    done = script(
        "xpk_gke.sh", "--dry-run", "--via", "kubectl", *MANIFESTS[name], "run", *overrides, **settings
    )
    assert done.code == 0, done.err
    return yaml.safe_load(re.search(r"<<'EOF'\n(.*)\nEOF\n", done.out, re.S)[1])


def pod(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


def play(cloud, name, *args, settings=None, **fields):
    stubs = cloud(**fields)
    return stubs, script("xpk_gke.sh", "--via", name, *args, folder=stubs.folder, **(settings or {}))


@pytest.mark.parametrize("name", MANIFESTS)
def test_templates_are_yaml_and_fully_rendered(name):
    raw = yaml.safe_load((LAUNCH / name).read_text())
    assert raw["kind"] == "JobSet" and raw["metadata"]["name"] == "${RUN_NAME}"
    manifest = rendered(name)
    assert "${" not in json.dumps(manifest)
    assert manifest["metadata"]["name"] == "steer-a"


@pytest.mark.parametrize("name", MANIFESTS)
def test_sigterm_reaches_python(name):
    """Exec form without a shell in between, and not as process 1, which ignores signals that nobody handles yet."""
    spec = pod(rendered(name))
    (container,) = spec["containers"]
    assert container["command"] == ["entjax"]
    assert container["args"][0] == "train" and all(isinstance(word, str) for word in container["args"])
    assert spec["shareProcessNamespace"] is True


@pytest.mark.parametrize("name", MANIFESTS)
def test_grace_is_longer_than_one_save(name):
    settings = {"SAVE_SECONDS": "700", "GRACE_SECONDS": "900"}
    assert pod(rendered(name, **settings))["terminationGracePeriodSeconds"] == 900
    assert pod(rendered(name))["terminationGracePeriodSeconds"] == 600 > 300
    refused = script("xpk_gke.sh", "--via", "kubectl", "--dry-run", "run", SAVE_SECONDS="700")
    assert refused.code == 2 and refused.out == ""


@pytest.mark.parametrize("name", MANIFESTS)
def test_preemption_restarts_all_and_failure_is_bounded(name):
    manifest = rendered(name)
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 20
    assert policy["restartStrategy"] == "BlockingRecreate"  # two attempts never share a workdir
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts" and rule["onJobFailureReasons"] == [
        "PodFailurePolicy"
    ]
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["backoffLimit"] == 0 and spec["completionMode"] == "Indexed"
    assert pod(manifest)["restartPolicy"] == "Never"  # what podFailurePolicy needs
    disruption, saved = spec["podFailurePolicy"]["rules"]
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert saved["onExitCodes"] == {"containerName": "entjax", "operator": "In", "values": [143]}
    assert {disruption["action"], saved["action"]} == {"FailJob"}


def test_tpu_manifest():
    manifest = rendered("jobset.yaml", "--", "lr=3e-4", 'note=a "b"', NUM_SLICES="3")
    (job,) = manifest["spec"]["replicatedJobs"]
    assert (
        job["replicas"] == 3
        and job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 2
    )
    (container,) = pod(manifest)["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": 4}
    assert container["args"] == [
        "train", "configs/quickstart.py", "lr=3e-4", 'note=a "b"', "--workdir", "gs://my-bucket/entjax/runs/steer-a", "--resume",
        "--distributed", "auto", "--init-timeout", "1800",
    ]  # fmt: skip
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env["JAX_COORDINATOR_PORT"] == "8476" and env["JAX_COMPILATION_CACHE_DIR"].startswith("gs://")
    assert pod(manifest)["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x4"


def test_cpu_manifest_needs_no_tpu_and_finds_its_coordinator():
    manifest = rendered("jobset_cpu.yaml")
    text = json.dumps(manifest)
    assert "google.com/tpu" not in text and "nodeSelector" not in text
    (container,) = pod(manifest)["containers"]
    args = container["args"]
    # the DNS name that JobSet gives to pod 0 of job 0: set-job-index-pod.set
    assert args[args.index("--coordinator") + 1] == "steer-a-workers-0-0.steer-a:8476"
    assert args[args.index("--process-id") + 1] == "$(PROCESS_ID)"
    assert args[args.index("--num-processes") + 1] == "2"
    env = {entry["name"]: entry for entry in container["env"]}
    assert "job-completion-index" in env["PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert env["XLA_FLAGS"]["value"].endswith("device_count=4")


def test_xpk_command_is_exec():
    """xpk signals a subshell that runs the command: without exec the subshell would die and Python not know."""
    words = shlex.split(script("xpk_gke.sh", "--dry-run", "run").out)
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    assert options["command"].startswith("exec entjax train ")
    assert "--resume" in options["command"]
    assert int(options["termination-grace-period-seconds"]) > 300
    assert options["restart-on-exit-codes"] == "143" and int(options["max-restarts"]) > 0
    assert options["workload"] == "steer-a"


@via
def test_run_then_run_again(name, cloud):
    stubs, done = play(cloud, name, "run")
    assert done.code == 0, done.err
    submits = stubs.calls("workload create") + stubs.calls(" apply ")
    assert len(submits) == 1
    again = script("xpk_gke.sh", "--via", name, "run", folder=stubs.folder)
    assert again.code == 0 and "in the cluster already" in again.err
    assert len(stubs.calls("workload create") + stubs.calls(" apply ")) == 1


def test_what_is_applied_is_what_the_dry_run_shows(cloud):
    stubs, done = play(cloud, "kubectl", "run")
    assert done.code == 0, done.err
    assert yaml.safe_load(stubs.world()["manifest"]) == rendered("jobset.yaml")


def test_quota_refusal(cloud):
    _, done = play(cloud, "xpk", "run", refusals=["[XPK] Quota exceeded for TPUS in us-east5"])
    assert done.code == 3 and "quota" in done.err


@via
def test_retry_keeps_the_name_and_resumes(name, cloud):
    stubs, done = play(cloud, name, "retry", jobset="Failed")
    assert done.code == 0, done.err
    deletes = stubs.calls("delete jobset steer-a")
    # the old pods are gone before new ones start
    assert len(deletes) == 1 and "--cascade=foreground" in deletes[0]
    submitted = stubs.world().get("manifest") or stubs.calls("workload create")[0]
    assert "runs/steer-a" in submitted and "--resume" in submitted


@pytest.mark.parametrize(
    "jobset, pods, code, said",
    [
        ("", "steer-a-workers-0-0 Running \nsteer-a-workers-0-1 Running \n", 0, ""),
        ("Completed", "steer-a-workers-0-0 Succeeded 0\n", 0, ""),
        (
            "",
            "steer-a-workers-0-0 Running \nsteer-a-workers-0-1 Failed 1\n",
            1,
            "steer-a-workers-0-1 (code 1)",
        ),
        ("", "steer-a-workers-0-0 Failed 143\n", 0, ""),  # saved; the JobSet restarts it
        ("Failed", "", 1, "failed for good"),
        (None, "", 1, "use run"),
    ],
)
def test_status_names_the_failing_pod(jobset, pods, code, said, cloud):
    _, done = play(cloud, "kubectl", "status", jobset=jobset, pods=pods)
    assert done.code == code and said in done.err, done.err


@via
def test_delete_twice(name, cloud):
    stubs, done = play(cloud, name, "delete", jobset="")
    assert done.code == 0, done.err
    assert script("xpk_gke.sh", "--via", name, "delete", folder=stubs.folder).code == 0


@via
def test_the_cluster_is_always_named(name, cloud):
    stubs, done = play(cloud, name, "retry", jobset="Failed")
    assert done.code == 0, done.err
    for call in stubs.calls("kubectl"):
        assert "--context=gke_my-project_us-east5_c --namespace=default" in call
    for call in stubs.calls("xpk"):
        assert "--project=my-project --zone=us-east5-b --cluster=my-cluster" in call
