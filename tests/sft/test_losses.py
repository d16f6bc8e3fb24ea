"""Losses on given text against plain float64 NumPy, their limits, and the step that they share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import sft, vocab
from tests import tiny

BATCH, LENGTH, VOCAB = 6, 9, 11


def text(seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)
    ends = rng.integers(3, LENGTH + 1, (BATCH, 1))
    at = np.arange(LENGTH)
    mask = (at >= 2) & (at < ends)
    mask[4] = False  # a filler row
    return tokens, mask


def log_probs(model, tokens):
    """[B, T, V] float64 log-probs of tokens[:, t], whose index 0 nothing predicts."""
    logits = np.asarray(model(jnp.asarray(tokens)), np.float64) @ np.asarray(model.head(), np.float64)
    logp = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    return np.concatenate([np.zeros_like(logp[:, :1]), logp[:, :-1]], axis=1)


def loss_value(loss, teacher=None, seed=0, chunk=7):
    model, (tokens, mask) = tiny.model(), text(seed)
    see = lambda m: sft.Text(m(jnp.asarray(tokens)), m.head())
    options = {"teacher": None if teacher is None else see(teacher), "chunk": chunk}
    decision = sft.decide(loss, see(model), tokens, mask, **options)
    return float(sft.loss_of_text(loss, see(model), tokens, mask, decision, **options))


def reference(kind, teacher=None, seed=0):
    """The definitions, token by token."""
    tokens, mask = text(seed)
    logq = log_probs(tiny.model(), tokens)
    q = np.exp(logq)
    logp = np.take_along_axis(logq, tokens[..., None], -1)[..., 0]
    entropy = -(q * logq).sum(-1)
    if kind == "nll":
        return -logp[mask].mean()
    if kind == "em_ft":
        return (entropy * mask).sum() / mask.any(-1).sum()
    if kind == "entropy_sft":
        surplus = np.sort((-logp - 0.5 * entropy)[mask])[::-1]
        k = int(0.3 * mask.sum())
        return -logp[mask & (-logp - 0.5 * entropy >= surplus[k - 1])].sum() / k
    if kind == "mixce":
        return -((0.3 + 0.7 * np.exp(logp)) * logp)[mask].mean()
    logt = log_probs(teacher, tokens)
    forward, reverse = (np.exp(logt) * (logt - logq)).sum(-1), (q * (logq - logt)).sum(-1)
    return (0.25 * reverse + 0.75 * forward)[mask].mean()


WIDE = {"width": 12}  # a teacher of another width
LOSSES = [
    ("nll", sft.nll(), None),
    ("em_ft", sft.em_ft(), None),
    ("entropy_sft", sft.entropy_sft(0.3, 0.5), None),
    ("mixce", sft.mixce(0.3), None),
    ("distill", sft.distill(0.25), WIDE),
]


@pytest.mark.parametrize(("kind", "loss", "wide"), LOSSES)
def test_value(kind, loss, wide):
    teacher = wide and tiny.model(3, **wide)
    np.testing.assert_allclose(loss_value(loss, teacher), reference(kind, teacher), rtol=2e-5)


def test_limits():
    np.testing.assert_allclose(loss_value(sft.mixce(1.0)), loss_value(sft.nll()), rtol=1e-6)
    np.testing.assert_allclose(loss_value(sft.entropy_sft(1.0, 0.7)), loss_value(sft.nll()), rtol=1e-6)
    for lam in (0.0, 0.5, 1.0):
        assert abs(loss_value(sft.distill(lam), tiny.model())) < 1e-6  # the student as its own teacher


ALL = [*(loss for _, loss, _ in LOSSES), sft.opd(), sft.distil(), sft.distil(future=False)]


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_microbatches_chunks_and_padding_change_nothing(loss):
    model, teacher, (tokens, mask) = tiny.model(), tiny.model(3), text()
    garbage = np.where(mask | (np.arange(LENGTH) < 2), tokens, (tokens + 5) % VOCAB)
    teacher_params = nnx.state(teacher, nnx.Param) if loss.teacher else None
    results = []
    for ids, pieces, chunk in ((tokens, 1, 4096), (garbage, 3, 4)):
        step = sft.make_text_step(
            model,
            loss,
            optax.sgd(1.0),
            teacher=teacher if loss.teacher else None,
            microbatches=pieces,
            chunk=chunk,
        )
        params = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
        results.append(step(params, optax.sgd(1.0).init(params), ids, mask, teacher_params))
    for params, _, value in results[1:]:
        np.testing.assert_allclose(value, results[0][2], rtol=1e-5, atol=1e-7)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, results[0][0]
        )
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), results[0][0], nnx.state(model, nnx.Param))
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_nothing_to_learn_from_is_no_step(loss):
    model, teacher, (tokens, mask) = tiny.model(), tiny.model(3), text()
    step = sft.make_text_step(model, loss, optax.sgd(1.0), teacher=teacher)
    params = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    new, _, value = step(
        params, optax.sgd(1.0).init(params), tokens, mask & False, nnx.state(teacher, nnx.Param)
    )
    assert value == 0
    jax.tree.map(np.testing.assert_array_equal, new, nnx.state(model, nnx.Param))


def train(loss, steps=40, teacher=None, lr=0.03):
    model, (tokens, mask) = tiny.model(), text()
    optimizer = optax.adam(lr)
    step = sft.make_text_step(model, loss, optimizer, teacher=teacher)
    params = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    opt_state = optimizer.init(params)
    extra = () if teacher is None else (nnx.state(teacher, nnx.Param),)
    for _ in range(steps):
        params, opt_state, value = step(params, opt_state, tokens, mask, *extra)
    nnx.update(model, params)
    logq = log_probs(model, tokens)[mask]
    return logq, -(np.exp(logq) * logq).sum(-1).mean(), float(value)


def test_effects_have_the_claimed_direction():
    """EM-FT lowers the entropy without looking at the text; MixCE stays sharper than NLL, Entropy-SFT flatter."""
    tokens, mask = text()
    start = log_probs(tiny.model(), tokens)[mask]
    before = -(np.exp(start) * start).sum(-1).mean()
    assert train(sft.em_ft())[1] < 0.5 * before
    sharp, plain, flat = (
        train(loss, 15)[1] for loss in (sft.mixce(0.0), sft.nll(), sft.entropy_sft(0.3, 1.0))
    )
    assert sharp < plain < flat, (sharp, plain, flat)


def test_distillation_reaches_the_teacher():
    teacher, (tokens, mask) = tiny.model(3, width=12), text()
    logt = log_probs(teacher, tokens)[mask]
    distance = lambda logq: np.abs(np.exp(logq) - np.exp(logt)).sum(-1).mean()
    start = distance(log_probs(tiny.model(), tokens)[mask])
    for reverse in (0.0, 1.0):
        assert distance(train(sft.distill(reverse), 150, teacher)[0]) < 0.35 * start


def test_opd_is_an_unbiased_estimate_of_the_reverse_kl():
    """Over all tokens weighted by the student, the gradient in the logits is that of KL(q || pT)."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        logits, other = (jnp.asarray(rng.normal(size=(1, 1, 7))) for _ in range(2))

        def gradient(loss, token):
            row = lambda logits: vocab.Row(
                logits, jnp.full((1, 1), token, jnp.int32), {"ref_logits": other, "weight": jnp.ones((1, 1))}
            )
            return jax.grad(lambda logits: loss.per_token(row(logits)).sum())(logits)

        q = jax.nn.softmax(logits[0, 0])
        sampled = sum(q[v] * gradient(sft.opd(), v) for v in range(7))
        np.testing.assert_allclose(sampled, gradient(sft.distill(1.0), 0), rtol=1e-9, atol=1e-12)


