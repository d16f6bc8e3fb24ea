"""Verifiers that misbehave, for the worker processes of test_pool.py; the text says how. Imports nothing that
is slow.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time


def naughty(folder: str = "/"):
    """A verifier that does what the text says, and otherwise returns the text as a number."""
    actions = {
        "loop": _loop,
        "stubborn": _stubborn,
        "compiled": lambda: 9**9**9,
        "sleep": lambda: time.sleep(60),
        "die": lambda: os._exit(3),
        "killed": lambda: signal.raise_signal(signal.SIGKILL),
        "exit": lambda: sys.exit(1),
        "interrupt": _interrupt,
        "raise": lambda: 1 / 0,
        "recurse": _recurse,
        "memory": lambda: float(len(bytearray(4 * 2**30))),
        "nan": lambda: float("nan"),
        "inf": lambda: float("inf"),
        "two": lambda: 2.0,
        "minus": lambda: -0.5,
        "none": lambda: None,
        "string": lambda: "much",
        "true": lambda: True,
        "random": random.random,
        "print": _print,
        "write": lambda: open(os.path.join(folder, "written"), "w").close() or 1.0,
        "read": lambda: float(len(open("/etc/passwd").read()) >= 0),  # noqa: SIM115
        "socket": lambda: float(socket.socket() is not None),
        "process": lambda: float(subprocess.call(["true"]) == 0),
        "system": lambda: float(os.system("true") == 0),
        "eval": lambda: float(eval("__import__('os').getpid() > 0")),
        "remove": lambda: os.remove(os.path.join(folder, "kept")) or 1.0,
        "jax": lambda: float("jax" in sys.modules),
        "secret": lambda: float("ENTJAX_TEST_SECRET" in os.environ),
        "pid": lambda: os.getpid() / 2**32,
    }
    return lambda example, text: actions[text]() if text in actions else float(text)


def weighted():
    """Half for the number that the text is, half for its form; 1 where the worker has imported jax."""
    import entjax as ej

    def number(example, text):
        return float(text) if text[0].isdigit() else float("jax" in sys.modules)

    return ej.rewards.text.weighted((0.5, number), (0.5, ej.rewards.text.tag_format(("answer",))))


def missing():
    raise ImportError("this verifier needs a library: pip install 'entjax[tasks]'.")


def _loop():
    while True:
        pass


def _stubborn():
    while True:
        with contextlib.suppress(BaseException):
            _loop()


def _interrupt():
    raise KeyboardInterrupt


def _recurse():
    return _recurse()


def _print():
    print('{"reward": 1.0}', flush=True)
    os.write(1, b'{"reward": 1.0}\n')
    return 0.25
