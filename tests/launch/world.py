"""A small pretend cloud: the programs that the launch scripts call, with a memory in one JSON file, and no network.

Run as `python world.py PROGRAM ARGS...` by the stubs that `stubs` in conftest.py puts on PATH. Every call is recorded;
the fields of the world (see `new_world`) say what it answers.
"""

import json
import os
import pathlib
import sys


def new_world(**fields):
    """The state of the pretend cloud; a test changes the fields that its story needs."""
    world = {
        "calls": [],  # [program, arg, arg, ...] of every call
        "state": None,  # state of the TPU or queued resource; None: it does not exist
        "ready": "READY",  # state after a successful create
        "hosts": 2,  # hosts that `describe` reports for a slice
        "refusals": [],  # messages with which the next creates are refused, one each
        "states": [],  # states that the next describes bring about, one each
        "started": 0,  # how often the run was started
        # per start: "slice.worker" or "*" -> answers in order, of which the last one stays; default "running"
        "status": [{}],
        "probes": {},  # how often each host was asked since the last start
        "jobset": None,  # terminal state of the JobSet ("" while it runs); None: it does not exist
        "pods": "",  # lines "name phase code"
        "queue": "",  # id of the Slurm job in the queue
        "broken": "",  # when set, every describe fails with this message (network, permission)
    }
    return world | fields


def option(args, name, default=None):
    """Value of --name=VALUE among the arguments."""
    values = [a.split("=", 1)[1] for a in args if a.startswith(f"--{name}=")]
    return values[-1] if values else default


def fail(message, code=1):
    print(f"ERROR: {message}", file=sys.stderr)
    return code


def describe(world, args):
    if world["broken"]:
        return fail(world["broken"])
    if "networkEndpoints" in option(args, "format"):
        print(";".join(f"10.0.0.{i}" for i in range(world["hosts"])))
        return 0
    if world["states"]:
        world["state"] = world["states"].pop(0)
    if world["state"] is None:
        return fail("(gcloud.compute.tpus) NOT_FOUND: Resource was not found")
    print(world["state"])
    return 0


def create(world, args):
    if world["refusals"]:
        return fail(world["refusals"].pop(0))
    world["state"] = world["ready"]
    return 0


def ssh(world, args):
    command = option(args, "command")
    host = f"{option(args, 'node', '0')}.{option(args, 'worker')}"
    if "worker.sh start" in command:
        world["started"] += 1
        world["probes"] = {}
    elif "worker.sh status" in command:
        answers = world["status"][min(world["started"], len(world["status"]) - 1)]
        answers = answers.get(host, answers.get("*", ["running" if world["started"] else "absent"]))
        asked = world["probes"].get(host, 0)
        world["probes"][host] = asked + 1
        answer = answers[min(asked, len(answers) - 1)]
        if answer == "no ssh":
            return fail("connection timed out", 255)
        print(answer)
    return 0


def gcloud(world, args):
    verb = args[3]
    if verb == "delete":
        world["state"] = None
        return 0
    return {"describe": describe, "create": create, "ssh": ssh}[verb](world, args)


def xpk(world, args):
    if args[1] == "create":
        if world["refusals"]:
            return fail(world["refusals"].pop(0))
        world["jobset"] = ""
    elif args[1] == "delete":
        world["jobset"] = None
    return 0


def kubectl(world, args):
    verb, what = args[2], args[3]
    if verb == "apply":
        world["manifest"] = sys.stdin.read()
        world["jobset"] = ""
    elif verb == "delete":
        world["jobset"] = None
    elif verb == "get" and what == "jobset":
        if world["jobset"] is None:
            return fail('(NotFound): jobsets.jobset.x-k8s.io "x" not found')
        print(f"{args[4]}:{world['jobset']}")
    elif verb == "get" and what == "pods":
        print(world["pods"], end="")
    return 0


def sbatch(world, args):
    if world["refusals"]:
        return fail(world["refusals"].pop(0))
    world["queue"] = "17"
    print("Submitted batch job 17")
    return 0


def squeue(world, args):
    print(world["queue"])
    return 0


def scontrol(world, args):
    if args[:2] == ["show", "hostnames"]:
        print("node1\nnode2")
    return 0


def quiet(world, args):
    return 0


PROGRAMS = {
    "gcloud": gcloud, "xpk": xpk, "kubectl": kubectl, "sbatch": sbatch, "squeue": squeue, "scontrol": scontrol,
    "sacct": quiet, "scancel": quiet, "ssh": quiet,
}  # fmt: skip


def main():
    program, args = sys.argv[1], sys.argv[2:]
    path = pathlib.Path(os.environ["WORLD"])
    world = json.loads(path.read_text())
    world["calls"].append([program, *args])
    code = PROGRAMS[program](world, args)
    path.write_text(json.dumps(world))
    return code


if __name__ == "__main__":
    sys.exit(main())
