"""What a verifier's worker may do: limits set by the kernel, and a hook that refuses what no verifier needs.

Enforced by the kernel: memory beyond what loading the verifier took (RLIMIT_AS), no bytes written to any file
(RLIMIT_FSIZE), a handful of file descriptors (RLIMIT_NOFILE), no core dumps, no new processes (RLIMIT_NPROC;
not for root), processor time per text: of two interval timers the first raises `OutOfTime` in Python, the
second kills the process when compiled code does not come back.

Enforced by a Python audit hook, which cannot be removed again: no sockets, no new processes, no changes in
the file system, no reading outside the folders that Python imports from, no unpickling, and code evaluated
from a string may use no names but mathematical ones (other than what sympy's algebra writes for itself), so
that `eval` of a model's text can compute a value and do nothing else.

Not enforced: a verifier is code of ours or of a library that was chosen; a hook in the same process stops
what a *text* makes it do by accident, not compiled code written to break out. On systems without a limit
(macOS has no RLIMIT_AS) the names of the missing ones are returned. For verifiers that run programs (unit
tests of generated code) use a container.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

SPARE_FILES = 16  # for modules that a library imports on first use

_REFUSED = (
    "socket.",
    "subprocess.",
    "shutil.",
    "tempfile.",
    "pickle.find_class",
    "ctypes.dlopen",
    "webbrowser.",
    "pty.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.kill",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.chdir",
    "os.putenv",
)
# what sympy's parser writes around numbers and symbols, and the functions that answers use
_MATHEMATICS = frozenset(
    (
        *(
            "Integer",
            "Float",
            "Rational",
            "Symbol",
            "Function",
            "Abs",
            "Max",
            "Min",
            "Mod",
            "sqrt",
            "cbrt",
            "root",
        ),
        *(
            "factorial",
            "binomial",
            "exp",
            "log",
            "ln",
            "pi",
            "oo",
            "zoo",
            "nan",
            "floor",
            "ceiling",
            "sign",
            "re",
            "im",
        ),
        *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc"),
        *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    )
)


class OutOfTime(BaseException):
    """Not an Exception: libraries that catch every Exception must not swallow it."""


def limit(memory_mb: int) -> list[str]:
    """Set the kernel's limits and install the hook; returns the names of limits that this system does not
    have.
    """
    missing = []
    used = _address_space()
    descriptors = max(map(int, os.listdir("/dev/fd"))) + 1 + SPARE_FILES
    for name, value in (
        ("RLIMIT_AS", used + memory_mb * 2**20),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NOFILE", descriptors),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),
    ):
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError, AttributeError):
            missing.append(name)
    sys.addaudithook(_hook(tuple(os.path.realpath(folder) + os.sep for folder in sys.path if folder)))
    return missing


def timed(seconds: float, call: Callable[[], Any]) -> Any:
    """`call()`, with OutOfTime after so many seconds of processor time and death of the process after twice
    as many.
    """

    def stop(signum: int, frame: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)
    # the interval repeats, in case some `finally` or destructor swallowed the first
    signal.setitimer(signal.ITIMER_PROF, seconds, max(seconds / 10, 0.01))
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # first: the handler of the other may still raise here
        signal.setitimer(signal.ITIMER_PROF, 0)


def _hook(readable: tuple[str, ...]) -> Callable[[str, tuple], None]:
    def refuse(event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            if writes or (mode and set(mode) & set("wax+")) or not _within(path, readable):
                raise PermissionError("A verifier may not open files.")
        elif event == "exec":
            _check_code(args[0], sys._getframe(1).f_code.co_filename)
        elif event.startswith(_REFUSED):
            raise PermissionError(f"A verifier may not use {event}.")

    return refuse


def _within(path: Any, folders: tuple[str, ...]) -> bool:
    path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    return os.path.realpath(path).startswith(folders)


def _check_code(code: CodeType, caller: str) -> None:
    """Code from a string may name nothing but mathematics, unless a library wrote it for itself; modules have
    a real file name.
    """
    if not code.co_filename.startswith("<") or code.co_filename.startswith("<frozen"):
        return
    if caller in (collections.__file__, dataclasses.__file__) or _generates_code(caller):
        return
    if code.co_names == ("sympy",) and ("*",) in code.co_consts:  # the parser's own `from sympy import *`
        return
    used = {*code.co_names, *code.co_varnames, *code.co_freevars}
    names = {name for name in used if len(name) > 1} - _MATHEMATICS  # single letters are variables
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    if names or inner:
        raise PermissionError(
            f"A verifier may not evaluate code that uses {sorted(names) or 'functions of its own'}."
        )


def _generates_code(caller: str) -> bool:
    """sympy compiles functions for its polynomials; its parsers and printers are what a text can reach."""
    inside = caller.rpartition(f"{os.sep}sympy{os.sep}")[2] if f"{os.sep}sympy{os.sep}" in caller else ""
    return inside.startswith(("polys", "core", "integrals", "series", "solvers"))


def _address_space() -> int:
    """Bytes of address space in use, where the system tells (Linux); elsewhere 0."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
