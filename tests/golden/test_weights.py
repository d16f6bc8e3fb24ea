"""Golden numbers of the token weights and masks and of the entropy-change theory behind them."""

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax import attention_entropy, entropy_change, masked, surrogates, vocab
from tests.golden.compose import decide, f64, loss_of_logp, rollout_of, signal_of, stats_of
from tests.golden.harness import golden

CLIP = ej.clips.asymmetric(0.2, 0.28)


@golden("steer")
def test_steer(case):
    x = case.x
    low, high = float(x["token_weight_min"]), float(x["token_weight_max"])
    rollout = rollout_of({**x, "mask": np.asarray(x["mask"]) > 0})
    if x["linear"]:
        weights = ej.weights.steer(low, high, mode="linear", estimator=entropy_change.steer_code)
    else:
        weights = ej.weights.steer(low, estimator=entropy_change.steer_code, floor=0.02)
    whole = ej.chain(CLIP, weights, ej.averages.token_mean())
    signal = decide(whole, signal_of(rollout, x["advantages"]), rollout, {"logp": f64(x["logp"])})
    case.close(masked.keep(signal.weight, rollout.mask), "out_weights")
    if "out_loss" in x:
        loss, grad = loss_of_logp(x["logp"], rollout, signal, surrogates.dual_clip(10.0))
        case.close(loss, "out_loss")
        case.close(grad, "out_grad_logp")


@golden("clip_cov")
def test_clip_cov(case):
    x = case.x
    rollout = rollout_of(x)
    mask, logp = rollout.mask, f64(x["logp"])
    clip = ej.clips.asymmetric(float(x["clip_ratio_low"]), float(x["clip_ratio_high"]))
    low, high = float(x["clip_cov_lb"]), float(x["clip_cov_ub"])
    method = ej.weights.clip_cov(float(x["clip_cov_ratio"]), low=low, high=high)
    start = signal_of(rollout, x["advantages"])
    signal = decide(ej.chain(clip, method, ej.averages.token_mean()), start, rollout, {"logp": logp})

    covariance = entropy_change.token_covariance(start.advantage, masked.keep(logp, mask), mask)
    valid = np.asarray(mask)  # theirs is not masked
    np.testing.assert_allclose(np.asarray(covariance)[valid], x["out_cov"][valid], rtol=1e-7, atol=1e-9)
    eligible, chosen = np.asarray(x["out_eligible"]).astype(bool), np.asarray(x["out_selected"]).astype(bool)
    dropped = np.asarray(signal.weight == 0)
    assert not (dropped & ~eligible).any()
    assert dropped.sum() == min(int(x["out_clip_num"]), eligible.sum()) == chosen.sum()
    case.close(dropped.sum() / (mask.sum() + 1e-8), "out_pg_clipfrac")
    np.testing.assert_allclose(signal.metrics["clip_cov/eligible"], eligible.sum() / mask.sum(), rtol=1e-6)
    if int(x["out_clip_num"]) >= eligible.sum():
        np.testing.assert_array_equal(dropped, eligible)

    # The draw itself is another generator's: inject it, and the loss must follow.
    signal = signal.replace(weight=jnp.where(jnp.asarray(chosen), 0, jnp.ones_like(signal.weight)))
    loss, grad = loss_of_logp(logp, rollout, signal, surrogates.ppo_clip)
    case.close(loss, "out_loss")
    case.close(grad, "out_grad_logp")


@golden("forking_tokens")
def test_forking_tokens(case):
    x = case.x
    rollout = rollout_of(x)
    start, stats = signal_of(rollout, x["advantages"]), {"entropy": f64(x["entropy"])}
    rho = float(x["rho"])
    variants = [("", "ceil", surrogates.dual_clip(10.0)), ("_lpreg_variant", "floor", surrogates.ppo_clip)]
    for suffix, rule, surrogate in variants:
        if f"out_loss{suffix}" not in x:
            continue
        method = ej.weights.forking_tokens(rho, rule=rule)
        whole = ej.chain(CLIP, method, ej.averages.token_mean())
        signal = decide(whole, start, rollout, stats)
        loss, grad = loss_of_logp(x["logp"], rollout, signal, surrogate)
        case.close(loss, f"out_loss{suffix}")
        case.close(grad, f"out_grad_logp{suffix}")
        if not suffix:
            case.close(signal.mask, "out_mask")


def rewarded(x):
    """Rollout and Signal after GRPO's advantage on the summed token rewards."""
    mask = np.asarray(x["mask"]).astype(bool)
    reward = np.where(mask, x["token_level_rewards"], 0).sum(1)
    rollout = rollout_of(x, reward=f64(reward))
    return rollout, decide(ej.advantages.group_normalize(), ej.Signal.start(rollout), rollout, {})


