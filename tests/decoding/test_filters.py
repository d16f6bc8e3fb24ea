"""The filters by entropy and probability against transformers' processors, definitions token by token, and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entjax import decoding, vocab
from entjax.transform import chain
from tests.decoding.test_rules import apply, logits_of, softmax

VALUES = [
    ("Epsilon", decoding.epsilon, 0.002),
    ("Epsilon", decoding.epsilon, 0.3),
    ("Eta", decoding.eta, 0.01),
    ("Eta", decoding.eta, 0.3),
    ("Typical", decoding.typical, 0.2),
    ("Typical", decoding.typical, 0.95),
    ("TopH", decoding.top_h, 0.4),
    ("TopH", decoding.top_h, 0.9),
]


@pytest.mark.parametrize(("kind", "factory", "value"), VALUES)
@pytest.mark.parametrize("min_keep", [1, 4])
def test_agrees_with_transformers(kind, factory, value, min_keep):
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as theirs

    if kind == "TopH" and min_keep > 1:
        pytest.skip("top_h has no such option")
    logits = logits_of(1, size=151)
    options = {} if kind == "TopH" else {"min_tokens_to_keep": min_keep}
    want = getattr(theirs, f"{kind}LogitsWarper")(value, **options)(None, torch.tensor(logits)).numpy()
    rule = factory(value) if kind == "TopH" else factory(value, min_keep=min_keep)
    np.testing.assert_array_equal(apply(rule, logits), want)
    assert 0 < np.isfinite(want).sum() < want.size


def test_what_is_removed_or_forbidden_before_does_not_matter():
    """Each rule keeps the same tokens of the rest when others are gone: -inf in a chain, a huge negative number in a model."""
    full = logits_of(2)
    rest = full[:, ::2]
    for rule in (
        decoding.epsilon(0.01),
        decoding.eta(0.1),
        decoding.typical(0.7),
        decoding.top_h(0.5),
        decoding.top_n_sigma(1.2),
        decoding.em_inf(),
        decoding.em_temperature(),
    ):
        want = apply(rule, rest)
        for hole in (-np.inf, vocab.FORBIDDEN):
            logits = np.full_like(full, hole)
            logits[:, ::2] = rest
            out = apply(rule, logits)
            np.testing.assert_allclose(out[:, ::2], want, rtol=1e-5, atol=1e-5, err_msg=rule.name)
            assert not np.isnan(out).any()


def test_the_least_that_a_filter_may_keep_is_the_mode():
    logits = logits_of(3)
    greedy = apply(decoding.greedy(), logits)
    for rule in (decoding.epsilon(1.0), decoding.top_h(1e-6), decoding.top_n_sigma(0.0)):
        np.testing.assert_array_equal(apply(rule, logits), greedy, err_msg=rule.name)


def test_top_n_sigma_does_not_depend_on_the_temperature():
    logits = logits_of(4)
    kept = [
        np.isfinite(apply(chain(decoding.temperature(t), decoding.top_n_sigma(1.0)), logits))
        if t == 1
        else np.isfinite(apply(decoding.top_n_sigma(1.0), logits / t))
        for t in (0.25, 2.0, 16.0)
    ]
    for other in kept[1:]:
        np.testing.assert_array_equal(kept[0], other)
    sigma = logits.astype(np.float64).std(-1, ddof=1, keepdims=True)
    np.testing.assert_array_equal(kept[0], logits >= logits.max(-1, keepdims=True) - sigma)


def test_typical_may_drop_the_mode():
    logits = np.log(np.array([[0.3] + [0.7 / 64] * 64], np.float32))
    kept = np.isfinite(apply(decoding.typical(0.3), logits))
    assert not kept[0, 0] and kept[0, 1:].all()  # 64 equally surprising tokens stand together


def test_new_values_do_not_compile_again():
    logits = jnp.asarray(logits_of(5))
    run = jax.jit(lambda update, state: update(logits, state, None)[0], static_argnums=0)
    kept = set()
    for x in (0.1, 0.3, 0.8):
        for rule in (
            decoding.epsilon(x),
            decoding.eta(x),
            decoding.typical(x),
            decoding.top_h(x),
            decoding.top_n_sigma(x),
            decoding.em_inf(lr=x, steps=int(10 * x)),
            decoding.em_temperature(x),
        ):
            kept.add(float(jnp.sum(jax.nn.softmax(run(rule.update, rule.init(logits)), -1) ** 2)))
    assert run._cache_size() == 7
    assert len(kept) > 18


# EM-INF ----------------------------------------------------------------------------------------------------------------------


def entropy(logits):
    p = softmax(np.asarray(logits))
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)


def test_em_inf_takes_the_steps_of_adam():
    optax = pytest.importorskip("optax")
    logits = jnp.asarray(logits_of(6, scale=1.0))

    def loss(theta, start):
        p, p0 = jax.nn.softmax(theta), jax.nn.softmax(start)
        return -jnp.sum(p * jnp.log(p + 1e-12)) + 0.05 * jnp.sum(p0 * (jnp.log(p0) - jnp.log(p)))

    with jax.numpy_dtype_promotion("standard"):
        adam = optax.adam(0.1)
        theta, state = logits, adam.init(logits)
        for _ in range(3):
            change, state = adam.update(jax.grad(loss)(theta, logits), state)
            theta = optax.apply_updates(theta, change)
    out = apply(decoding.em_inf(threshold=0.0), logits)
    np.testing.assert_allclose(out, theta, rtol=0, atol=2e-4)  # Adam divides tiny gradients by themselves
    assert np.abs(out - np.asarray(logits)).max() > 0.25


def test_em_inf_lowers_the_entropy_and_leaves_sure_rows_alone():
    logits = logits_of(7, scale=2.0)
    logits[2] *= 20
    before, last = entropy(logits), entropy(logits)
    for steps in (1, 2, 4):
        now = entropy(apply(decoding.em_inf(steps=steps, kl=0.0), logits))
        assert (now <= last + 1e-6).all()
        last = now
    assert before[2] < 0.3 and last[2] == before[2]
    unsure = before > 0.5
    assert unsure.any() and (last[unsure] < before[unsure]).all()
    np.testing.assert_array_equal(
        apply(decoding.em_inf(), logits).argmax(-1), logits.argmax(-1)
    )  # the mode stays
    flat = np.asarray(jax.nn.log_softmax(apply(decoding.em_inf(), np.zeros((1, 64), np.float32))))
    np.testing.assert_allclose(flat, -np.log(64), rtol=1e-6)


def test_em_temperature_reaches_its_target_and_keeps_the_order():
    logits = logits_of(8, scale=1.5)
    logits[1] *= 1e4  # no entropy left
    out = apply(decoding.em_temperature(0.6, tolerance=1e-3), logits)
    goal = 0.6 * entropy(logits)
    np.testing.assert_allclose(np.delete(entropy(out), 1), np.delete(goal, 1), atol=2e-3)
    np.testing.assert_array_equal(out[1], logits[1])
    np.testing.assert_array_equal(np.argsort(out, -1, kind="stable"), np.argsort(logits, -1, kind="stable"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: decoding.epsilon(1.5), "got 1.5"),
        (lambda: decoding.epsilon(0.5, min_keep=0), "min_keep=0"),
        (lambda: decoding.eta(0.0), "got 0.0"),
        (lambda: decoding.eta(0.5, min_keep=0), "min_keep=0"),
        (lambda: decoding.typical(1.0), "got 1.0"),
        (lambda: decoding.typical(0.5, min_keep=0), "min_keep=0"),
        (lambda: decoding.top_h(0.0), "got 0.0"),
        (lambda: decoding.top_h(candidates=0), "candidates=0"),
        (lambda: decoding.top_n_sigma(-1.0), "got -1.0"),
        (lambda: decoding.edt(base=0.0), "got 0.0"),
        (lambda: decoding.edt(theta=-1.0), "got -1.0"),
        (lambda: decoding.hapo(tau=1.0), "got 1.0"),
        (lambda: decoding.em_inf(lr=0.0), "got 0.0"),
        (lambda: decoding.em_inf(steps=-1), "got -1"),
        (lambda: decoding.em_inf(kl=-1.0), "kl=-1.0"),
        (lambda: decoding.em_temperature(0.0), "got 0.0"),
        (lambda: decoding.em_temperature(tolerance=0.0), "0.0"),
        (lambda: decoding.stable_entropy(width=-1.0), "got -1.0"),
        (lambda: decoding.stable_entropy(mean=()), "at least one coefficient"),
    ],
)
def test_impossible_values_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
