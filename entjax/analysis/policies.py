"""What the base and the tuned policy of a run say: one function a part of the report, (run) -> [(title, numbers, text, picture)].

Both policies answer the same held-out prompts. Divergences, spectra and branching are taken on the tuned policy's answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from entjax import attention_entropy, features, setup, vocab
from entjax.analysis import figures, judger, semantic_entropy, spectral, token_entropy
from entjax.analysis.agreement import spearman
from entjax.analysis.boundary import boundary
from entjax.analysis.branching_factor import branching_factor
from entjax.analysis.cross_sampling import make_cross_sample
from entjax.analysis.prediction import SHARED, TAKEN, make_probe, one_update
from entjax.analysis.sparse_but_critical import jensen_shannon, rank_in_base, top_k_overlap
from entjax.models import Decoder
from entjax.packing import bucket
from entjax.passes import forward, policy_features
from entjax.rollouts import Harvest, to_rollout
from entjax.rollouts.groups import sample_groups
from entjax.types import Rollout

Part = Callable[[Any], list[tuple]]


def parts(*, updates: int, cross: bool) -> list[Part]:
    """The parts in the order of the report; each samples only what it needs."""
    chosen: list[Part] = [answers_and_tokens, divergence_and_representations]
    if cross:
        chosen.append(cross_sampling)
    if updates:
        real = functools.partial(real_updates, updates=updates)
        chosen.append(functools.update_wrapper(real, real_updates))
    return chosen


class Answers(NamedTuple):
    """One policy's answers to the held-out prompts."""

    harvest: Harvest
    rollout: Rollout
    right: np.ndarray  # [prompts, samples]


def answer(run: Any, params: Any) -> Answers:
    c, p = run.parts.config, run.parts
    tools = p.tools(params, 0, samples=c.eval_samples, temperature=1.0, held_out=True)
    harvest = (p.strategy.sample or sample_groups)(tools, p.eval_examples, 0)
    length = bucket(int(harvest.completions.length.max()))
    rollout = to_rollout(harvest, rows=len(harvest.texts), length=length, temperature=1.0)
    return Answers(harvest, rollout, (harvest.reward >= 1).reshape(-1, c.eval_samples))


# Answers and tokens -----------------------------------------------------------------------------------------------------------


def answers_and_tokens(run: Any) -> list[tuple]:
    """pass@k of both policies, disagreement of the answers, entropy of the tokens and its features."""
    base, tuned = answer(run, run.base), answer(run, run.tuned)
    return [
        _boundary(run, base, tuned),
        _agreement(run, base, tuned),
        _tokens(run, base, tuned),
        _features(tuned),
    ]


def _boundary(run: Any, base: Answers, tuned: Answers) -> tuple:
    found = boundary(base.right, tuned.right)
    figures.pass_at_k(found, run.out / "passk.png")
    where = "does not fall behind at any k looked at"
    if found.crossing is not None:
        where = f"falls behind from k = {found.crossing} on"
    text = (
        "| | " + " | ".join(f"pass@{k}" for k in found.ks) + " |\n|" + "---|" * (len(found.ks) + 1)
        + "\n| base | " + " | ".join(f"{x:.3f}" for x in found.base)
        + " |\n| tuned | " + " | ".join(f"{x:.3f}" for x in found.tuned) + " |\n\n"
        f"The tuned policy {where}. Of {base.right.shape[0]} prompts with {base.right.shape[1]} samples each, both solve "
        f"{found.both}, only the base {found.only_base}, only the tuned {found.only_tuned}, neither {found.neither}."
    )  # fmt: skip
    return (
        "pass@k and capability boundary",
        found._asdict() | {"base": list(found.base), "tuned": list(found.tuned)},
        text,
        "passk.png",
    )


