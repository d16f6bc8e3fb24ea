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
# TeX needs no braces around one digit: \frac12
_PART = rf"(?:\{{([-+]?{_DIGITS})\}}|([0-9]))"
_UNSIGNED_FRAC = rf"\\[cdt]?frac ?{_PART} ?{_PART}"
_FRAC = re.compile(rf"([-+]?){_UNSIGNED_FRAC}", re.ASCII)
_MIXED = re.compile(rf"([-+]?)({_DIGITS}) ?({_UNSIGNED_FRAC}|(?<= ){_DIGITS}/{_DIGITS})", re.ASCII)
_UNSIGNED = (
    rf"(?<![0-9])(?:{_DIGITS} {_DIGITS}/{_DIGITS}(?![0-9])|{_DIGITS} ?{_UNSIGNED_FRAC}"
    rf"|(?:{_PLAIN})(?![0-9])(?:{_EXPONENT}| ?/ ?{_DIGITS}(?![0-9]))?)|{_UNSIGNED_FRAC}"
)
# a sign belongs to the number only when nothing that could be subtracted from stands before it: "5-3" ends in
# 3
_IN_TEXT = re.compile(rf"(?:(?<![0-9A-Za-z)\]}}])[-+](?:\\?\$)?)?(?:{_UNSIGNED})", re.ASCII)
# what makes a number a part of something else: 10^6, x_3, \sqrt{2}, 12:30
_PART_OF = re.compile(r"(?:\^|\^\{|[A-Za-z)]_|_\{|sqrt\{|\]\{|[0-9]:)$", re.ASCII)
_BOXED = re.compile(rf"\\boxed[ \t]{{0,4}}(?:\{{|([-+]?(?:{_UNSIGNED})))", re.ASCII)
_MINUS = re.compile("\N{MINUS SIGN}|[\N{EN DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}"
                    "\N{SMALL HYPHEN-MINUS}\N{FULLWIDTH HYPHEN-MINUS}](?=[0-9.$\\\\])")  # fmt: skip
# "x = ", "total_1 = ", "The answer is ", "Final answer: "
_LEAD = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9_]{0,19} ?=|[A-Za-z][A-Za-z', ]{0,60}?(?: is| are|:)) ?(?=[^=:])", re.ASCII
)
# what dresses a number: \text{18}, 18\,000, m^2, 90^\circ
_MARKUP = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|underline)\{([^{}]{0,60})\}", re.ASCII
)
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|,\\!|\\!,)(?=[0-9]{3}(?![0-9]))", re.ASCII)
_SPACE = re.compile(r"(?:\\[,!;: ]|~|[ \t\n])+", re.ASCII)
_UNIT_POWER = re.compile(r"([A-Za-z])\^(?:\{[0-9]\}|[0-9])(?![0-9])", re.ASCII)
_DEGREES = re.compile(r"\^\{?\\circ\}?|\N{DEGREE SIGN}")
# words behind a number: a unit (" dollars", " km/h per day"), unless one of them makes another number of it
_UNIT = re.compile(r"(?<=[0-9}]) (?:[A-Za-z][A-Za-z/'.-]{1,19}[ ,]?){1,6}", re.ASCII)
_NO_UNIT = re.compile(
    r"\b(?:pi|sqrt|log|ln|sin|cos|tan|exp|mod|and|or|to|by|times|plus|minus|over|divided|more|less|than|least|most|not"
    r"|squared|cubed|factorial|hundred|thousand|million|billion|trillion|dozens?|hal(?:f|ves)|thirds?|quarters?"
    r"|(?:four|fif|six|seven|eigh|nin|ten)ths?)\b",
    re.ASCII | re.IGNORECASE,
)


def parse_number(text: str, *, units: bool = True) -> Fraction | None:
    """An integer, decimal, ratio, `\\frac{a}{b}`, mixed number or number with exponent, as an exact fraction;
    None for anything else.

    Dollar and percent signs, degrees, markup, blanks and brackets around the number, words that lead to it (`x = 42`, `The
    answer is 42`) and, with `units`, words behind it that could be a unit are dropped; commas, also TeX's `{,}` and `\\,`, may
    group thousands.
    """
    if len(text) > LONGEST_NUMBER:
        return None
    text = _field(text)
    if lead := _LEAD.match(text):
        text = _field(text[lead.end() :])
    if units and (unit := _UNIT.search(text)) and unit.end() == len(text) and not _NO_UNIT.search(unit[0]):
        text = text[: unit.start()]
    return _value(text)


def _field(text: str) -> str:
    """The text without what only dresses a number."""
    text = text.replace("\\$", "").replace("\\%", "").replace("$", "").replace("%", "")
    text = _THOUSANDS.sub(",", _MARKUP.sub(r" \1", _DEGREES.sub("", _MINUS.sub("-", text))))
    text = _UNIT_POWER.sub(r"\1", text)
    text = _SPACE.sub(" ", text).strip(" *`").rstrip(". *`")
    for _ in range(2):
        if text[:1] + text[-1:] in ("{}", "()") and "," not in text:
            text = text[1:-1].strip(" *`")
    return text[:1] + text[1:].lstrip() if text[:1] in ("-", "+") else text


def _value(text: str) -> Fraction | None:
    if _DECIMAL.fullmatch(text):
        return Fraction(_plain(text))
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(_plain(match[1])) * Fraction(10) ** int(match[2])
    if match := _FRAC.fullmatch(text):
        sign = -1 if match[1] == "-" else 1
        return _divide(sign * Fraction(match[2] or match[3]), Fraction(match[4] or match[5]))
    if match := _RATIO.fullmatch(text):
        return _divide(Fraction(_plain(match[1])), Fraction(_plain(match[2])))
    if match := _MIXED.fullmatch(text):
        rest = _value(match[3])
        if rest is not None and 0 < rest < 1:
            return (-1 if match[1] == "-" else 1) * (int(match[2]) + rest)
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
    """What the braces of the last `\\boxed` that holds something enclose, found by one scan that counts braces; without braces
    the number behind it.
    """
    for found in reversed(list(_BOXED.finditer(text))):
        inside = found[1].rstrip(".") if found[1] else _enclosed(text, found.end())
        if inside != "":
            return inside
    return None


def _enclosed(text: str, start: int) -> str | None:
    """What stands between an opened brace and its partner; None without one."""
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
    """The rest of the last line with `####` that is a number; the text's last line may hold anything.
    Elsewhere `####` is Markdown and heads a section: "#### Final Answer", "#### Step 1: Add".
    """
    lines = text.rstrip().split("\n")
    for number, line in reversed(list(enumerate(lines, start=1))):
        rest = line.rpartition("####")[2].strip() if "####" in line else ""
        if rest and (number == len(lines) or parse_number(rest, units=False) is not None):
            return rest
    return None


def last_number(text: str) -> str | None:
    """The last number (integer, decimal, ratio, mixed) in the text; None where it is a part of something: of a power, an
    index, a root.
    """
    text = _MARKUP.sub(r"\1", text[-TAIL:])
    text = _UNIT_POWER.sub(r"\1", _THOUSANDS.sub(",", _DEGREES.sub("", text)))
    found = [None, *_IN_TEXT.finditer(text)][-1]
    if found is None or text.startswith("^", found.end()):
        return None
    part = _PART_OF.search(text, max(0, found.start() - 8), found.start())
    return None if part else found[0].rstrip(".")


def _plain(text: str) -> str:
    return text.replace(",", "").rstrip(".")


def _divide(a: Fraction, b: Fraction) -> Fraction | None:
    return None if b == 0 else a / b
