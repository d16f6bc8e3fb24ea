"""Golden numbers of the regularizers: values, selections and gradients of the published code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax import features, vocab
from entjax.loss import log_ratios, token_losses
from entjax.regularizers.epo import EpoState
from entjax.regularizers.epo_released import epoch_weight, outside
from tests.golden.harness import golden


def wide(tree):
    """Every float as float64, so that float32 states do not limit the comparison."""
    raise_ = lambda x: x.astype(jnp.float64) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x
    return jax.tree.map(raise_, tree)


def setting(x, *, old="old_logp", rewards=None, group=None, extra=None):
    """(rollout, signal) of a golden case, whatever arrays it has."""
    mask = jnp.asarray(x["mask"]) > 0
    zeros = jnp.zeros(mask.shape)
    rollout = ej.Rollout(
        tokens=jnp.asarray(x["tokens"] if "tokens" in x else np.zeros(mask.shape), jnp.int32),
        mask=mask,
        logp=zeros,
        entropy=zeros,
        old_logp=jnp.asarray(x[old], jnp.float64) if old in x else zeros,
        reward=jnp.zeros(mask.shape[0]) if rewards is None else jnp.asarray(rewards),
        group=jnp.arange(mask.shape[0], dtype=jnp.int32) if group is None else jnp.asarray(group, jnp.int32),
        extra=extra or {},
    )
    signal = ej.Signal.start(rollout)
    if "advantages" in x:
        signal = signal.replace(advantage=jnp.asarray(x["advantages"], jnp.float64))
    return rollout, signal


def logits_row(x, logits, **side):
    rollout, _ = setting(x)
    return vocab.Row(jnp.asarray(logits, jnp.float64), rollout.tokens, {"old_logp": rollout.old_logp, **side})


def loss_of_logp(logp, rollout, signal, surrogate, features_of=None):
    """The loss when only log pi is known; terms are features of log pi and the side inputs."""
    ratio = log_ratios(logp, rollout.old_logp, rollout.mask)
    values = {} if features_of is None else features_of(logp)
    return jnp.where(rollout.mask, token_losses(ratio, signal, values, surrogate), 0).sum()


def as_row(logp, **side):
    """Two logits (log p, log(1 - p)) per position, so that every feature of the sampled token can be evaluated."""
    other = jnp.log1p(-jnp.exp(jnp.minimum(logp, -1e-12)))
    return vocab.Row(jnp.stack([logp, other], -1), jnp.zeros(logp.shape, jnp.int32), side)


def terms_loss(x, transform, signal, rollout, logits, surrogate=None):
    """Sum of the terms (and the surrogate) as a function of the logits."""
    row = logits_row(x, logits, mask=rollout.mask, **rollout.extra)
    values = {name: feature(row) for name, feature in transform.terms.items()}
    ratio = log_ratios(vocab.logp(row), rollout.old_logp, rollout.mask)
    nothing = lambda r, s: r * 0
    return jnp.where(rollout.mask, token_losses(ratio, signal, values, surrogate or nothing), 0).sum()


@golden("siren")
def test_siren(case):
    x = case.x
    auto = case.name.endswith("auto")
    top_p, q, coef = (float(x[name]) for name in ("top_p", "quantile", "coef"))
    anchor = None if auto else float(x["out_anchor"])
    t = ej.regularizers.siren(coef, top_p=top_p, quantile=q, include_crossing=False, anchor=anchor)
    (name,) = t.terms
    feature = features.top_p_entropy(top_p, False)
    rollout, signal = setting(x)
    read = lambda logits: {name: feature(logits_row(x, logits)).astype(jnp.float32).astype(jnp.float64)}
    state = wide(t.init(None))
    if auto:
        _, state = t.update(signal, state, ej.Context(rollout, read(x["old_logits"])))
    out, new = t.update(signal, wide(state), ej.Context(rollout, read(x["logits"])))
    mask = np.asarray(rollout.mask)
    case.close(np.where(mask, read(x["logits"])[name], 0), "out_topp_entropy")
    entropy = vocab.entropy(logits_row(x, x["logits"]))
    case.close(np.where(mask, entropy, 0), "out_full_entropy")
    quantile = ej.masked.quantile(read(x["logits"])[name], rollout.mask, q, axis=1, keepdims=True)
    some = mask.any(1, keepdims=True)
    assert np.allclose(np.where(some, quantile, 0), np.where(some, x["out_quantile"], 0), rtol=2e-5)
    peak = np.asarray(out.own_scale[name]) > 0
    np.testing.assert_array_equal(peak, x["out_mask"])
    np.testing.assert_array_equal(peak, x["out_mask_twice"])
    case.close(out.metrics["siren/entropy"], "out_entropy_agg")
    case.close(new["own"].anchor, "out_anchor")
    loose = {"rtol": 1e-4} if auto else {}
    case.close(out.metrics["siren/penalty"], "out_reg", **loose)
    grad = jax.grad(lambda z: terms_loss(x, t, out, rollout, z))(jnp.asarray(x["logits"], jnp.float64))
    case.close(grad / coef, "out_grad_reg_logits", **loose)
    batch = ej.averages.constant_length(mask.shape[1])
    out = batch.update(out, (), ej.Context(rollout))[0]
    both = lambda z: terms_loss(x, t, out, rollout, z, ej.surrogates.dual_clip(3.0))
    case.close(jax.grad(both)(jnp.asarray(x["logits"], jnp.float64)), "out_grad_logits")
    pg = terms_loss(x, t, out.replace(coef={}), rollout, x["logits"], ej.surrogates.dual_clip(3.0))
    case.close(pg, "out_pg_loss")
    case.close(pg + coef * out.metrics["siren/penalty"], "out_loss")


@golden("kl_cov")
def test_kl_cov(case):
    x = case.x
    t = ej.regularizers.kl_cov(float(x["kl_cov_ratio"]), float(x["ppo_kl_coef"]))
    rollout, signal = setting(x)
    out, _ = t.update(signal, (), ej.Context(rollout, {"logp": jnp.asarray(x["logp"])}))
    (name,) = t.terms
    selected = np.asarray(out.coef[name]) > 0
    np.testing.assert_array_equal(selected, x["out_selected"])
    assert selected.sum() == x["out_k"] == out.metrics["kl_cov/selected"]
    mask, n = rollout.mask, rollout.mask.sum()
    A, logp = jnp.asarray(x["advantages"]), jnp.asarray(x["logp"])
    covariance = (A - ej.masked.mean(A, mask)) * (logp - ej.masked.mean(logp, mask))
    case.close(ej.masked.keep(covariance, mask), "out_cov_masked")
    mean_of_selected = ej.masked.mean(covariance, jnp.asarray(x["out_selected"]))
    np.testing.assert_allclose(out.metrics["kl_cov/covariance"], mean_of_selected)
    gap = lambda logp: jnp.abs(logp - rollout.old_logp)
    case.close(ej.masked.total(gap(logp), mask) / n, "out_ppo_kl_abs")
    row = lambda logp: as_row(logp, old_logp=rollout.old_logp, mask=mask)
    np.testing.assert_allclose(
        ej.masked.keep(t.terms[name](row(logp)), mask), ej.masked.keep(gap(logp), mask), rtol=1e-6, atol=1e-9
    )
    loss = lambda z: loss_of_logp(z, rollout, out, ej.surrogates.unclipped, lambda z: {name: gap(z)})
    case.close(loss(logp), "out_loss")
    case.close(jax.grad(loss)(logp), "out_grad_logp")


@golden("lp_reg")
def test_lp_reg(case):
    x = case.x
    kappa, rho, coef = (float(x[name]) for name in ("kappa", "rho", "coef"))
    kind = {"low_var_kl": ej.kl.k3(), "mse": ej.kl.k2()}[str(x["kl_type"])]
    rule = str(x["regular_type"])
    estimator = "mse" if str(x["kl_type"]) == "mse" else "k3"
    t = ej.regularizers.lp_reg(coef, kappa=kappa, rho=rho, min_selected=2, rule=rule, estimator=estimator)
    (proxy,) = t.remembers
    rollout, signal = setting(x)
    ceiling = t.remembers[proxy](logits_row(x, x["old_logits"]))
    ref, filtered = x["out_proxy_logp"], x["out_proxy_logp"] < -5e3
    np.testing.assert_array_equal(np.asarray(ceiling) < -5e3, filtered)
    np.testing.assert_allclose(
        np.where(filtered, 0, ceiling), np.where(filtered, 0, ref), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(np.asarray(ceiling)[filtered], ref[filtered], rtol=1e-2)
    rollout = rollout.replace(extra={proxy: ceiling})
    low, high = 1 - float(x["clip_ratio_low"]), 1 + float(x["clip_ratio_high"])
    bounds = {"clip_low": jnp.full(rollout.mask.shape, low), "clip_high": jnp.full(rollout.mask.shape, high)}
    logp = jnp.asarray(x["logp"])
    out, _ = t.update(signal.replace(**bounds), (), ej.Context(rollout, {"logp": logp}))
    (name,) = t.terms
    np.testing.assert_array_equal(np.asarray(out.coef[name]) > 0, x["out_selected"])
    assert out.metrics["lp_reg/selected"] == x["out_n_selected"]
    term = lambda z: {name: kind.value(ceiling - z)}
    loss = lambda z: loss_of_logp(z, rollout, out, ej.surrogates.ppo_clip, term)
    case.close(loss(logp), "out_loss")
    case.close(jax.grad(loss)(logp), "out_grad_logp")
    ratio, A, mask = jnp.exp(logp - rollout.old_logp), jnp.asarray(x["advantages"]), rollout.mask
    clipped = -A * jnp.clip(ratio, low, high) > -A * ratio
    case.close(ej.masked.mean(clipped, mask), "out_clipfrac")
    case.close(ej.masked.mean(kind.value(rollout.old_logp - logp), mask), "out_ppo_kl")


@golden("confucius_ter")
def test_targeted_entropy(case):
    x = case.x
    coef, target = float(x["entropy_coeff"]), float(x["entropy_target"])
    t = ej.regularizers.targeted_entropy(coef, target=target)
    rollout, signal = setting(x)
    H = vocab.entropy(logits_row(x, x["logits"]))
    out, _ = t.update(signal, (), ej.Context(rollout, {"entropy": H}))
    case.close(out.metrics["targeted_entropy/entropy"], "out_entropy")
    case.close(out.metrics["targeted_entropy/penalty"], "out_reg")
    grad = jax.grad(lambda z: terms_loss(x, t, out, rollout, z))(jnp.asarray(x["logits"]))
    case.close(grad, "out_grad_logits")


@golden("lightif_tea")
def test_tea(case):
    x = case.x
    rollout, signal = setting(x)
    row = logits_row(x, x["logits"])
    stats = {"entropy": vocab.entropy(row), "logp": vocab.logp(row)}
    gradients = {}
    for detach in (True, False):
        t = ej.regularizers.tea(1.0, alpha=float(x["hp_alpha"]), upper=float(x["hp_ub"]), detach=detach)
        out, _ = t.update(signal, (), ej.Context(rollout, stats))
        loss = functools.partial(terms_loss, x, t, out, rollout)
        gradients[detach] = -jax.grad(loss)(jnp.asarray(x["logits"]))
    case.close(-np.asarray(out.coef["tea"]), "out_weights")
    case.close(out.metrics["tea/bonus"], "out_entropy_loss")
    case.close(out.metrics["tea/weight"], "out_coef_mean")
    case.close(gradients[True], "out_grad_logits_detached_w")
    case.close(gradients[False], "out_grad_logits")


@golden("dsdr")
def test_dsdr_local(case):
    x = case.x
    coef, tau, sigma = (float(x[name]) for name in ("hp_lambda_l", "hp_tau", "hp_sigma_d"))
    t = ej.regularizers.dsdr_local(coef, tau=tau, sigma=sigma, over="sum")
    extra = {"diversity": jnp.asarray(x["out_diversity"])}
    rollout, signal = setting(x, rewards=x["rewards"], group=x["group_ids"], extra=extra)
    out, _ = t.update(signal, (), ej.Context(rollout))
    w = np.asarray(out.coef["weighted_logp"]).max(1) / coef
    case.close(w, "out_weights")
    logp = jnp.asarray(x["logp"])
    value = lambda z: {"weighted_logp": jnp.exp(z - rollout.old_logp) * z}
    term = lambda z: loss_of_logp(z, rollout, out, lambda r, s: r * 0, value)
    case.close(-term(logp) / coef, "out_local_objective")
    case.close(-jax.grad(term)(logp), "out_grad_logp")
    row = as_row(jnp.minimum(logp, -1e-3), old_logp=rollout.old_logp)
    expected = jnp.exp(vocab.logp(row) - rollout.old_logp) * vocab.logp(row)
    np.testing.assert_allclose(t.terms["weighted_logp"](row), expected, rtol=1e-9)
    averaged = ej.regularizers.dsdr_local(coef, tau=tau, sigma=sigma)
    mean, _ = averaged.update(signal, (), ej.Context(rollout))
    groups = len(set(x["group_ids"].tolist()))
    np.testing.assert_allclose(
        mean.own_scale["weighted_logp"] * groups, out.own_scale["weighted_logp"], rtol=1e-12
    )


@golden("entropic_loss")
def test_entropic(case):
    x = case.x
    hp = {name[3:]: float(x[name]) for name in x if name.startswith("hp_")}
    t = ej.regularizers.entropic(
        hp["target"],
        kp=hp["kp"],
        ki=hp["ki"],
        threshold=hp["thresh"],
        form="released",
        fraction=hp["micro_fraction"],
    )
    rollout, signal = setting(x)
    signal = signal.replace(clip_high=jnp.full_like(signal.clip_high, 1.28))
    state, surrogate = wide(t.init(None)), ej.surrogates.dual_clip(hp["clip_c"])
    for k in range(sum(name.startswith("in_entropy_") for name in x)):
        logp = jnp.asarray(x["logp"]) + 0.05 * k
        stats = {"logp": logp, "entropy": jnp.full(rollout.mask.shape, float(x[f"in_entropy_{k}"]))}
        out, state = t.update(signal, state, ej.Context(rollout, stats))
        alpha = float(out.metrics["entropic/alpha"])
        case.close(alpha, f"out_alpha_{k}")
        ratio = lambda z: {"entropic_ratio": jnp.exp(jnp.clip(z - rollout.old_logp, -20, 20))}
        loss = lambda z, s=out, r=ratio: loss_of_logp(z, rollout, s, surrogate, r)
        case.close(loss(logp), f"out_loss_{k}")
        case.close(jax.grad(loss)(logp), f"out_grad_logp_{k}")
        case.close(loss_of_logp(logp, rollout, signal, surrogate), f"out_pg_{k}")
        term = loss_of_logp(logp, rollout, out, lambda r, s: r * 0, ratio)
        case.close(term / alpha, f"out_extra_{k}")


@golden("epo_paper")
def test_epo(case):
    x = case.x
    hp = {name[3:]: float(x[name]) for name in x if name.startswith("hp_")}
    t = ej.regularizers.epo(
        hp["lambda"],
        lower=hp["kappa_l"],
        upper=hp["kappa_r"],
        alpha=hp["alpha"],
        gamma=hp["gamma"],
        middle=int(hp["kmid"]),
    )
    rollout, signal = setting(x)
    H = vocab.entropy(logits_row(x, x["logits"]))
    state = {"own": EpoState(jnp.asarray([3 * hp["history"]]), jnp.asarray([3.0])), "hyper": ()}
    out, new = t.update(signal, state, ej.Context(rollout, {"entropy": H}, step=jnp.asarray(int(hp["step"]))))
    metric = {name.split("/")[1]: value for name, value in out.metrics.items()}
    case.close(metric["entropy"], "out_entropy")
    case.close(metric["smooth"], "out_smooth")
    case.close(metric["beta"], "out_beta")
    case.close(-hp["lambda"] * (metric["entropy"] - metric["beta"] * metric["smooth"]), "out_loss")
    grad = jax.grad(lambda z: terms_loss(x, t, out, rollout, z))(jnp.asarray(x["logits"]))
    case.close(grad, "out_grad_logits")
    mean = ej.masked.mean(H, rollout.mask)
    np.testing.assert_allclose(new["own"].total, [3 * hp["history"] + float(mean)], rtol=1e-6)


@golden("epo")
def test_epo_released(case):
    x = case.x
    if case.name == "schedule":
        case.close(epoch_weight(jnp.asarray(x["epochs"], jnp.float64)), "out_weight")
        return
    hp = {name[3:]: float(x[name]) for name in x if name.startswith("hp_")}
    history, step = jnp.asarray(x["entropy_history"]), jnp.asarray(x["rollout_step"], jnp.int32)
    turn = jnp.broadcast_to(step[:, None], x["mask"].shape)
    rollout, signal = setting(x, extra={"turn": turn})
    H = vocab.entropy(logits_row(x, x["logits"]))
    seq = case.name.endswith("seq")
    seen = jnp.broadcast_to(H.mean(1, keepdims=True), H.shape) if seq else H
    penalty = hp["penalty"] * outside(seen, history[turn], hp["min_ratio"], hp["max_ratio"])
    case.close(penalty, "out_penalty")
    case.close(
        1 - outside(seen, history[turn], hp["min_ratio"], hp["max_ratio"]).mean(), "out_in_range_fraction"
    )
    weight = epoch_weight(jnp.asarray(hp["epoch"]))
    case.close(weight, "out_weight")
    case.close(ej.masked.mean(H, rollout.mask), "out_entropy_loss")
    case.close(weight * ej.masked.mean(penalty, rollout.mask), "out_penalty_loss")
    # A history so long that this step does not move it.
    t = ej.regularizers.epo_released(
        hp["entropy_coeff"], smooth=hp["smooth_coeff"], lower=hp["min_ratio"], upper=hp["max_ratio"],
        penalty=hp["penalty"], turns=history.size,
    )  # fmt: skip
    state = {"own": EpoState(history * 1e12, jnp.full(history.shape, 1e12)), "hyper": ()}
    context = ej.Context(rollout, {"entropy": H}, step=jnp.asarray(int(hp["epoch"])))
    out, _ = t.update(signal, state, context)
    if not seq:  # the release averages a row's padding too; the transform does not
        case.close(out.metrics["epo_released/penalty"], "out_penalty_loss")
        case.close(out.metrics["epo_released/value"], "out_loss")
    value = ej.masked.mean(H, rollout.mask) - hp["smooth_coeff"] * weight * ej.masked.mean(
        penalty, rollout.mask
    )
    case.close(-hp["entropy_coeff"] * value, "out_loss")
    grad = jax.grad(lambda z: terms_loss(x, t, out, rollout, z))(jnp.asarray(x["logits"]))
    case.close(grad, "out_grad_logits")


@golden("aepo")
def test_aepo(case):
    x = case.x
    if case.name.startswith("mix"):
        return mixing(case)
    rollout, signal = setting(x)
    low, high = 1 - float(x["clip_ratio_low"]), 1 + float(x["clip_ratio_high"])
    full = lambda value: jnp.full(rollout.mask.shape, value)
    signal = signal.replace(clip_low=full(low), clip_high=full(high))
    c = float(x["clip_ratio_dual"])
    loss = lambda z: loss_of_logp(z, rollout, signal, ej.surrogates.dual_clip(c))
    logp, A, mask = jnp.asarray(x["logp"]), jnp.asarray(x["advantages"]), rollout.mask
    case.close(loss(logp), "out_loss")
    case.close(jax.grad(loss)(logp), "out_grad_logp")
    ratio = jnp.exp(logp - rollout.old_logp)
    plain, clipped = -A * ratio, -A * jnp.clip(ratio, low, high)
    case.close(ej.masked.mean(clipped > plain, mask), "out_clipfrac_higher")
    dual = (A < 0) & (jnp.maximum(plain, clipped) > -A * c)
    case.close(ej.masked.mean(dual, mask), "out_clipfrac_lower")
    case.close(ej.masked.mean(rollout.old_logp - logp, mask), "out_ppo_kl")
    return None


def mixing(case):
    """The first n_c successes replace the first n_c other rows; their advantage becomes 1; the temperature follows."""
    x = case.x
    batch, extra = int(x["batch_size"]), len(x["controller_adv"])
    x_like = {"mask": np.ones((batch + extra, 3))}
    tempered = jnp.arange(batch + extra) >= batch
    rollout, signal = setting(x_like, extra={"tempered": tempered})
    rollout = rollout.replace(old_logp=jnp.full(rollout.mask.shape, -float(x["entropy"])))
    advantage = np.concatenate([np.full(batch, -0.3), x["controller_adv"]])[:, None] * np.ones((1, 3))
    signal = signal.replace(advantage=jnp.asarray(advantage))
    base = float(x["entropy_base"])
    t = ej.regularizers.aepo(base, samples=int(x["reinforce_sample_num"]), choose="first")
    state = {"own": type(t.init(None)["own"])(jnp.asarray(float(x["entropy"]))), "hyper": ()}
    out, _ = t.update(signal, state, ej.Context(rollout))
    rows = np.flatnonzero(np.asarray(out.mask).any(1))
    np.testing.assert_array_equal(rows[rows < batch], x["out_kept_index"])
    np.testing.assert_array_equal(rows[rows >= batch] - batch, np.sort(x["out_controller_index"]))
    np.testing.assert_array_equal(np.asarray(out.advantage)[rows[rows >= batch]], 1.0)
    np.testing.assert_array_equal(np.asarray(out.advantage)[rows[rows < batch]], -0.3)
    case.close(out.knobs["tempered_temperature"], "out_temperature")


@golden("skywork_adaptive_entropy")
def test_skywork(case):
    x = case.x
    initial, high, low, delta, target = (
        float(x[name])
        for name in ("init_ent_coef", "max_ent_coef", "min_ent_coef", "delta_ent_coef", "target_ent")
    )
    controller = ej.control.skywork(target, delta=delta, low=low, high=high, initial=initial)
    if not float(x["use_adapt_ent"]):
        controller = ej.control.constant(initial)
    state, rows = wide(controller.init()), []
    for H in x["entropies"]:
        used, state = controller.update(H, state)
        after = (initial, 1.0) if not float(x["use_adapt_ent"]) else state
        rows.append([float(used), *map(float, after)])
    case.close(rows, "out_trajectory")


@golden("base_trl")
def test_trl_adaptive(case):
    if case.name != "adaptive_entropy":
        return
    x = case.x
    controller = ej.control.trl_adaptive(
        float(x["entropy_target"]), delta=float(x["delta"]), low=float(x["coef_min"]), high=float(x["coef_max"]),
        initial=float(x["init_coef"]),
    )  # fmt: skip
    state, rows = wide(controller.init()), []
    for H in x["entropies"]:
        used, state = controller.update(H, state)
        rows.append([float(used), float(state.coef)])
    case.close(rows, "out_applied_and_next")


@golden("safe_controller")
def test_safe_controller(case):
    x = case.x
    if case.name.endswith("asymmetric"):
        controller = ej.regularizers.asymmetric_controller()
        out = run(controller, x["kl"])
        case.close(out[0], "out_penalty")
        case.close(out[1], "out_momentum")
        return
    gains = tuple(float(x[f"hp_pid_{name}"]) for name in ("kp", "ki", "kd"))
    controller = ej.regularizers.safe_controller(
        base=float(x["hp_base_threshold"]), floor=float(x["hp_entropy_floor"]), gains=gains
    )
    out = run(controller, (x["kl"], x["entropy"], x["rewards"]))
    case.close(out.penalty, "out_penalty")
    case.close(out.threshold, "out_threshold")
    case.close(out.kl, "out_kl_short")
    case.close(out.factor, "out_entropy_factor")
    np.testing.assert_array_equal(out.phase, x["out_phase"])
    np.testing.assert_array_equal(out.kl > out.threshold, x["out_active"])
    case.close(np.minimum(1, 0.5 / x["kl"]), "out_scale")


def run(controller, series):
    """The outputs of a controller over a series of measurements."""
    series = jax.tree.map(jnp.asarray, series)
    step = lambda state, m: controller.update(m, state)[::-1]
    return jax.lax.scan(step, wide(controller.init()), series)[1]


@golden("safe_softmin")
def test_soft_min(case):
    x = case.x
    v1, v2, alpha = jnp.asarray(x["v1"]), jnp.asarray(x["v2"]), float(x["hp_alpha"])
    total = lambda a, b: ej.regularizers.soft_min(a, b, alpha).sum()
    case.close(ej.regularizers.soft_min(v1, v2, alpha), "out_values")
    for name, grad in zip(("out_grad_v1", "out_grad_v2"), jax.grad(total, (0, 1))(v1, v2)):
        case.close(grad, name)
