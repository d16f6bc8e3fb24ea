"""Reading and comparing final answers, arithmetic, and tokenizers."""

import json
import random
import time
from fractions import Fraction

import pytest

from entjax.models import CheckpointError
from entjax.tasks import (
    Example,
    arithmetic,
    arithmetic_chat,
    char_tokenizer,
    extract_answer,
    hf_tokenizer,
    number_words,
    numbers_equal,
)
from entjax.tasks.numbers import last_boxed, last_number, parse_number
from entjax.tasks.reasoning_gym import final_answer
from tests.words import IDS, write_words


@pytest.mark.parametrize(
    "text,value",
    [
        ("42", 42),
        ("-3", -3),
        ("\N{MINUS SIGN}3", -3),
        ("0.125", Fraction(1, 8)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("$1,000", 1000),
        ("\\$18.00", 18),
        ("25%", 25),
        ("3/4", Fraction(3, 4)),
        ("-6 / 8", Fraction(-3, 4)),
        ("\\frac{3}{-9}", Fraction(-1, 3)),
        ("-\\dfrac{1}{2}", Fraction(-1, 2)),
        ("1.5e3", 1500),
        ("2E-2", Fraction(1, 50)),
        ("1e5", 100_000),
        ("-.5e1", -5),
        ("\N{EN DASH}3", -3),
        ("\N{EN DASH}.5", Fraction(-1, 2)),
        ("x=42", 42),
        ("total_1 = -3/4", Fraction(-3, 4)),
        ("1{,}234", 1234),
        ("1{,}234{,}567.5", Fraction(2469135, 2)),
        ("1" + "0" * 39, 10**39),
    ],
)
def test_numbers_are_read_exactly(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,23",
        "1,2345",
        "1_000",
        "١٢",
        "1/0",
        "\\frac{1}{0}",
        "--1",
        "0x10",
        "1e999",
        "inf",
        "nan",
        "1 2",
        "9**9",
        "1/2/3",
        "1" * 101,
        "²",
        "1e",
        "1{,}23",
        "x=",
        "x=y",
        "x=y=1",
        "=1",
        "1=1",
        "x" * 21 + "=1",
        "5\N{EN DASH}3",
        "\\frac{1}{2",
        "+",
        ".",
    ],
)
def test_what_is_no_number_is_none(text):
    assert parse_number(text) is None


def test_equality_is_exact():
    assert numbers_equal("0.5", "\\frac{2}{4}") and numbers_equal("1,000", "1000.0")
    assert not numbers_equal("0.333", "1/3") and not numbers_equal("x", "x")


