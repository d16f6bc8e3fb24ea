"""The step: independent of microbatches and devices, compiled once, equal to a plain full-logits implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import entjax as ej
from tests import tiny


def entropy_bonus(coef):
    def f(signal, context):
        return signal.add_term("entropy", jnp.full_like(signal.weight, -coef))

    return ej.stateless("bonus", f, terms={"entropy": ej.vocab.entropy}, writes={"coef"})


OBJECTIVE = ej.Objective(per_step=ej.chain(entropy_bonus(0.03)))


def plain_loss(params, graphdef, rollout, entropy_coef):
    """The PPO loss with an entropy bonus from full logits, written down directly."""
    model = nnx.merge(graphdef, params)
    logits = model(rollout.tokens) @ model.head()
    log_probs = jax.nn.log_softmax(logits[:, :-1])
    logp = jnp.take_along_axis(log_probs, rollout.tokens[:, 1:, None], -1)[..., 0]
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
    mask = rollout.mask[:, 1:]
    ratio = jnp.exp(jnp.where(mask, logp - rollout.old_logp[:, 1:], 0))
    advantage = rollout.reward[:, None]
    value = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage) + entropy_coef * entropy
    return -jnp.where(mask, value, 0).sum() / mask.sum().astype(jnp.float32)


def run(rollout, **options):
    model, optimizer = tiny.model(), optax.sgd(0.1)
    state = ej.init_train_state(model, OBJECTIVE, optimizer, jax.random.key(0))
    return ej.make_train_step(model, OBJECTIVE, optimizer, **options)(state, rollout)


@pytest.mark.parametrize("chunk", [1000, 24, 8])
def test_gradient_equals_full_logits(chunk):
    model, rollout = tiny.model(), tiny.rollout()
    graphdef, params = nnx.split(model)
    loss, grads = jax.value_and_grad(plain_loss)(params, graphdef, rollout, 0.03)
    state, metrics = run(rollout, chunk=chunk)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("microbatches", [2, 4, 8])
def test_microbatches_do_not_change_the_step(microbatches):
    rollout = tiny.rollout()
    one, metrics = run(rollout)
    many, more = run(rollout, microbatches=microbatches)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert metrics.keys() == more.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], more[name], rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_do_not_change_the_step(devices):
    rollout = tiny.rollout()
    one, _ = run(rollout)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("anything",))
    put = lambda x: jax.device_put(x, NamedSharding(mesh, P("anything") if jnp.ndim(x) else P()))
    model, optimizer = tiny.model(), optax.sgd(0.1)
    state = ej.init_train_state(model, OBJECTIVE, optimizer, jax.random.key(0))
    state = jax.device_put(state, NamedSharding(mesh, P()))
    many, _ = ej.make_train_step(model, OBJECTIVE, optimizer)(state, jax.tree.map(put, rollout))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_minibatches_are_consecutive_steps():
    rollout = tiny.rollout()
    state, metrics = run(rollout, minibatches=2)
    model, optimizer = tiny.model(), optax.sgd(0.1)
    step = ej.make_train_step(model, OBJECTIVE, optimizer)
    by_hand = ej.init_train_state(model, OBJECTIVE, optimizer, jax.random.key(0))
    for part in range(2):
        by_hand, last = step(by_hand, rollout.rows(lambda x, part=part: x[part::2]))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(by_hand.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert metrics["ratio/max"] >= last["ratio/max"]


def test_an_average_over_the_whole_batch_weighs_as_much_with_minibatches():
    """Two equal halves, no movement: every minibatch has the gradient of the batch, wherever the average is taken."""
    rollout = tiny.rollout().rows(lambda x: jnp.repeat(x[:4], 2, axis=0))

    def add(signal, context):
        ones, counts = jnp.ones_like(signal.weight), signal.mask.astype(signal.weight.dtype)
        return signal.add_term("entropy", -0.3 * ones, own_scale=counts / counts.sum())

    own = ej.stateless("own", add, terms={"entropy": ej.vocab.entropy}, writes={"coef", "own_scale"})
    chain = ej.chain(own, ej.averages.sequence_mean_token_mean())
    norms = {}
    for where in ("per_rollout", "per_step"):
        for minibatches in (1, 2):
            model, optimizer, objective = tiny.model(), optax.sgd(0.0), ej.Objective(**{where: chain})
            state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
            step = ej.make_train_step(model, objective, optimizer, minibatches=minibatches)
            norms[where, minibatches] = float(step(state, rollout)[1]["grad_norm"])
    np.testing.assert_allclose(list(norms.values()), norms["per_step", 1], rtol=1e-5)


def test_the_same_term_twice_is_the_sum_of_both():
    ones = jnp.ones((2, 3))
    signal = ej.Signal.start(tiny.rollout(batch=2, length=3, groups=(2,)))
    both = signal.add_term("kl", -1.0 * ones, own_scale=0.5 * ones).add_term(
        "kl", -2.0 * ones, own_scale=0.1 * ones
    )
    np.testing.assert_allclose(both.coef["kl"] * both.own_scale["kl"], -0.7, rtol=1e-6)
    plain = signal.add_term("kl", ones)
    np.testing.assert_allclose(plain.add_term("kl", ones).coef["kl"], 2.0)
    for first, second in ((plain, ones), (both, None)):
        with pytest.raises(ValueError, match="give both the same average"):
            first.add_term("kl", ones, own_scale=second)


def test_a_chain_may_remember_random_keys():
    start = lambda: jax.random.key(3)
    keyed = ej.stateful("keyed", start, lambda s, own, c: (s, jax.random.split(own)[0]), {})
    model, optimizer, objective = (
        tiny.model(),
        optax.sgd(0.1),
        ej.Objective(keyed, keyed._replace(name="again")),
    )
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    state, _ = ej.make_train_step(model, objective, optimizer)(state, tiny.rollout())
    for chain, name in (("per_rollout", "keyed"), ("per_step", "again")):
        assert state.signal_state[chain][name]["own"] == jax.random.split(start())[0]


@pytest.mark.parametrize("decay", [1.0, 0.75, 0.0])
def test_the_reference_stays_follows_or_is_the_policy(decay):
    """reference <- decay reference + (1 - decay) policy after every step: frozen at 1, no divergence left at 0."""
    model, optimizer = tiny.model(), optax.sgd(0.1)
    objective = ej.Objective(per_step=ej.regularizers.kl(0.1), reference_decay=decay)
    start = nnx.split(tiny.model())[1]
    state = ej.init_train_state(model, objective, optimizer, jax.random.key(0))
    rollout = ej.make_score(model, objective)(state, tiny.rollout())
    state, _ = ej.make_train_step(model, objective, optimizer)(state, rollout)
    kept = zip(*map(jax.tree.leaves, (start, state.params, state.reference)), strict=True)
    for old, policy, reference in kept:
        np.testing.assert_allclose(reference, decay * old + (1 - decay) * policy, rtol=1e-5, atol=1e-7)
    moved = zip(jax.tree.leaves(start), jax.tree.leaves(state.params), strict=True)
    assert max(float(jnp.abs(a - b).max()) for a, b in moved) > 1e-3


def test_compiles_once():
    model, optimizer = tiny.model(), optax.adamw(1e-3)
    state = ej.init_train_state(model, OBJECTIVE, optimizer, jax.random.key(0))
    step = ej.make_train_step(model, OBJECTIVE, optimizer, microbatches=2, minibatches=2)
    for seed in range(3):
        state, _ = step(state, tiny.rollout(seed))
    assert step._cache_size() == 1
    assert int(state.step) == 3


def test_score_fills_in_what_the_trainer_computes():
    model = tiny.model()
    state = ej.init_train_state(model, OBJECTIVE, optax.sgd(0.1), jax.random.key(0))
    rollout = tiny.rollout()
    scored = ej.make_score(model, OBJECTIVE, microbatches=2)(state, rollout)
    log_probs = jax.nn.log_softmax(model(rollout.tokens) @ model.head())
    expected = jnp.take_along_axis(log_probs[:, :-1], rollout.tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(scored.old_logp[:, 1:], expected, atol=1e-5)
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)[:, :-1]  # not what the rollout brought
    where = np.asarray(rollout.mask)[:, 1:]
    np.testing.assert_allclose(
        np.asarray(scored.entropy)[:, 1:][where], np.asarray(entropy)[where], atol=1e-5
    )
    assert np.abs(np.asarray(rollout.entropy)[:, 1:] - np.asarray(entropy))[where].max() > 0.01
    _, metrics = ej.make_train_step(model, OBJECTIVE, optax.sgd(0.1))(state, scored)
    np.testing.assert_allclose(metrics["ratio/max"], 1.0, atol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad):
    rollout = tiny.rollout()
    state, metrics = run(rollout.replace(reward=rollout.reward.at[0].set(bad)))
    assert int(state.skipped) == 1 and metrics["update/skipped"] == 1
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(nnx.split(tiny.model())[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_model_outlives_the_steps():
    """A step takes its state's memory; two objectives can start from one model and one key."""
    model, key, optimizer = tiny.model(), jax.random.key(0), optax.sgd(0.1)
    before = np.asarray(model(tiny.rollout().tokens))
    for objective in (OBJECTIVE, ej.recipes.grpo()):
        state = ej.init_train_state(model, objective, optimizer, key)
        ej.make_train_step(model, objective, optimizer)(state, tiny.rollout())
    np.testing.assert_array_equal(model(tiny.rollout().tokens), before)