def clipped(case, rollout, before, after):
    """The mask and how much of which sign it dropped."""
    mask, kept, a = np.asarray(rollout.mask), np.asarray(after.mask), np.asarray(before.advantage)
    case.close(before.advantage, "out_advantages")
    case.close(after.advantage, "out_advantages")
    case.close(kept, "out_mask")
    share = lambda chosen: (mask & ~kept & chosen).sum() / max((mask & chosen).sum(), 1)
    case.close(share(mask), "out_frac_clipped")
    case.close(share(a > 0), "out_frac_clipped_pos")
    case.close(share(a < 0), "out_frac_clipped_neg")


@golden("clip_b")
def test_clip_b(case):
    rollout, before = rewarded(case.x)
    after = decide(ej.weights.clip_b(float(case.x["mu"])), before, rollout, {})
    clipped(case, rollout, before, after)
    case.close(after.metrics["clip_b/mean"], "out_ES")
    case.close(after.metrics["clip_b/std"] ** 2, "out_varS")


@golden("clip_v")
def test_clip_v(case):
    x = case.x
    rollout, before = rewarded(x)
    features = stats_of(x["old_logits"], rollout)
    sums = {name: features[name] for name in ("prob_sq", "prob_sq_logp")}
    rollout = rollout.replace(extra=sums)
    case.close(entropy_change.expected_score(f64(x["old_entropy"]), **sums), "out_nec")
    method = ej.weights.clip_v(float(x["mu"]), max_fraction=float(x["max_frac"]))
    after = decide(method, before, rollout, {})
    clipped(case, rollout, before, after)
    case.close(after.metrics["clip_v/std"], "out_stdD")


def of_one_token(logits, token, estimator):
    """The predicted change of an on-policy step with advantage 1 on each row's token; logits [N, V]."""
    mask = np.ones((len(logits), 1), bool)
    rollout = rollout_of({"mask": mask, "tokens": np.asarray(token)[:, None]})
    stats = stats_of(np.asarray(logits)[:, None], rollout)
    rollout = rollout.replace(old_logp=stats["logp"], entropy=stats["entropy"])
    return estimator.score(signal_of(rollout, 1.0), ej.Context(rollout, stats))[:, 0]


@golden("entropy_dynamics")
def test_entropy_dynamics(case):
    x = case.x
    logits, token = f64(x["logits"]), jnp.asarray(x["k"], jnp.int32)
    entropy = lambda z: vocab.entropy(vocab.Row(z, token))
    row = vocab.Row(logits, token)
    case.close(entropy_change.discriminator_score(vocab.logp(row), entropy(logits)), "out_S")
    sums = (vocab.prob_sq(row), vocab.prob_sq_logp(row))
    case.close(entropy_change.expected_score(entropy(logits), *sums), "out_ES")
    single = of_one_token(logits, token, entropy_change.discriminator)
    case.close(single, "out_first_order_single_logit")
    exact = of_one_token(logits, token, entropy_change.exact_first_order)
    case.close(exact, "out_first_order_pg")
    e_k = jax.nn.one_hot(token, logits.shape[-1], dtype=logits.dtype)
    for name, direction, first_order in (
        ("single_logit", e_k, single),
        ("pg", e_k - jax.nn.softmax(logits), exact),
    ):
        change = (entropy(logits + 1e-4 * direction) - entropy(logits)) / 1e-4
        case.close(change, f"out_dH_{name}")
        np.testing.assert_allclose(first_order, change, atol=1e-3)


@golden("cov_identity")
def test_covariance_identity(case):
    """H(l + eta dz) - H(l) = -eta Cov_p(log p, dz) + O(eta^2), the identity behind the covariance estimator."""
    x = case.x
    logits = f64(x["logits"])
    p, log_p = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    entropy = lambda z: vocab.entropy(vocab.Row(z, jnp.zeros(z.shape[0], jnp.int32)))
    directions = {"pg": p * f64(x["advantages"]), "npg": f64(x["advantages"]), "generic": f64(x["dz"])}
    for name, dz in directions.items():
        mean = lambda y: (p * y).sum(-1, keepdims=True)
        first = -(p * (log_p - mean(log_p)) * (dz - mean(dz))).sum(-1)
        case.close(first, f"out_first_order_{name}")
        # the slope of our own entropy feature along dz is that covariance
        slope = jax.jvp(entropy, (logits,), (dz,))[1]
        case.close(slope, f"out_first_order_{name}", rtol=1e-8)
        for array in [a for a in x if a.startswith(f"out_dH_{name}_eta")]:
            eta = float(array.split("eta")[1])
            case.close(entropy(logits + eta * dz) - entropy(logits), array, rtol=1e-5)


@golden("attention_entropy")
def test_attention_entropy(case):
    x = case.x
    mask = jnp.asarray(x["mask"]).astype(bool)
    attention = f64(x["attn_mean_over_heads"])
    case.close(attention_entropy.raw(attention), "out_raw")
    entropy = attention_entropy.normalized(attention, jnp.asarray(x["n_context"]))
    case.close(entropy, "out_normalized")
    case.close(attention_entropy.anchors(entropy, mask), "out_anchor_mask")
    case.close(attention_entropy.explorers(entropy, mask), "out_explorer_mask")
