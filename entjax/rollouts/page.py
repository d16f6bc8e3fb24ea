"""The table of rollout strategies in docs/rollouts.md, read off the code: `python -m entjax.rollouts.page` writes it anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entjax import rollouts
from entjax.rollouts import EchoRules, Strategy, silent

START, END = "<!-- table: generated -->", "<!-- end of table -->"
PROMPTS = 8  # of the batch whose rows the table counts


def known() -> list[tuple[Callable[..., Strategy], Strategy, int]]:
    """(factory, one strategy that it makes, samples) of every strategy."""
    world = {"environment": silent(",")}
    rules = {"rules": EchoRules(entropy_high=1.5, branch_threshold=2.0)}
    needs: list[tuple[Callable, dict[str, Any], int]] = [
        (rollouts.groups, {}, 16), (rollouts.multi_turn, world, 16), (rollouts.cure, {}, 16), (rollouts.arpo, world, 16),
        (rollouts.agentic, world, 12), (rollouts.tree, {}, 60), (rollouts.votes, {}, 32), (rollouts.echo, rules, 32),
        (rollouts.tool_light, world, 10), (rollouts.tempered, {}, 16), (rollouts.replay, {"size": 32}, 16),
        (rollouts.recent_samples, {}, 16), (rollouts.augmentation, {}, 8), (rollouts.taught, {}, 16),
    ]  # fmt: skip
    return [(make, make(**given), samples) for make, given, samples in needs]


def table() -> str:
    """One line a strategy."""
    lines = [
        "| strategy | what it does | mask | rows of a batch | rollout.extra | remembers |",
        "|---|---|---|---|---|---|",
    ]
    for make, strategy, samples in known():
        text = sys.modules[make.__module__].__doc__ or ""
        mask = re.search(r"Mask: (.+?)\.(?: |$)", " ".join(text.split()))
        if mask is None:
            raise ValueError(
                f"The docstring of {make.__module__} must say 'Mask: ...': which tokens of a row learn."
            )
        rows = strategy.rows(PROMPTS, samples)
        cells = (
            f"`{make.__name__}`",
            " ".join(text.split("\n\n")[0].split()),
            mask[1],
            "prompts × samples" if rows == PROMPTS * samples else f"{rows} for {PROMPTS} × {samples}",
            ", ".join(f"`{name}`" for name in sorted(strategy.provides)) or "-",
            strategy.remembers or "-",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def docs_page() -> Path:
    """Where the page lies in a checkout."""
    return Path(__file__).parent.parent.parent / "docs" / "rollouts.md"


def with_table(text: str) -> str:
    """The page with the table of today."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    page = docs_page()
    page.write_text(with_table(page.read_text()))