def test_impossible_values_are_refused():
    for make, said in [
        (lambda: sft.mixce(1.5), "got 1.5"),
        (lambda: sft.entropy_sft(0.0), "got 0.0"),
        (lambda: sft.entropy_sft(coef=-1.0), "got -1.0"),
        (lambda: sft.distill(-0.1), "got -0.1"),
        (lambda: sft.on_policy(2.0), "got 2.0"),
        (lambda: sft.length_curriculum(-1.0), "got -1.0"),
        (lambda: sft.length_curriculum(1.0, (4, 2)), "growing"),
        (lambda: sft.length_curriculum(1.0, stage=0), "stage >= 1"),
        (lambda: ej.averages.first_tokens(0), "length >= 1, got 0"),
        (lambda: ej.Objective(teacher=tiny.model(), reference_decay=0.5), "a teacher"),
        (lambda: sft.make_text_step(tiny.model(), sft.opd(), optax.sgd(1.0)), "teacher=model"),
    ]:
        with pytest.raises(ValueError, match=said):
            make()


# Curriculum ------------------------------------------------------------------------------------------------------------------


def test_the_curriculum_waits_for_entropy():
    curriculum = sft.length_curriculum(0.5, (4, 8, 16))
    state = curriculum.init()
    assert int(sft.length_at((4, 8, 16), state.rung)) == 4
    lengths = []
    for entropy in (0.4, 0.49, 0.5, 0.1, 2.0, 3.0, 0.2):
        length, state = jax.jit(curriculum.update)(jnp.float32(entropy), state)
        lengths.append(int(length))
    assert lengths == [4, 4, 8, 8, 16, 16, 16]
    slow, lengths = sft.length_curriculum(0.5, (4, 8, 16), stage=3), []
    state = slow.init()
    for entropy in (
        1.0,
        1.0,
        1.0,
        0.4,
        0.1,
        0.1,
        0.5,
    ):  # what is measured after three steps and after six decides
        length, state = slow.update(jnp.float32(entropy), state)
        lengths.append(int(length))
    assert lengths == [4, 4, 4, 4, 4, 4, 8]
    mask = jnp.asarray([[False, True, True, False, True], [True, False, False, False, False]])
    assert np.asarray(sft.first_tokens(mask, 2)).tolist() == [
        [False, True, True, False, False],
        [True, False, False, False, False],
    ]