@pytest.mark.parametrize(
    "text,answer",
    [
        ("so 3 + 4 = 7.", "7"),
        ("a \\boxed{\\frac{1}{2}} and 9", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{ {2} }", "{2}"),
        ("steps\n#### 1,234\nbye 5", "1,234"),
        ("<answer> x+1 </answer> 3", "x+1"),
        ("from 5-3", "3"),
        ("it is -3", "-3"),
        ("(-4)", "-4"),
        ("1/2 or 3/4", "3/4"),
        ("we get \\frac{2}{6}", "\\frac{2}{6}"),
        ("12 apples cost 3.50", "3.50"),
        ("\\boxed{1", "1"),
        ("\\boxed 2 of 3", "2"),
        ("$\\boxed -1.5.$ 3", "-1.5"),
        ("\\boxed\\frac{1}{2}, 3", "\\frac{1}{2}"),
        ("\\boxed {x=42} 3", "x=42"),
        ("\\boxed{5}, which I have \\boxed as asked in 1 step", "5"),
        ("\\boxed{1{,}234} 3", "1{,}234"),
        ("costs 1{,}234 in all", "1,234"),
        ("#### Final Answer\n42", "42"),
        ("#### 42\n#### Check\nIt holds", "42"),
        ("3 + 4\n#### x+y\n", "x+y"),
        ("#### ", None),
        ("The answer is \N{MINUS SIGN}5.", "-5"),
        ("The answer is \N{EN DASH}5.", "-5"),
        ("pages 5\N{EN DASH}10", "10"),
        ("it is 1e5", "1e5"),
        ("it is -2.5E-3.", "-2.5E-3"),
        ("1e999", "999"),
        ("none", None),
        ("7" * 50, None),
    ],
)
def test_final_answer_is_found(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text,answer",
    [
        ("<answer>\\boxed{7}</answer>", "7"),
        ("<answer> 7 </answer> and 8", "7"),
        ("<answer>6</answer> no: <answer>7</answer>", "7"),
        ("<think>maybe <answer>0</answer></think>\\boxed{7}", "7"),
        ("<think>5</think> x y ", "x y"),
        (" x y ", "x y"),
    ],
)
def test_the_final_answer_of_a_reply_behind_its_thoughts(text, answer):
    assert final_answer(text) == answer


def test_a_box_with_deep_braces_is_read_to_its_end():
    inner = "{" * 1000 + "1" + "}" * 1000
    assert last_boxed("\\boxed{" + inner + "}") == inner
    assert last_number("a" * 10_000 + " 12") == "12"


@pytest.mark.parametrize(
    "reference,text,reward",
    [
        ("5", "The answer is \N{MINUS SIGN}5.", 0.0),
        ("-5", "The answer is \N{MINUS SIGN}5.", 1.0),
        ("100000", "It is 1e5", 1.0),
        ("42", "\\boxed{x=42}", 1.0),
        ("x = 42", "42", 1.0),
        ("1234", "\\boxed{1{,}234}", 1.0),
        ("so $\\boxed 2$ of 3", "\\boxed 2", 1.0),
        ("42", "#### Final Answer\n42", 1.0),
    ],
)
def test_answers_are_compared_as_they_are_written(reference, text, reward):
    task = number_words([Example("?", reference)])
    assert task.verify(task.example(0), text) == reward


RIGHT = {
    "10": ["#### Step 1: Add\n6+4=10\nThe answer is 10.", "#### Question 3\nSo it is 10", "#### Step 2: Conclude\n**10**",
           "#### **10**", "#### 10 apples", "#### The answer is 10.", "#### Answer: 10", "#### $10 per day", "Answer:10",
           "__10__", "#### 10\nI hope that this helps, 3 of 3", "\\boxed{10 \\text{ cm}^2}"],
    "18": ["\\boxed{18\\text{ dollars}}", "\\boxed{18 dollars}", "\\boxed{\\$18 \\text{ per day}}", "\\boxed{{18}}",
           "\\boxed{\\text{18}}", "<answer>18 dollars</answer>", "\\boxed{18\\,}", "\\boxed{18}\\boxed{}",
           "\\boxed{18^\\circ}", "\\boxed{18\\ \\text{km/h}}", "\\boxed{\\mathbf{18}}"],
    "18000": ["\\boxed{18\\,000}", "It is 18\\,000.", "\\boxed{18,\\!000}"],
    "-3": ["\\boxed{(-3)}", "\\boxed{- 3}", "The change is -$3.", "-\\$3", "\N{NON-BREAKING HYPHEN}3",
           "\N{FULLWIDTH HYPHEN-MINUS}3"],
    "0.5": ["\\boxed{\\frac12}", "\\boxed{\\cfrac{1}{2}}", "x=\\frac12", "x-\\frac{1}{2}"],
    "2.5": ["It takes 2 1/2 hours.", "\\boxed{2\\frac{1}{2}}", "2\\frac12 hours"],
    "12": ["The area is 12 m^2.", "12 cm^{3}"],
}  # fmt: skip
WRONG = {
    "2": ["The area is 12 m^2.", "\\sqrt{2}", "\\boxed{2 million}", "\\boxed{2 \\pi}", "\\boxed{2 pi}", "\\boxed{2x}",
          "\\boxed{2 or 3}", "\\boxed{\\sqrt{2}}"],
    "3": ["The change is -$3.", "x_3", "\\boxed{3 quarters}", "\\boxed{negative 3}", "\\boxed{3 or more}", "10^3"],
    "10": ["It is 10^6."],
    "0.5": ["It takes 2 1/2 hours."],
    "-0.5": ["x-\\frac{1}{2}"],
    "12": ["x=\\frac12"],
    "30": ["12:30"],
    "0": ["It is 18\\,000."],
    "1200": ["\\boxed{(1,200)}"],
}  # fmt: skip


@pytest.mark.parametrize("reference,text", [(r, text) for r, texts in RIGHT.items() for text in texts])
def test_a_right_answer_counts_however_it_is_dressed(reference, text):
    task = number_words([Example("?", reference)])
    assert task.verify(task.example(0), text) == 1.0


@pytest.mark.parametrize("reference,text", [(r, text) for r, texts in WRONG.items() for text in texts])
def test_a_number_cut_out_of_something_else_does_not_count(reference, text):
    task = number_words([Example("?", reference)])
    assert task.verify(task.example(0), text) == 0.0


@pytest.mark.parametrize(
    "hostile",
    [
        "\\boxed" * 20_000, "\\boxed 1" * 10_000, "\\boxed{" * 10_000, "####" * 30_000, "#### 1\n" * 15_000,
        "#### x\n" * 15_000, "\N{EN DASH}" * 100_000, "{,}" * 30_000, "1{,}" * 30_000, "1e" * 50_000, "x=" * 50_000,
    ],
)  # fmt: skip
def test_hostile_texts_cost_little(hostile):
    start = time.process_time()
    parse_number(extract_answer(hostile) or "")
    last_boxed(hostile)
    last_number(hostile)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("task", [arithmetic(3), arithmetic(1, "*"), arithmetic_chat(2, "-")])
def test_arithmetic_agrees_with_python(task):
    signs = set()
    for index in range(200):
        example = task.example(index)
        words = example.prompt.removeprefix("What is ").split("?")[0].removesuffix("=").replace(" ", "")
        op = next(char for char in words if char in "+-*")
        a, b = map(int, words.split(op))
        expected = {"+": a + b, "-": a - b, "*": a * b}[op]
        signs.add((expected > 0) - (expected < 0))
        assert task.solution(example, random.Random(0)) == str(expected)
        assert task.verify(example, str(expected)) == 1.0
        assert task.verify(example, str(expected + 1)) == 0.0
        assert task.canonical(example, str(expected)) == str(expected)
    assert signs >= {0, 1}


def test_character_answers_must_be_exact_and_replies_may_talk():
    example = arithmetic(2, "+").example(0)
    verify = arithmetic(2, "+").verify
    assert verify(example, example.answer + "$") == 1.0
    assert [
        verify(example, text) for text in ("0" + example.answer, " " + example.answer, example.answer + "$$")
    ] == [0, 0, 0]
    chat = arithmetic_chat(2, "+")
    example = chat.example(0)
    assert chat.verify(example, f"The answer is {example.answer}.") == 1.0
    assert chat.verify(example, f"{example.answer} or 1000") == 0.0


@pytest.mark.parametrize("arguments", [(0,), (2, "/"), (2, "")])
def test_arithmetic_refuses_what_it_cannot_do(arguments):
    with pytest.raises(ValueError, match="choose"):
        arithmetic(*arguments)


def test_char_tokenizer_round_trip_and_refusals():
    tokenizer = char_tokenizer("abc", bos="^")
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (6, 0, 1, 2)
    assert tokenizer.encode("^cab$") == [2, 5, 3, 4, 1]
    assert tokenizer.decode([2, 5, 3, 4, 1, 0, 0, 77]) == "cab"
    with pytest.raises(ValueError, match="'d' in 'abcd' is not in the alphabet"):
        tokenizer.encode("abcd")
    with pytest.raises(ValueError, match="distinct"):
        char_tokenizer("ab$")


def test_hf_tokenizer_folder(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"<pad>": 0, "</s>": 1, "[": 2, "]": 3, "what": 4, "is": 5, "one": 6}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="one"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")
    fast.chat_template = "{% for m in messages %}[ {{ m['content'] }} ]{% endfor %}"
    fast.save_pretrained(tmp_path)
    tokenizer = hf_tokenizer(tmp_path)
    assert tokenizer.encode("what is one") == [4, 5, 6]
    assert tokenizer.decode([4, 5, 6, 1, 0, 99]) == "what is one"
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size, tokenizer.stop_ids) == (1, 0, 7, (1,))
    assert tokenizer.chat("what is one") == "[ what is one ]"
    with pytest.raises(FileNotFoundError, match="fetches no model by itself"):
        hf_tokenizer(tmp_path / "absent")


def test_the_ids_of_the_generation_config_end_a_completion_too(tmp_path):
    write_words(tmp_path)
    stops = lambda: hf_tokenizer(tmp_path).stop_ids
    end, other, own = IDS["<end>"], IDS["]"], IDS["</s>"]
    assert stops() == (own,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": other}))
    assert stops() == (own, other)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, own]}))
    assert stops() == (own, end, other)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(CheckpointError, match="write a token id or a list"):
        stops()
