"""Stands for `entjax train` in the tests of the supervisors: no jax, prints who it is, and dies on demand.

usage: python fake_train.py FOLDER STORY [flags of the launcher]
Every process appends its flags to FOLDER/starts, and does what the STORY says for its number and attempt:
"1@0=exit 3" (process 1, attempt 0), or "*=sleep"; parts are separated by commas, the first that fits counts.
What it can do: exit N, kill (SIGKILL to itself), sleep (until SIGTERM, then save and 143), stubborn (ignores SIGTERM),
child (starts a process that outlives it, then exit 3), ok (ends well after a moment).
"""

import os
import pathlib
import signal
import subprocess
import sys
import time


def flag(name):
    return sys.argv[sys.argv.index(name) + 1]


def attempt(starts, number):
    """How often this process was started before."""
    return sum(line.split()[0] == number for line in starts.read_text().splitlines()) - 1


def action(story, number, attempt):
    for part in story.split(","):
        key, what = part.split("=")
        if key in (f"{number}@{attempt}", number, f"*@{attempt}", "*"):
            return what
    return "ok"


def save_and_exit(folder, number):
    def handler(signum, frame):
        time.sleep(0.2)
        (folder / f"saved-{number}").touch()
        os._exit(143)

    return handler


def wait_forever():
    while True:
        time.sleep(0.05)


def main():
    folder, story = pathlib.Path(sys.argv[1]), sys.argv[2]
    number = flag("--process-id") if "--process-id" in sys.argv else "0"
    signal.signal(signal.SIGTERM, save_and_exit(folder, number))
    with (folder / "starts").open("a") as f:
        f.write(f"{number} {os.getpid()} {' '.join(sys.argv[3:])}\n")
    what = action(story, number, attempt(folder / "starts", number))
    print(f"process {number} pid {os.getpid()} does {what}", flush=True)
    (folder / f"env-{number}").write_text("\n".join(f"{k}={v}" for k, v in sorted(os.environ.items())))
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what in ("sleep", "stubborn"):
        wait_forever()
    time.sleep(0.4)  # the others have started by then
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "child":
        child = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (folder / "child").write_text(str(child.pid))
        sys.exit(3)
    sys.exit(int(what.split()[1]) if what.startswith("exit") else 0)


if __name__ == "__main__":
    main()
