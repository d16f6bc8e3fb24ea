"""Hostile answers: every verifier, within bounds of time, gives zero to a few hundred texts that are made to
hurt.
"""

import random
import time

import pytest

from entjax.tasks import (
    Example,
    Limits,
    arithmetic,
    arithmetic_chat,
    countdown,
    math_words,
    number_words,
    scorer,
)
from entjax.tasks.reasoning_gym import reasoning_gym

CODE = [
    "__import__('os').system('touch {path}')",
    "open('{path}', 'w').write('x')",
    "exec(\"open('{path}','w')\")",
    'eval(\'open("{path}","w")\')',
    "[c for c in ().__class__.__base__.__subclasses__()][0]",
    "(lambda f: f(f))(lambda f: f(f))",
    "getattr(__builtins__, 'open')('{path}', 'w')",
    "Symbol('x').__class__.__init__.__globals__['sys'].modules['os'].system('touch {path}')",
    "sympify(\"__import__('os').system('touch {path}')\")",
    "Function('__import__')('os')",
    "preview(x, viewer='file', filename='{path}')",
    "\\immediate\\write18{{touch {path}}}",
    "\\input{{/etc/passwd}}",
    "${{IFS}}`touch {path}`",
    "{0.__class__.__init__.__globals__}",
    "%(x)s %s %n %99999999d",
    "{:>999999999}",
]
HUGE = [
    "9**9**9**9",
    "9^{9^{9^{9}}}",
    "10**10**10",
    "factorial(99999999)",
    "99999999!",
    "2**99999999999",
    "1e999999999",
]
HUGE += [
    "binomial(10**9, 10**8)",
    "\\sum_{n=1}^{10^{12}} n",
    "\\prod_{n=1}^{10^9} n",
    "\\int_0^1 x^{x^{x^x}} dx",
    "1/3**99999",
]
UNICODE = [
    "\u0661\u0662",
    "\uff11\uff12",
    "\u00bd",
    "1\u200b2",
    "\u202e21",
    "\ud800",
    "\x00",
    "1\x002",
    "\U0001d7d9",
    "a\u0301" * 50,
]
SHAPES = [
    "(" * 5000,
    "[" * 5000 + "]" * 5000,
    "{" * 3000 + "}" * 3000,
    "\\frac{" * 500,
    "\\sqrt{" * 900 + "1" + "}" * 900,
]
SHAPES += [
    "-" * 10_000 + "1",
    "1+" * 5000 + "1",
    "1" * 20_000,
    "1," * 9000,
    "\\boxed{" * 3000,
    "####" * 4000,
    "<answer>" * 3000,
]
SHAPES += [
    "1/" * 8000,
    "." * 20_000,
    "0." * 9000,
    "\n" * 50_000,
    " " * 90_000 + "x",
    "=" * 20_000,
    ",".join(["1+1=2"] * 9000),
]
LONG = ["1" * 1_000_000, "a" * 1_000_000, "(" * 1_000_000, "\\boxed{" * 150_000, "1+1=2," * 170_000]


def hostile(path):
    texts = [code.replace("{path}", path).replace("{{", "{").replace("}}", "}") for code in CODE]
    texts += HUGE + UNICODE + SHAPES
    rng = random.Random(0)
    characters = "0123456789+-*/^(){}[]\\$%,.=_abx \n\t\u0663" + "\N{MINUS SIGN}"
    texts += ["".join(rng.choices(characters, k=rng.randint(1, 200))) for _ in range(60)]
    boxed = [f"\\boxed{{{text[:190]}}}" for text in texts[: len(CODE) + len(HUGE) + len(UNICODE)]]
    return texts + boxed + LONG


@pytest.mark.parametrize(
    "task", [countdown(3), countdown(4), arithmetic(), arithmetic_chat(digits=30)], ids=lambda t: t.name
)
def test_our_own_parsers_are_quick_and_say_no(tmp_path, task):
    texts = hostile(str(tmp_path / "hurt"))
    example = task.example(0)
    slowest = 0.0
    for text in texts:
        start = time.perf_counter()
        assert task.verify(example, text) == 0.0
        task.canonical(example, text)
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 0.25 and not list(tmp_path.iterdir())


def test_number_words_is_quick_too(tmp_path):
    task = number_words([Example("p", "123456789123456789")])
    start = time.perf_counter()
    texts = hostile(str(tmp_path / "hurt"))
    assert not any(task.verify(task.example(0), text) for text in texts)
    assert time.perf_counter() - start < 5.0


SLOW = [
    pytest.param(kind, marks=pytest.mark.slow)
    for kind in ("simple_integration", "string_insertion", "n_queens")
]


@pytest.mark.parametrize("kind", ["math", "countdown", "spiral_matrix", *SLOW])
def test_libraries_stay_inside_the_pool(tmp_path, kind):
    """No crash, no hang over the limit, nothing written, and right answers are right also afterwards."""
    pytest.importorskip("math_verify")
    pytest.importorskip("reasoning_gym")
    task = math_words([Example("p", "x^2+1")]) if kind == "math" else reasoning_gym(kind)
    texts = hostile(str(tmp_path / "hurt"))
    example = task.example(0)
    start = time.monotonic()
    with scorer(task, workers=2, limits=Limits(seconds=0.2, wall_seconds=10.0, memory_mb=512)) as pool:
        rewards, report = pool.score([example] * len(texts), texts)
        assert max(rewards) <= 0.05, [t[:80] for t, r in zip(texts, rewards, strict=True) if r > 0.05]
        assert report.too_long == len(LONG) and report.crashes == 0
        if kind in ("math", "spiral_matrix"):
            answer = "\\boxed{1+x^2}" if kind == "math" else example.answer
            assert pool.score([example], [answer])[0][0] == 1.0
    assert not list(tmp_path.iterdir()) and time.monotonic() - start < 60
