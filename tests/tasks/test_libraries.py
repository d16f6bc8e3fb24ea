"""Tasks that lean on other libraries: math-verify and reasoning-gym, in the pool as in a run."""

import json

import pytest

from entjax.data import jsonl
from entjax.tasks import Example, Limits, math_words, number_words, reasoning_gym, scorer
from entjax.tasks.reasoning_gym import pack, unpack

ROOMY = Limits(seconds=10.0, wall_seconds=60.0)
FORMULAS = [
    ("\\frac{\\sqrt{2}}{2}", "\\boxed{\\frac{1}{\\sqrt{2}}}", 1),
    ("x^2+1", "so \\boxed{1 + x^2}", 1),
    ("x^2+1", "so \\boxed{x^2 - 1}", 0),
    ("\\{1, 2\\}", "\\boxed{\\{2, 1\\}}", 1),
    ("[0, 1)", "\\boxed{[0, 1)}", 1),
    ("[0, 1)", "\\boxed{[0, 1]}", 0),
    ("50\\%", "\\boxed{\\frac{1}{2}}", 1),
    ("50\\%", "\\boxed{50\\%}", 1),
    ("2\\pi r", "\\boxed{2r\\pi}", 1),
    ("Natalia sold 24 clips.\n#### 72", "24 and 48 make 72.", 1),
    ("Natalia sold 24 clips.\n#### 72", "24 and 48 make 71.", 0),
    ("1/3", "0.3333", 0),
    ("7", "I do not know.", 0),
]


def test_formulas_are_judged_in_the_pool():
    pytest.importorskip("math_verify")
    task = math_words([Example("p", answer) for answer, _, _ in FORMULAS])
    examples = [task.example(i) for i in range(task.size)]
    with scorer(task, workers=1, limits=ROOMY) as pool:
        rewards, report = pool.score(examples, [text for _, text, _ in FORMULAS])
    assert list(rewards) == [expected for _, _, expected in FORMULAS]
    assert report.verified == len(FORMULAS)
    assert task.canonical(examples[0], "\\boxed{ 2/4 }") == "1/2"


def test_number_words_needs_no_library_and_refuses_formulas(tmp_path):
    path = tmp_path / "words.jsonl"
    path.write_text(
        '{"question": "2+2?", "answer": "so #### 4"}\n{"question": "half of 1?", "answer": 0.5}\n'
    )
    task = number_words(jsonl(path, prompt="question"))
    assert task.verifier is None and task.size == 2
    assert task.verify(task.example(0), "it is 4.0") == 1.0
    assert task.verify(task.example(1), "1/2") == 1.0
    assert task.verify(task.example(1), "1/3") == 0.0
    with pytest.raises(ValueError, match="is not a number; use math_words"):
        number_words([Example("p", "x+1")])
    with pytest.raises(ValueError, match="empty"):
        math_words([])
    with pytest.raises(IndexError, match="no example 2"):
        task.example(2)


@pytest.mark.parametrize("name", ["chain_sum", "countdown", "polynomial_multiplication"])
def test_reasoning_gym_scores_its_own_answers(name):
    pytest.importorskip("reasoning_gym")
    task = reasoning_gym(name, seed=3)
    examples = [task.example(i) for i in (0, 1, 2, 1)]
    assert task.example(1) == reasoning_gym(name, seed=3).example(1) != reasoning_gym(name, seed=4).example(1)
    texts = [
        f"I think\n<answer>{examples[0].answer}</answer>",
        examples[1].answer,
        "wrong",
        "<answer>1 1</answer>",
    ]
    if name == "countdown":
        texts[0], texts[1] = (example.answer for example in examples[:2])
    with scorer(task, workers=1, limits=ROOMY) as pool:
        rewards, report = pool.score(examples, texts)
        assert report.verified == 4 and all(rewards[:2] == 1.0) and all(rewards[2:] < 0.1)
    assert task.verify is None  # not safe on model text in this process


def test_reasoning_gym_names_and_configurations_are_checked_at_once():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match="chain_sum"):
        reasoning_gym("chain_sums")
    with pytest.raises(ValueError, match="refused"):
        reasoning_gym("chain_sum", no_such_option=1)
    with pytest.raises(TypeError):
        reasoning_gym("chain_sum", min_terms={1})


def test_entries_travel_as_json_unchanged():
    value = {"a": (1, [2.5, "x"], {}), 3: None, (1, 2): [True, ()], "l": ["tuple", 1]}
    assert unpack(json.loads(json.dumps(pack(value)))) == value
    with pytest.raises(TypeError, match="set is not plain data"):
        pack({"a": {1}})
