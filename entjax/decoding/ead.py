"""Entropy-adaptive decoding: which of two models writes the next token (EAD, arXiv 2502.06833).

    Hbar_t = mean of the last w entropies, in bits before the temperature, of whichever model wrote each token
    n >= d_min tokens since the last switch:  the large model iff Hbar_t > tau;   otherwise the model stays

The first token comes from the small model; a window that is not yet full averages what is there. d_min is not published
(10 here), tau is swept. Written after the text of two reviews. `rollouts.switching` runs two samplers by this rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALL, LARGE = 0, 1
BIT = float(np.log(2.0))  # nats


class Switch(NamedTuple):
    """Thresholds of the rule."""

    tau: float = 1.0  # bits
    window: int = 5
    d_min: int = 10


class Writer(NamedTuple):
    """Which model writes one row, for how many tokens already, and the entropies in the window."""

    model: int = SMALL
    since: int = 0
    recent: tuple[float, ...] = ()


def check(rule: Switch) -> None:
    """Refuse impossible thresholds."""
    if rule.window < 1 or rule.d_min < 1:
        raise ValueError(f"EAD needs window >= 1 and d_min >= 1, got {rule.window} and {rule.d_min}.")


def after_token(writer: Writer, bits: float, rule: Switch) -> Writer:
    """Who writes the token after one of that entropy."""
    recent = (*writer.recent, float(bits))[-rule.window :]
    since = writer.since + 1
    wanted = LARGE if sum(recent) / len(recent) > rule.tau else SMALL
    if since >= rule.d_min and wanted != writer.model:
        return Writer(wanted, 0, recent)
    return Writer(writer.model, since, recent)
