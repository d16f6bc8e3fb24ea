"""Prompts and verifiers. No module here imports jax: verifier workers load them in a fraction of a second."""

from entjax.tasks.absent import absent
from entjax.tasks.arithmetic import arithmetic, arithmetic_chat
from entjax.tasks.calculator import calculator, calculator_tool
from entjax.tasks.chars import Tokenizer, char_tokenizer
from entjax.tasks.countdown import countdown
from entjax.tasks.environment import Environment, Turn, silent
from entjax.tasks.hf_tokenizer import hf_tokenizer
from entjax.tasks.math_file import math_file
from entjax.tasks.math_words import math_words, number_words
from entjax.tasks.numbers import extract_answer, numbers_equal
from entjax.tasks.pool import Limits, scorer
from entjax.tasks.reasoning_gym import reasoning_gym
from entjax.tasks.scoring import Pending, Report, Scorer, Verdict
from entjax.tasks.split import split
from entjax.tasks.task import Example, Spec, Task

__all__ = [
    "Environment",
    "Example",
    "Limits",
    "Pending",
    "Report",
    "Scorer",
    "Spec",
    "Task",
    "Tokenizer",
    "Turn",
    "Verdict",
    "absent",
    "arithmetic",
    "arithmetic_chat",
    "calculator",
    "calculator_tool",
    "char_tokenizer",
    "countdown",
    "extract_answer",
    "hf_tokenizer",
    "math_file",
    "math_words",
    "number_words",
    "numbers_equal",
    "reasoning_gym",
    "scorer",
    "silent",
    "split",
]