def _agreement(run: Any, base: Answers, tuned: Answers) -> tuple:
    numbers = {name: disagreement(run, a) for name, a in (("base", base), ("tuned", tuned))}
    names = list(numbers["base"])
    rows = [f"| {who} | " + " | ".join(f"{numbers[who][n]:.3f}" for n in names) + " |" for who in numbers]
    head = "| | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1) + "\n"
    text = (
        head
        + "\n".join(rows)
        + "\n\nMeans over the prompts, in nats; equal answers form a cluster (their likelihoods are per token)."
    )
    return "Disagreement of the answers", numbers, text


def disagreement(run: Any, a: Answers) -> dict[str, float]:
    """Semantic entropies and SNNE of one policy's answers, means over the prompts."""
    canonical = run.parts.tools(run.tuned, 0, held_out=True).canonical
    n = a.right.shape[1]
    names = [canonical(e, t) or "" for e, t in zip(a.harvest.examples, a.harvest.texts, strict=True)]
    c = a.harvest.completions
    likelihood = np.where(c.mask, c.logp, 0).sum(1) / np.maximum(c.mask.sum(1), 1)
    rows = []
    for i in range(0, len(names), n):
        labels = np.unique(names[i : i + n], return_inverse=True)[1]
        ll = likelihood[i : i + n]
        same = (labels[:, None] == labels[None]).astype(float)
        rows.append([semantic_entropy.discrete(labels), semantic_entropy.by_likelihood(labels, ll),
                     semantic_entropy.predictive(ll), semantic_entropy.snne(same)])  # fmt: skip
    means = np.mean(rows, axis=0)
    return dict(zip(("semantic entropy", "by likelihood", "predictive", "SNNE"), means.tolist(), strict=True))


def _tokens(run: Any, base: Answers, tuned: Answers) -> tuple:
    both = {"base": base.harvest.completions, "tuned": tuned.harvest.completions}
    levels = {name: token_entropy.quantiles(c.entropy, c.mask) for name, c in both.items()}
    numbers: dict[str, Any] = {name: {str(k): v for k, v in q.items()} for name, q in levels.items()}
    head = (
        "| quantile | " + " | ".join(f"{level:g}" for level in token_entropy.LEVELS) + " | in the top 20% |\n"
    )
    head += "|" + "---|" * (len(token_entropy.LEVELS) + 2)
    for name, c in both.items():
        share = numbers[name]["top 20%"] = token_entropy.concentration(c.entropy, c.mask)
        head += f"\n| {name} | " + " | ".join(f"{x:.3f}" for x in levels[name].values()) + f" | {share:.0%} |"
    c = both["tuned"]
    found = token_entropy.forks(c.tokens, c.entropy, c.mask, run.parts.tokenizer.decode)[:12]
    numbers["forks"] = [fork._asdict() for fork in found]
    listed = ", ".join(f"`{f.token}` ({f.forks} of {f.count}, {f.entropy:.2f} nats)" for f in found)
    figures.entropies({name: c.entropy[c.mask] for name, c in both.items()}, found, run.out / "tokens.png")
    return (
        "Token entropy and forking tokens",
        numbers,
        f"{head}\n\nTokens sampled most often at forks (the top 20%): {listed}.",
        "tokens.png",
    )


def _features(tuned: Answers) -> tuple:
    c = tuned.harvest.completions
    table, right = judger.entropy_features(c.entropy, c.mask), tuned.right.ravel().astype(float)
    agree = {name: spearman(table[:, i], right) for i, name in enumerate(judger.NAMES)}
    chosen = sorted((n for n in agree if np.isfinite(agree[n])), key=lambda n: -abs(agree[n]))[:6]
    picks = judger.best_of(-table[:, 0].reshape(tuned.right.shape))
    best = float(np.take_along_axis(tuned.right, picks[:, None], axis=1).mean())
    text = "Rank correlation with being right, strongest first: " + ", ".join(
        f"{n} {agree[n]:+.2f}" for n in chosen
    )
    if not chosen:
        text = "No rank correlation with being right: all answers are right, or none is"
    text += f". Answering with the sample of least mean entropy is right for {best:.1%} of the prompts, "
    text += f"any sample for {right.mean():.1%}."
    return "Entropy features of right answers", agree | {"least entropy": best}, text


