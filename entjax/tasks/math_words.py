"""Math problems in words: the final answer of a worked solution against the known one, as numbers or as
formulas.

    task = ej.tasks.math_words(ej.data.jsonl("gsm8k.jsonl", prompt="question", answer="answer"))

The final answer is found by `numbers.extract_answer`, in the reply and (where the data set gives a worked
solution) in the reference. Two numbers are compared exactly. Anything else goes to `math-verify`, in a worker
process, and only when it is short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from entjax.tasks.numbers import extract_answer, numbers_equal, parse_number
from entjax.tasks.task import Example, Spec, Task, check_index, same_as

LONGEST_FORMULA = 200


def math_words(source: Sequence[Example], *, name: str = "math-words") -> Task:
    """Problems with numbers or formulas as answers, judged with math-verify in the verifier pool."""
    spec = Spec(f"{__name__}:symbolic")
    verify = same_as(spec, lambda example, text: symbolic()(example, text))
    return Task(name, _reader(source, name), len(source), verify, verifier=spec, canonical=canonical)


def number_words(source: Sequence[Example], *, name: str = "number-words") -> Task:
    """Problems whose answers are numbers: judged exactly by our own linear-time reader, without math-verify
    and without a pool.
    """
    task = Task(name, _reader(source, name), len(source), numeric, canonical=canonical)
    for index in range(min(len(source), 1000)):
        answer = _reference(source[index])
        if parse_number(answer) is None:
            raise ValueError(
                f"{name}: the answer of example {index}, {answer[:60]!r}, is not a number;"
                " use math_words for formulas."
            )
    return task


def numeric(example: Example, text: str) -> float:
    """1 when the final answer is a number equal to the reference."""
    return float(numbers_equal(extract_answer(text) or "", _reference(example)))


def symbolic() -> Callable[[Example, str], float]:
    """The verifier that also knows formulas, sets and intervals. Loading it imports sympy, once."""
    try:
        from math_verify import parse, verify
        from math_verify.parser import LatexExtractionConfig
    except ImportError as error:
        raise ImportError(
            "math_words needs math-verify: pip install 'entjax[tasks]' (or use number_words)."
        ) from error
    # LaTeX only: the other kind of extraction hands the text to sympy's parser, which evaluates it
    config = [LatexExtractionConfig()]

    def read(formula: str) -> list:
        # the pool bounds the time; the library's own alarm would get in the way of the pool's
        return parse(f"${formula}$", extraction_config=config, parsing_timeout=None, raise_on_error=False)

    def judge(example: Example, text: str) -> float:
        answer, reference = extract_answer(text), _reference(example)
        if answer is None or not answer or len(answer) > LONGEST_FORMULA:
            return 0.0
        if (
            parse_number(answer) is not None
            and parse_number(reference) is not None
            and _same_unit(answer, reference)
        ):
            return float(numbers_equal(answer, reference))
        return float(verify(read(reference), read(answer), timeout_seconds=None, raise_on_error=False))

    for formula in (r"\frac{\sqrt{2}}{3}", r"x^2+1", r"[0, 1)", r"\{1, 2\}", r"(1, 2)", r"x=3", r"50\%"):
        judge(
            Example("", formula), rf"\boxed{{{formula}}}"
        )  # what is imported on first use is imported before the limits are set
    return judge


def canonical(example: Example, text: str) -> str | None:
    """The final answer: numbers as reduced fractions, anything else without blanks."""
    del example
    answer = extract_answer(text)
    if answer is None:
        return None
    value = parse_number(answer)
    return "".join(answer.split())[:LONGEST_FORMULA] if value is None else str(value)


def _reference(example: Example) -> str:
    """The known answer; data sets such as GSM8K give a worked solution that ends in it."""
    answer = str(example.answer)
    worked = "####" in answer or "\\boxed" in answer
    return (extract_answer(answer) if worked else None) or answer.strip()


def _same_unit(a: str, b: str) -> bool:
    """Whether both or neither is a percentage; 50% and 0.5 are for math-verify to compare."""
    return ("%" in a) == ("%" in b)


def _reader(source: Sequence[Example], name: str) -> Callable[[int], Example]:
    if len(source) == 0:
        raise ValueError(f"{name}: the data set is empty.")

    def example(index: int) -> Example:
        check_index(index, len(source), name)
        return source[index]

    return example
