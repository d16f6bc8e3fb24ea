"""What each recipe is made of: the table of `entjax methods` and the page docs/methods.md, both read off the code.

A recipe's docstring starts with "Title (paper): what it does.", then may say "With: ..." (what else a config needs),
"Evidence: ..." and "Differs: ..." (from paper or released code). Everything else comes from the Objective that it returns.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax

from entjax import recipes
from entjax.loss import Objective
from entjax.transform import Transform

PLACES = {"reward": "reward", "advantage": "advantage", "weight": "weight", "mask": "mask", "clip_low": "clip",
          "clip_high": "clip", "coef": "loss term", "scale": "average", "knobs": "rollout"}  # fmt: skip


class Method(NamedTuple):
    """One recipe, as far as it can be told without running it."""

    name: str
    title: str
    paper: str
    what: str
    beside: str
    evidence: str
    differs: str
    objective: Objective
    options: dict[str, Any]

    @property
    def places(self) -> str:
        """Where it intervenes beside the plain average."""
        fields = {f for part in self.objective.parts for f in part.writes} - {"scale"}
        return ", ".join(dict.fromkeys(PLACES[f] for f in PLACES if f in fields))

    @property
    def state(self) -> str:
        """The transforms that carry state."""
        return ", ".join(p.name for p in self.objective.parts if jax.tree.leaves(p.init(None))) or "-"

    @property
    def reads(self) -> str:
        """Which features of the policy it needs, beyond what every run computes."""
        o = self.objective
        wanted = {**o.per_step.reads, **o.remembers}
        return ", ".join([*wanted, *sorted(o.needs)]) or "-"


def method(name: str) -> Method:
    """The facts of one recipe."""
    make = getattr(recipes, name)
    text = inspect.getdoc(make) or ""
    head = re.match(
        r"(?P<title>.+?) \((?P<paper>[^)]*)\): (?P<what>.+)", " ".join(text.split("\n\n")[0].split())
    )
    if head is None:
        raise ValueError(f"The docstring of recipes.{name} must start with 'Title (paper): what it does.'")
    note = lambda key: (re.search(rf"{key}: (.+?)(?:\n\n|\Z)", text, re.S) or [None, "-"])[1]
    options = {p.name: p.default for p in inspect.signature(make).parameters.values()}
    flat = lambda s: " ".join(s.split())
    notes = {key: flat(note(key)) for key in ("With", "Evidence", "Differs")}
    return Method(name, **head.groupdict(), beside=notes["With"], evidence=notes["Evidence"], differs=notes["Differs"],
                  objective=make(), options=options)  # fmt: skip


def table() -> str:
    """One line a recipe, for the terminal."""
    rows = [("recipe", "paper", "intervenes at", "state", "reads")]
    rows += [(m.name, m.paper, m.places, m.state, m.reads) for m in map(method, recipes.names())]
    widths = [min(max(len(row[i]) for row in rows), 44) for i in range(5)]
    cut = lambda text, width: text if len(text) <= width else text[: width - 1] + "…"
    lines = [
        "  ".join(cut(cell, w).ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, "", "entjax methods NAME tells what one is made of; train with recipe=NAME."])


def describe(name: str) -> str:
    """Everything about one recipe, or about one transform of some recipe."""
    if name not in recipes.names():
        return describe_transform(name)
    m = method(name)
    lines = [
        f"{m.name}: {m.title} ({m.paper})",
        "",
        inspect.getdoc(getattr(recipes, name)) or "",
        "",
        repr(m.objective),
        "",
    ]
    lines += ["options: " + (", ".join(f"recipe.{k}={v}" for k, v in m.options.items()) or "none"), ""]
    return "\n".join([*lines, *(line for part in m.objective.parts for line in _part(part))])


def describe_transform(name: str) -> str:
    """The recipes that use a transform, and what it is."""
    found = [
        (m.name, part)
        for m in map(method, recipes.names())
        for part in m.objective.parts
        if part.name == name
    ]
    if not found:
        import difflib

        parts = {p.name for m in map(method, recipes.names()) for p in m.objective.parts}
        near = difflib.get_close_matches(name, [*recipes.names(), *parts], n=1, cutoff=0.4)
        raise ValueError(f"There is no method '{name}'" + (f"; did you mean '{near[0]}'?" if near else "."))
    return "\n".join([*_part(found[0][1]), f"  used by: {', '.join(recipe for recipe, _ in found)}"])


def _part(part: Transform) -> list[str]:
    show = lambda value: getattr(value, "__qualname__", None) or str(value).split(" at 0x")[0][:60]
    facts = {
        "hyperparameters": ", ".join(f"{k}={show(v)}" for k, v in part.hyper.items()),
        "writes": ", ".join(sorted(part.writes)),
        "reads (current policy)": ", ".join(part.reads),
        "remembers (behaviour policy)": ", ".join(part.remembers),
        "needs rollout.extra": ", ".join(sorted(part.needs)),
        "loss terms": ", ".join(part.terms),
        "owns": ", ".join(sorted(part.owns)),
        "state": "yes" if jax.tree.leaves(part.init(None)) else "",
    }
    return [part.name, *(f"  {key}: {value}" for key, value in facts.items() if value)]


ROOMS = ("rewards", "advantages", "weights", "clips", "regularizers", "averages")


def home(part: Transform) -> Path:
    """The file that a transform comes from: the one in its rooms that gives it its name."""
    root = Path(__file__).parent
    name = part.name.partition("/")[0]  # one transform twice in a chain: full_kl/forward, full_kl/reverse
    named = re.compile(rf'(tunable|stateless|stateful|Transform)\(\s*"{name}"|^def {name}\(', re.M)
    for path in (path for room in ROOMS for path in sorted((root / room).glob("*.py"))):
        if named.search(path.read_text()):
            return path.relative_to(root.parent)
    raise ValueError(f"No file of {', '.join(ROOMS)} holds a transform named '{part.name}'.")


def equation(path: Path) -> str:
    """The first indented lines of a method file's docstring."""
    text = (Path(__file__).parent.parent / path).read_text().split('"""')[1]
    lines = re.search(r"\n\n((?:    .+\n?)+)", text)
    return " ; ".join(" ".join(line.split()) for line in lines[1].splitlines()) if lines else ""


