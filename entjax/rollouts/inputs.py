"""Optional inputs of single methods, computed on the host from a harvest: only those that the objective asks for.

    cluster [N]     canonical answers of a group as numbers: equal answers, equal ids; -1 where there is no answer
    copied [N]      the answer only repeats the question
    turn [N, S]     the step of a completion that a token belongs to (a step ends with a comma, full stop, semicolon or line), -1
                    elsewhere
    think_end [N]   position of the </think> tag; the row's length where there is none
    diversity [N]   how unlike the group's other answers an answer is (hashed character trigrams; sets of steps)
    tool_calls [N]  zero unless the rollout strategy says otherwise
    planning [N, S] tokens of phrases that announce a plan
    baseline [N]    the reward of the greedy answer (ReMax)

What a strategy already put into `harvest.extra` is left alone. "ref_logp" and "attention_entropy" come from the scoring pass.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

import numpy as np

from entjax import decoding
from entjax.rewards import answer_clusters, diversity
from entjax.rewards.text import copies
from entjax.rollouts.harvest import Harvest, Tools

SEPARATORS = (",", "\n", ";", ".")
PLANS = (
    "let's",
    "first",
    "alternatively",
    "wait",
    "instead",
    "another way",
    "we need to",
    "therefore",
    "check",
)
FROM_SCORING = frozenset({"ref_logp", "attention_entropy"})
# Zeros would do for these too, and a recipe without its strategy would silently be a plain one.
FROM_STRATEGY = {
    "tempered": "strategy=tempered",
    "replayed": "strategy=replay",
    "stored_advantage": "strategy=replay",
}


def add_inputs(harvest: Harvest, needs: Iterable[str], tools: Tools) -> Harvest:
    """The harvest with every needed input in `extra`."""
    check_inputs(needs, set(harvest.extra))
    missing = sorted(set(needs) - set(harvest.extra) - FROM_SCORING)
    return harvest._replace(
        extra={**harvest.extra, **{name: MAKERS[name](harvest, tools) for name in missing}}
    )


def check_inputs(needs: Iterable[str], provided: AbstractSet[str]) -> None:
    """Refuse needs that neither the strategy, which provides these, nor this file can meet."""
    unknown = sorted(set(needs) - provided - FROM_SCORING - set(MAKERS))
    if unknown:
        known = " or ".join(dict.fromkeys(FROM_STRATEGY[name] for name in unknown if name in FROM_STRATEGY))
        raise ValueError(
            f"The objective needs rollout.extra[{', '.join(map(repr, unknown))}], which no plain rollout has: use a strategy "
            f"that provides it ({known or 'Config.strategy'})."
        )


def clusters(harvest: Harvest, tools: Tools) -> np.ndarray:
    answers = [tools.canonical(e, t) for e, t in zip(harvest.examples, harvest.texts, strict=True)]
    return np.asarray(answer_clusters(answers, harvest.completions.group))


def copied(harvest: Harvest, tools: Tools) -> np.ndarray:
    answers = [tools.canonical(e, t) for e, t in zip(harvest.examples, harvest.texts, strict=True)]
    return np.array([copies(e.prompt, str(a or "")) for e, a in zip(harvest.examples, answers, strict=True)])


def turns(harvest: Harvest, tools: Tools) -> np.ndarray:
    c = harvest.completions
    ends = [i for i in np.unique(c.tokens[c.mask]).tolist() if tools.decode([i])[-1:] in SEPARATORS]
    ended = np.cumsum((np.isin(c.tokens, ends) & c.mask).astype(np.int32), axis=1)
    step = np.concatenate([np.zeros_like(ended[:, :1]), ended[:, :-1]], axis=1)
    return np.where(c.mask, step, -1).astype(np.int32)


def think_ends(harvest: Harvest, tools: Tools) -> np.ndarray:
    c, found = harvest.completions, []
    for row, text in enumerate(harvest.texts):
        start, length = int(c.prompt_length[row]), int(c.length[row])
        if "</think>" not in text:
            found.append(length)
            continue
        low, high = start, length  # the first prefix whose text holds the tag
        while low < high:
            middle = (low + high) // 2
            inside = "</think>" in tools.decode(c.tokens[row, start : middle + 1].tolist())
            low, high = (low, middle) if inside else (middle + 1, high)
        found.append(low)
    return np.array(found, np.int32)


def diversities(harvest: Harvest, tools: Tools) -> np.ndarray:
    width = 64
    hashed = lambda text: zlib.crc32(text.encode()) % width
    embedding = np.zeros((len(harvest.texts), width), np.float32)
    steps = np.zeros((len(harvest.texts), width), bool)
    for row, text in enumerate(harvest.texts):
        for i in range(max(len(text) - 2, 0)):
            embedding[row, hashed(text[i : i + 3])] += 1
        for part in text.replace("\n", ",").split(",")[:256]:
            if "=" in part:
                steps[row, hashed(part)] = True
    return np.asarray(diversity(embedding, steps, harvest.completions.group.astype(np.int32)))


def plans(harvest: Harvest, tools: Tools) -> np.ndarray:
    c = harvest.completions
    marked = np.zeros(c.tokens.shape, bool)
    for row, text in enumerate(harvest.texts):
        lower = text.lower()
        if not any(plan in lower for plan in PLANS):
            continue
        start, tokens = int(c.prompt_length[row]), c.completion(row)
        spans = places_in_text(tokens, tools.decode)
        for plan in PLANS:
            first = lower.find(plan)
            while first >= 0:
                last = first + len(plan)
                marked[row, [start + i for i, (a, b) in enumerate(spans) if a < last and b > first]] = True
                first = lower.find(plan, last)
    return marked & c.mask


def places_in_text(tokens: list[int], decode: Callable[[list[int]], str]) -> list[tuple[int, int]]:
    """(start, end) of every token in the lower-case text; tokens that make one character together share its place."""
    places, at, first = [], 0, 0
    for i in range(len(tokens)):
        before = tokens[max(first - 1, 0) : first]  # some tokenizers drop the blank of a text's first token
        piece = decode([*before, *tokens[first : i + 1]])[len(decode(before)) :].lower()
        if piece.endswith("\N{REPLACEMENT CHARACTER}") and i - first < 8 and i + 1 < len(tokens):
            continue  # half a character
        places += [(at, at + len(piece))] * (i + 1 - first)
        at, first = at + len(piece), i + 1
    return places


def greedy_rewards(harvest: Harvest, tools: Tools) -> np.ndarray:
    group = harvest.completions.group
    ids, first = np.unique(group, return_index=True)
    examples = [harvest.examples[row] for row in first]
    greedy = tools.generate([tools.encode(e) for e in examples], samples=1, rules=decoding.greedy())
    reward, _ = tools.score(examples, [tools.decode(greedy.completion(row)) for row in range(len(examples))])
    return np.asarray(reward, np.float32)[np.searchsorted(ids, group)]


def _zeros(kind: type) -> Callable:
    return lambda harvest, tools: np.zeros(len(harvest.texts), kind)


MAKERS: dict[str, Callable[[Harvest, Tools], np.ndarray]] = {
    "cluster": clusters,
    "copied": copied,
    "turn": turns,
    "think_end": think_ends,
    "diversity": diversities,
    "tool_calls": _zeros(np.int32),
    "planning": plans,
    "baseline": greedy_rewards,
}