# Divergence and representations ---------------------------------------------------------------------------------------------

DIVERGENCES = {
    "js": jensen_shannon, "reverse_kl": features.reverse_kl, "forward_kl": features.forward_kl, "rank": rank_in_base,
    "overlap": top_k_overlap(5), "branching": branching_factor(0.95),
}  # fmt: skip


def divergence_and_representations(run: Any) -> list[tuple]:
    """Per-token divergence of the two policies on the tuned one's answers; spectra of their hidden states there."""
    tuned = answer(run, run.tuned)
    graphdef, _ = nnx.split(run.parts.model)
    chunk = setup.chunk_of(run.parts.config, None)
    look = jax.jit(lambda p, b, rows: policy_features(graphdef, p, b, rows, DIVERGENCES, chunk))
    seen = {name: np.asarray(x) for name, x in look(run.tuned, run.base, tuned.rollout).items()}
    return [_divergence(run, tuned, seen), _representations(run, tuned, graphdef)]


def _divergence(run: Any, tuned: Answers, seen: dict[str, np.ndarray], eps: float = 0.1) -> tuple:
    mask = np.asarray(tuned.rollout.mask)
    at = {name: x[mask] for name, x in seen.items()}
    numbers = {name: float(x.mean()) for name, x in at.items()}
    numbers |= {"switched": float((at["js"] > eps).mean()), "same favourite": float((at["rank"] == 0).mean())}
    order = np.argsort(-at["js"])
    top = at["js"][order][: max(1, len(order) // 10)].sum() / max(at["js"].sum(), 1e-12)
    numbers["top 10%"] = float(top)
    start = np.asarray(tuned.harvest.completions.prompt_length)
    figures.divergence(seen["js"], mask, start, run.out / "divergence.png")
    text = (
        f"Mean per token: Jensen-Shannon {numbers['js']:.4f} nats, KL(tuned, base) {numbers['reverse_kl']:.4f}, KL(base, tuned) "
        f"{numbers['forward_kl']:.4f}. The policies switch (JS > {eps:g}) at {numbers['switched']:.1%} of the tokens; a tenth of "
        f"them carries {top:.0%} of the divergence. They agree on the most likely token at {numbers['same favourite']:.1%}, on "
        f"{numbers['overlap']:.0%} of the five most likely. The tuned policy considers {numbers['branching']:.2f} continuations "
        "(top-p 0.95) at a token."
    )
    return "Divergence of base and tuned policy", numbers, text, "divergence.png"


def _representations(run: Any, tuned: Answers, graphdef: Any, most: int = 1000) -> tuple:
    mask, numbers = np.asarray(tuned.rollout.mask), {}
    hidden_of = jax.jit(lambda params, rows: vocab.before(forward(graphdef, params, rows)[0]))
    for name, params in (("base", run.base), ("tuned", run.tuned)):
        x = np.asarray(hidden_of(params, tuned.rollout), np.float64)[mask][:most]
        scaled = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
        last = min(x.shape[1], len(x) - 1) // 2
        numbers[name] = {"RankMe": spectral.rankme(x), "effective rank": spectral.effective_rank(x),
                         "alpha-ReQ": spectral.alpha_req(x, 2, max(3, last)), "matrix entropy": spectral.matrix_entropy(x),
                         "DSE (bits)": spectral.diffusion_entropy(scaled, sigma=x.shape[1] ** 0.5)}  # fmt: skip
        if isinstance(run.parts.model, Decoder):
            policy = nnx.merge(graphdef, params)
            numbers[name]["attention entropy"] = float(
                np.asarray(attention_entropy.of_model(policy, tuned.rollout.tokens))[mask].mean()
            )
    names = list(numbers["base"])
    rows = [f"| {who} | " + " | ".join(f"{numbers[who][n]:.3f}" for n in names) + " |" for who in numbers]
    head = "| | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1) + "\n"
    note = "\n\nOf the last hidden states at the tuned policy's tokens; attention entropy: middle layer, 1 is uniform."
    return "Representations", numbers, head + "\n".join(rows) + note


# Interventions ----------------------------------------------------------------------------------------------------------------


def cross_sampling(run: Any, eps: float = 0.1) -> list[tuple]:
    """Accuracy when one policy writes and the other decides where they differ."""
    p = run.parts
    if not isinstance(p.model, Decoder):
        raise ValueError("cross-sampling runs on entjax's own decoders.")
    ids = [p.encode(e) for e in p.eval_examples for _ in range(p.config.eval_samples)]
    examples = [e for e in p.eval_examples for _ in range(p.config.eval_samples)]
    start = np.array([len(i) for i in ids], np.int32)
    tokens = np.full((len(ids), int(start.max()) + p.config.max_new_tokens), p.tokenizer.pad_id, np.int32)
    for row, i in zip(tokens, ids, strict=True):
        row[: len(i)] = i
    eos, numbers = p.tokenizer.stop_ids or (p.tokenizer.eos_id,), {}
    pairs = {"base": (run.base, run.base), "base, tuned decides": (run.base, run.tuned),
             "tuned, base decides": (run.tuned, run.base), "tuned": (run.tuned, run.tuned)}  # fmt: skip
    sample = make_cross_sample(p.model, eos_ids=tuple(eos), pad_id=p.tokenizer.pad_id, eps=eps)
    for name, (first, second) in pairs.items():
        out, mask, crossed = map(np.asarray, sample(first, second, tokens, start, jax.random.key(0)))
        texts = [p.tokenizer.decode(row[m].tolist()) for row, m in zip(out, mask, strict=True)]
        reward, _ = p.eval_scorer.score(examples, texts)
        numbers[name] = {"right": float((reward >= 1).mean()), "replaced": float(crossed.sum() / mask.sum())}
    lines = [f"| {name} | {x['right']:.3f} | {x['replaced']:.1%} |" for name, x in numbers.items()]
    text = "| who writes | right | tokens that the other decided |\n|---|---|---|\n" + "\n".join(lines)
    return [
        (
            "Cross-sampling",
            numbers,
            f"{text}\n\nThe other policy decides where the Jensen-Shannon divergence exceeds {eps:g} nats.",
        )
    ]


def real_updates(run: Any, updates: int) -> list[tuple]:
    """Some more updates from the newest checkpoint (nothing is saved): predicted and measured change of entropy."""
    params, signal_state, knobs = jax.tree.map(jax.numpy.copy, (run.tuned, *run.remembered))
    state = run.parts.fresh_state(params).replace(signal_state=signal_state, knobs=knobs)
    probe, found = make_probe(run.parts.model, setup.chunk_of(run.parts.config, None)), []
    for step in range(updates):
        state, update = one_update(run.parts, state, step, probe)
        found.append(update)
    measured = np.array([u.measured for u in found])
    lines = ["| estimator | predicted, mean | agreement over the states (Pearson) |", "|---|---|---|"]
    numbers: dict[str, Any] = {"measured": measured.tolist()}
    for name in found[0].predicted:
        mean = float(np.mean([u.predicted[name] for u in found]))
        inside = np.mean([u.state[name][0] for u in found]) if name in found[0].state else float("nan")
        numbers[name] = {"predicted": mean, "states": float(inside)}
        lines.append(f"| {name} | {mean:+.5f} | {'-' if name in (SHARED, TAKEN) else f'{inside:.2f}'} |")
    text = (
        f"{updates} more updates from the newest checkpoint, with a fresh optimizer and nothing saved, changed the entropy by "
        f"{measured.mean():+.5f} nats each.\n\n" + "\n".join(lines)
        + "\n\nOnly the last row is in nats for this learning rate; the others are per unit of step. `covariance` is minus the "
        "batch's mean covariance of advantage and log-probability."
    )  # fmt: skip
    return [("Covariance and predicted entropy change", numbers, text)]