def tests_of(path: Path) -> list[str]:
    """Test files that call a method of this file by its room and name."""
    called = f"{path.parent.name}.{path.stem}"
    folder = Path(__file__).parent.parent / "tests"
    places = sorted((folder / "golden").glob("test_*.py")) + sorted(
        (folder / path.parent.name).glob("test_*.py")
    )
    found = [t for t in places if called in t.read_text()]
    return [str(t.relative_to(folder.parent)) for t in found]


def page() -> str:
    """docs/methods.md."""
    head = (
        "Generated by `python -m entjax.methods > docs/methods.md`; a test keeps it current. Each recipe is one function in "
        "`entjax/recipes/`; each transform one file in the room of the field that it writes. Every transform is in the "
        "contract table (`tests/contract/`); numbers of the papers' own code are in `tests/golden/`."
    )
    columns = (
        "recipe",
        "paper",
        "what it does",
        "beside it in a config",
        "intervenes at",
        "made of",
        "state",
        "evidence",
        "differs from paper or released code",
    )
    lines = ["# Methods", "", head, "", "## Recipes", "", _row(*columns), "|---" * len(columns) + "|"]
    all_methods = [method(name) for name in recipes.names()]
    link = lambda p: f"[`{p.name}`](../{home(p)})"
    for m in all_methods:
        made = " → ".join(map(link, m.objective.parts))
        lines.append(
            _row(
                f"`{m.name}`",
                f"{m.title} ({m.paper})",
                m.what,
                m.beside,
                m.places,
                made,
                m.state,
                m.evidence,
                m.differs,
            )
        )
    lines += [
        "",
        "## Transforms",
        "",
        "| transform | equation | used by | tested in, beside the contract table |",
        "|---|---|---|---|",
    ]
    parts = {p.name: p for m in all_methods for p in m.objective.parts}
    for name in sorted(parts):
        path = home(parts[name])
        users = [m.name for m in all_methods if name in [p.name for p in m.objective.parts]]
        used = "most recipes" if len(users) > 8 else ", ".join(f"`{u}`" for u in users)
        tests = ", ".join(f"[{Path(t).stem}](../{t})" for t in tests_of(path)[:3])
        lines.append(_row(link(parts[name]), f"`{equation(path)}`" if equation(path) else "", used, tests))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def docs_page() -> Path:
    """Where the generated page lies in a checkout."""
    return Path(__file__).parent.parent / "docs" / "methods.md"


if __name__ == "__main__":
    print(page(), end="")
