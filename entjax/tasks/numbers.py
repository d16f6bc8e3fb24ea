"""Find and compare the final answer of a worked solution, exactly and in linear time.

Model text is read by bounded patterns over a bounded tail and compared as fractions; nothing is evaluated.
Only ASCII digits
count: Python's `int` would also take digits of other scripts and underscores.
"""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST_NUMBER = 100
TAIL = 4096  # the final answer stands at the end; a longer text is searched in its last characters only

_DIGITS = r"[0-9]{1,40}"
_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3}){1,12}(?![0-9])"
_PLAIN = rf"(?:{_GROUPED}|{_DIGITS})(?:\.[0-9]{{0,40}})?|\.{_DIGITS}"
_DECIMAL = re.compile(rf"[-+]?(?:{_PLAIN})", re.ASCII)
_EXPONENT = r"[eE][-+]?[0-9]{1,2}(?![0-9])"
_SCIENTIFIC = re.compile(rf"([-+]?(?:{_PLAIN}))[eE]([-+]?[0-9]{{1,2}})", re.ASCII)
_RATIO = re.compile(rf"([-+]?(?:{_PLAIN})) ?/ ?([-+]?(?:{_PLAIN}))", re.ASCII)
_FRAC = re.compile(rf"([-+]?)\\[dt]?frac ?\{{([-+]?{_DIGITS})\}} ?\{{([-+]?{_DIGITS})\}}", re.ASCII)
_UNSIGNED = rf"(?<![0-9])(?:{_PLAIN})(?![0-9])(?:{_EXPONENT}| ?/ ?{_DIGITS}(?![0-9]))?"
# a sign belongs to the number only when nothing that could be subtracted from stands before it: "5-3" ends in
# 3
_IN_TEXT = re.compile(rf"(?:(?<![0-9A-Za-z)\]}}])[-+])?{_UNSIGNED}|{_FRAC.pattern}", re.ASCII)
# TeX needs no braces around one number
_BOXED = re.compile(rf"\\boxed[ \t]{{0,4}}(?:\{{|([-+]?{_UNSIGNED}|{_FRAC.pattern}))", re.ASCII)
_MINUS = re.compile("\N{MINUS SIGN}|\N{EN DASH}(?=[0-9.])")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,19} ?= ?", re.ASCII)


def parse_number(text: str) -> Fraction | None:
    """An integer, decimal, ratio, `\\frac{a}{b}` or number with exponent, as an exact fraction; None for
    anything else.

    Dollar and percent signs, blanks around the number and one name before it (`x = 42`) are dropped; commas,
    also TeX's `{,}`, may group thousands.
    """
    if len(text) > LONGEST_NUMBER:
        return None
    text = text.replace("\\$", "").replace("\\%", "").replace("$", "").replace("%", "").strip().rstrip(".")
    text = _MINUS.sub("-", text).replace("{,}", ",")
    if name := _NAME.match(text):
        text = text[name.end() :]
    if _DECIMAL.fullmatch(text):
        return Fraction(_plain(text))
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(_plain(match[1])) * Fraction(10) ** int(match[2])
    if match := _FRAC.fullmatch(text):
        sign = -1 if match[1] == "-" else 1
        return _divide(sign * Fraction(match[2]), Fraction(match[3]))
    if match := _RATIO.fullmatch(text):
        return _divide(Fraction(_plain(match[1])), Fraction(_plain(match[2])))
    return None


def numbers_equal(a: str, b: str) -> bool:
    """Whether both texts are numbers with exactly the same value: `0.5`, `1/2` and `\\frac{2}{4}` are equal,
    `0.333` and `1/3` are not.
    """
    x, y = parse_number(a), parse_number(b)
    return x is not None and y is not None and x == y


def extract_answer(text: str) -> str | None:
    """The final answer: inside the last `\\boxed{}`, else in the last `<answer>`, else after the last `####`
    that heads no section, else the last number. Signs that look like a minus are one.
    """
    text = _MINUS.sub("-", text[-TAIL:])
    for find in (last_boxed, last_tagged, last_hashes, last_number):
        found = find(text)
        if found is not None:
            return found
    return None


def last_boxed(text: str) -> str | None:
    """What the braces of the last `\\boxed` enclose, found by one scan that counts braces; without braces the
    number behind it.
    """
    found = [None, *_BOXED.finditer(text)][-1]
    if found is None:
        return None
    if found[1]:
        return found[1].rstrip(".")
    start = found.end()
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end].strip()
    return None


def last_tagged(text: str) -> str | None:
    """What the last `<answer>...</answer>` encloses."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return None if start < 0 else text[start + len("<answer>") : end].strip()


def last_hashes(text: str) -> str | None:
    """The rest of the last line with `####` that holds a number; the text's last line may hold anything.
    Elsewhere `####` is Markdown and heads a section: "#### Final Answer".
    """
    lines = text.rstrip().split("\n")
    for number, line in reversed(list(enumerate(lines, start=1))):
        rest = line.rpartition("####")[2].strip() if "####" in line else ""
        if rest and (number == len(lines) or last_number(rest) is not None):
            return rest
    return None


def last_number(text: str) -> str | None:
    """The last number (integer, decimal or ratio) in the text."""
    found = None
    for match in _IN_TEXT.finditer(text[-TAIL:].replace("{,}", ",")):
        found = match[0]
    return None if found is None else found.rstrip(".")


def _plain(text: str) -> str:
    return text.replace(",", "").rstrip(".")


def _divide(a: Fraction, b: Fraction) -> Fraction | None:
    return None if b == 0 else a / b
