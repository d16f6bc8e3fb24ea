"""The decoding rules against transformers' processors, a sorting NumPy reference, and their own limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax import decoding
from entjax.decoding.select import exactly, largest, top
from entjax.transform import chain


def logits_of(seed, rows=6, size=101, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, (rows, size)).astype(np.float32)


def apply(rule, logits):
    logits = jnp.asarray(logits)
    return np.asarray(rule.update(logits, rule.init(logits), None)[0])


def softmax(x):
    z = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def reference_keep(kind, value, logits):
    """What the definitions say, token by token."""
    p = softmax(logits)
    if kind == "top_k":
        return logits >= np.sort(logits, -1)[:, ::-1][:, min(value, logits.shape[1]) - 1][:, None]
    if kind == "min_p":
        return p >= value * p.max(-1, keepdims=True)
    above = np.where(p[:, None, :] > p[:, :, None], p[:, None, :], 0).sum(-1)
    return above < value


CASES = [
    ("top_k", decoding.top_k, 1),
    ("top_k", decoding.top_k, 7),
    ("top_k", decoding.top_k, 500),
    ("top_p", decoding.top_p, 0.05),
    ("top_p", decoding.top_p, 0.6),
    ("top_p", decoding.top_p, 0.97),
    ("min_p", decoding.min_p, 0.02),
    ("min_p", decoding.min_p, 0.5),
    ("min_p", decoding.min_p, 1.0),
]


@pytest.mark.parametrize(("kind", "factory", "value"), CASES)
def test_keeps_what_the_definition_says(kind, factory, value):
    logits = logits_of(0)
    logits[3, ::2] = -np.inf  # already removed by another rule
    out = apply(factory(value), logits)
    keep = reference_keep(kind, value, logits) & np.isfinite(logits)
    np.testing.assert_array_equal(np.isfinite(out), keep)
    np.testing.assert_array_equal(out[keep], logits[keep])


@pytest.mark.parametrize(("kind", "factory", "value"), CASES)
@pytest.mark.parametrize("min_keep", [1, 4])
def test_agrees_with_transformers(kind, factory, value, min_keep):
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as theirs

    warper = {
        "top_k": theirs.TopKLogitsWarper,
        "top_p": theirs.TopPLogitsWarper,
        "min_p": theirs.MinPLogitsWarper,
    }[kind]
    if kind == "top_k" and min_keep > 1:
        pytest.skip("top_k(max(k, min_keep)) says the same")
    logits = logits_of(1)
    want = warper(value, min_tokens_to_keep=min_keep)(None, torch.tensor(logits)).numpy()
    rule = factory(value) if kind == "top_k" else factory(value, min_keep=min_keep)
    np.testing.assert_array_equal(apply(rule, logits), want)


def test_equal_scores_stay_together():
    logits = np.array([[2.0, 1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(np.isfinite(apply(decoding.top_k(2), logits)).sum(-1), [4, 5])
    np.testing.assert_array_equal(np.isfinite(apply(decoding.top_p(0.6), logits)).sum(-1), [4, 5])
    np.testing.assert_array_equal(np.isfinite(apply(decoding.min_p(1.0), logits)).sum(-1), [1, 5])
    np.testing.assert_array_equal(np.isfinite(apply(decoding.min_p(1.0, min_keep=3), logits)).sum(-1), [3, 5])


def test_greedy_is_top_1_and_takes_the_first_of_a_tie():
    logits = logits_of(2)
    np.testing.assert_array_equal(apply(decoding.greedy(), logits), apply(decoding.top_k(1), logits))
    tie = apply(decoding.greedy(), np.array([[1.0, 3.0, 3.0]], np.float32))
    np.testing.assert_array_equal(tie, [[-np.inf, 3.0, -np.inf]])


def test_temperature_divides():
    logits = logits_of(3)
    np.testing.assert_allclose(apply(decoding.temperature(0.5), logits), logits * 2, rtol=1e-6)


def test_a_chain_applies_its_rules_in_order():
    logits = jnp.asarray(logits_of(4))
    rules = chain(decoding.top_k(20), decoding.top_p(0.9))
    context = decoding.DecodeContext(
        position=jnp.zeros(6, jnp.int32),
        index=jnp.zeros(6, jnp.int32),
        entropy=jnp.zeros(6),
        logp=logits,
        temperature=jnp.ones(6),
        key=jax.random.split(jax.random.key(0), 6),
    )
    out = np.asarray(rules.update(logits, rules.init(logits), context)[0])
    within = np.where(reference_keep("top_k", 20, np.asarray(logits)), np.asarray(logits), -np.inf)
    want = reference_keep("top_p", 0.9, within) & np.isfinite(within)
    np.testing.assert_array_equal(np.isfinite(out), want)


def test_values_are_traced_and_equal_rules_share_a_program():
    logits = jnp.asarray(logits_of(5))
    run = jax.jit(lambda update, state: update(logits, state, None)[0], static_argnums=0)
    kept = []
    for p in (0.3, 0.6, 0.9):
        for rule in (decoding.top_p(p), decoding.min_p(p), decoding.top_k(int(p * 10))):
            kept.append(int(np.isfinite(run(rule.update, rule.init(logits))).sum()))
    assert run._cache_size() == 3
    assert len(set(kept)) > 5  # the values did something


def test_selection_in_float64_and_for_extreme_scores():
    with jax.enable_x64(True):
        score = jnp.asarray([[1.0, 1.0 + 1e-12, -np.inf, -1e300, 1e300, 0.0, -0.0]], jnp.float64)
        assert np.asarray(largest(score, 2)).tolist() == [[False, True, False, False, True, False, False]]
        assert np.asarray(largest(score, 7)).all()
    score = jnp.asarray([[0.5, 0.5, 0.25, 0.5]], jnp.float32)
    assert np.asarray(exactly(score, 2)).tolist() == [[True, True, False, False]]
    assert np.asarray(top(score, lambda keep: jnp.zeros(1, bool))).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: decoding.top_k(0), "got 0"),
        (lambda: decoding.top_k(2.5), "got 2.5"),
        (lambda: decoding.top_p(0.0), "got 0.0"),
        (lambda: decoding.top_p(0.5, min_keep=0), "min_keep=0"),
        (lambda: decoding.min_p(1.5), "got 1.5"),
        (lambda: decoding.temperature(0.0), "greedy"),
    ],
)
def test_impossible_values_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
