"""ECHO's tree rollout (user683/ECHO): one completion a prompt, a branch of entropy-sized width, pruning by confidence.

The base completion is watched through its top candidates; where rules.branch says so, branches start with the `width` likeliest
tokens (the base's own is skipped, and one that would end the text), each continued by one sample. A base or branch that
rules.prune gives up is cut behind that token, and no branch leaves a base there or later. At most `samples` rows of a prompt are
kept; plain samples fill up. See rollouts/echo_rules.py for the rules.

Mask: the whole completion of every row but the token that a branch was started with, which nobody sampled. Differences: the
released sampler cannot run (a misspelt field, thresholds that exclude each other), here the thresholds are arguments; its
penalty for pruned rows is computed and never used, here it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entjax.decoding.record import record
from entjax.rollouts import echo_rules
from entjax.rollouts.echo_rules import EchoRules
from entjax.rollouts.grown import Grown, by_group, grow_all
from entjax.rollouts.harvest import Harvest, Strategy, Tools, merge, stateless
from entjax.sampler import Completions
from entjax.sampler.host import fetch
from entjax.tasks import Example


def echo(rules: EchoRules, *, prune: bool = True) -> Strategy:
    """Branch width by entropy and confidence; `prune` cuts what lost its confidence."""
    rules.check()

    def collect(tools, examples, step, knobs) -> Harvest:
        return grow_all(tools, examples, tools.samples, grow)

    def grow(tools: Tools, examples: Sequence[Example], numbers: np.ndarray) -> Grown:
        stepper, n, prompts = tools.stepper, tools.samples, len(examples)
        watch = record(rules.logprob_top_k, stepper.how.max_new_tokens)
        every, zeros = np.arange(prompts), np.zeros(prompts, np.int32)
        state = stepper.begin([tools.encode(e) for e in examples], every, (numbers, zeros), rules=watch)
        state = stepper.run(state)
        seen = fetch(state.rules["record"])
        bases = stepper.finish(state, numbers)
        computed = int((bases.length - bases.prompt_length).sum())
        end = (*stepper.sampler.eos_ids, *stepper.how.stop_ids)
        starts = [_branches(bases, row, seen, rules, end, prune)[: n - 1] for row in every]
        counts = {"branches": float(sum(map(len, starts))), "pruned": 0.0}
        parts = [_pruned(bases, every, seen, rules, counts)] if prune else [bases]
        if n > 1:
            owner = np.repeat(every, n - 1)
            # a place without a branch starts over at the prompt
            plans = [
                p
                for row in every
                for p in starts[row] + [(int(bases.prompt_length[row]), [])] * (n - 1 - len(starts[row]))
            ]
            at = np.array([position for position, _ in plans])
            state = stepper.fork(state, owner, at, (numbers[owner], 1 + np.tile(np.arange(n - 1), prompts)))
            state = stepper.append(state, [tokens for _, tokens in plans])
            limit = bases.prompt_length[owner] + stepper.how.max_new_tokens
            state = stepper.run(stepper.reopen(state, np.ones(len(owner), bool), limit))
            grown = stepper.finish(state, numbers[owner])
            computed += int((grown.length - at).sum())
            branched = np.flatnonzero([bool(tokens) for _, tokens in plans])
            seen = fetch(state.rules["record"])
            parts.append(_pruned(grown, branched, seen, rules, counts) if prune else grown)
        return by_group(Grown(merge(parts), computed, counts=counts))

    return stateless("echo", collect, hyper={**rules._asdict(), "prune": prune})


def _branches(
    bases: Completions, row: int, seen, rules: EchoRules, end: Sequence[int], prune: bool
) -> list[tuple[int, list[int]]]:
    """(where a branch leaves the base, the token that it starts with) of one base."""
    start, n = int(bases.prompt_length[row]), int(bases.length[row] - bases.prompt_length[row])
    if not n:
        return []
    stats = echo_rules.statistics(seen.logp[row, :n], rules)
    at, wide = echo_rules.branch(stats, rules)
    given_up = echo_rules.prune(stats, rules)[0] if prune else -1
    if at < 0 or 0 <= given_up <= at:  # a branch shares what was given up
        return []
    likeliest = seen.tokens[row, at, :wide].tolist()
    return [
        (start + at, [token]) for token in likeliest if token not in (bases.tokens[row, start + at], *end)
    ]


def _pruned(rows: Completions, which: np.ndarray, seen, rules: EchoRules, counts: dict) -> Completions:
    """The rows `which` cut behind the token at which they are given up."""
    length, finished = rows.length.copy(), rows.finished.copy()
    for row in which:
        start = int(rows.prompt_length[row])
        if length[row] == start:
            continue
        at, _ = echo_rules.prune(echo_rules.statistics(seen.logp[row, : length[row] - start], rules), rules)
        if 0 <= at < length[row] - start - 1:
            length[row], finished[row] = start + at + 1, False
            counts["pruned"] += 1
    inside = np.arange(rows.tokens.shape[1])[None, :] < length[:, None]
    zero = {
        name: np.where(inside, getattr(rows, name), 0)
        for name in ("logp", "entropy", "sampled_logp", "sampled_entropy")
    }
    tokens = np.where(inside, rows.tokens, 0)
    return rows.replace(tokens=tokens, mask=rows.mask & inside, length=length, finished=finished, **zero)