def test_what_was_read_of_other_weights_is_not_taken_for_these():
    """Scored by one policy, stepped by another at the same step number: the chain sees the second, as without scoring first."""
    objective, optimizer = ej.Objective(per_step=ej.weights.steer()), optax.sgd(0.1)
    start = lambda seed: ej.init_train_state(tiny.model(seed), objective, optimizer, jax.random.key(0))
    scored = ej.make_score(tiny.model(), objective)(start(0), tiny.rollout())
    assert "reads" not in scored.extra
    promised = ej.make_score(tiny.model(), objective, reads=True)(start(0), tiny.rollout())
    step = ej.make_train_step(tiny.model(), objective, optimizer)
    (_, same), (_, known) = step(start(0), scored), step(start(0), promised)
    for name, value in same.items():
        np.testing.assert_allclose(known[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    _, other = step(start(1), scored)
    assert abs(float(other["entropy/mean"]) - float(same["entropy/mean"])) > 1e-3


def test_bad_rollouts_are_refused_by_score_and_step():
    model, optimizer = tiny.model(), optax.sgd(0.1)
    state = ej.init_train_state(model, OBJECTIVE, optimizer, jax.random.key(0))
    score, step = (
        ej.make_score(model, OBJECTIVE, microbatches=3),
        ej.make_train_step(model, OBJECTIVE, optimizer),
    )
    with pytest.raises(ValueError, match="8 rows cannot be split into 3 microbatches"):
        score(state, tiny.rollout())
    numbers = tiny.rollout().replace(mask=tiny.rollout().mask.astype(jnp.float32))
    for f in (ej.make_score(model, OBJECTIVE), step):
        with pytest.raises(ValueError, match="mask has type float32"):
            f(state, numbers)


def test_temperature_divides_the_logits():
    model = tiny.model()
    state = ej.init_train_state(model, OBJECTIVE, optax.sgd(0.1), jax.random.key(0))
    rollout = tiny.rollout().replace(temperature=jnp.float32(0.5))
    scored = ej.make_score(model, OBJECTIVE)(state, rollout)
    log_probs = jax.nn.log_softmax(model(rollout.tokens) @ model.head() / 0.5)
    expected = jnp.take_along_axis(log_probs[:, :-1], rollout.tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(scored.old_logp[:, 1:], expected, atol=1e-5)


def test_missing_inputs_are_named():
    needy = ej.Objective(ej.stateless("needy", lambda s, c: s, needs={"ref_logp"}))
    model = tiny.model()
    state = ej.init_train_state(model, needy, optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(ValueError, match="ref_logp"):
        ej.make_train_step(model, needy, optax.sgd(0.1))(state, tiny.rollout())
    with pytest.raises(ValueError, match="cannot be split"):
        run(tiny.rollout(), microbatches=3)


@pytest.mark.parametrize("surrogate", [ej.surrogates.gspo, ej.surrogates.gmpo, ej.surrogates.vespo])
def test_whole_row_surrogates_in_chunks_equal_autodiff(surrogate):
    """The sweep takes their slope first; plain autodiff through full logits must agree."""
    objective = ej.Objective(per_step=entropy_bonus(0.1), per_token=surrogate)
    model, rollout = tiny.model(), tiny.rollout(drift=0.05)
    graphdef, params = nnx.split(model)
    rollout = rollout.replace(
        old_logp=ej.make_score(model, objective)(
            ej.init_train_state(tiny.model(1), objective, optax.sgd(1.0), jax.random.key(0)), rollout
        ).old_logp
    )
    signal, _ = objective.per_step.update(ej.Signal.start(rollout), {}, ej.Context(rollout))

    def swept(params):
        m = nnx.merge(graphdef, params)
        return ej.policy_loss(objective, m(rollout.tokens), m.head(), rollout, signal, chunk=16).loss

    def plain(params):
        m = nnx.merge(graphdef, params)
        log_probs = jax.nn.log_softmax(m(rollout.tokens) @ m.head())
        logp = jnp.take_along_axis(log_probs[:, :-1], rollout.tokens[:, 1:, None], -1)[..., 0]
        logp = jnp.pad(logp, ((0, 0), (1, 0)))
        ratio = ej.loss.log_ratios(logp, rollout.old_logp, rollout.mask)
        entropy = jnp.pad(-(jnp.exp(log_probs) * log_probs).sum(-1)[:, :-1], ((0, 0), (1, 0)))
        return -(signal.scale * (surrogate(ratio, signal) + 0.1 * entropy)).sum()

    (a, ga), (b, gb) = jax.value_and_grad(swept)(params), jax.value_and_grad(plain)(params)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(ga), jax.tree.leaves(gb), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
