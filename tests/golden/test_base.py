"""Golden numbers of the base losses: surrogates, averages, KL, mismatch correction (verl) and TRL's loss variants."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax import masked, surrogates
from entjax.loss import log_ratios
from entjax.step import step_metrics
from entjax.value_loss import clipped_value_loss
from tests.golden.compose import (
    average,
    decide,
    f64,
    loss_of_logits,
    loss_of_logp,
    rollout_of,
    signal_of,
    stats_of,
)
from tests.golden.harness import golden

RANGES = ("clip_ratio_low", "clip_ratio_high")


def hyper(case):
    """The hyperparameters that the json lists for the middle of a case name, s0_<middle>_advantages[_tok]."""
    known = case.meta["hyper"] if case.meta.get("hyper") else case.meta.get("cases", {})
    return known.get(re.match(r"s\d+_(.*)_advantages", case.name)[1], {})


def losses(case, surrogate, clip, *, fixed_average=None, in_log_pi=False, weights=None):
    """Check every out_loss_* and out_grad_logp_* of a case."""
    x = case.x
    rollout = rollout_of(x)
    for name in [name for name in x if name.startswith("out_loss_")]:
        mode = name.removeprefix("out_loss_").removesuffix("_isw")
        weighted = name.endswith("_isw")
        mean = average(fixed_average or mode, rollout.mask.shape[1])
        signal = signal_of(rollout, x["advantages"], x["rollout_is_weights"] if weighted else None)
        extra = [weights] if weights is not None and weighted else []
        signal = decide(ej.chain(clip, *extra, mean), signal, rollout, {})
        loss, grad = loss_of_logp(x["logp"], rollout, signal, surrogate)
        if in_log_pi:  # ours is linear in log pi - log pi_old, verl's in log pi: the constant has no gradient
            loss = loss + masked.total(grad * rollout.old_logp, rollout.mask)
        case.close(loss, name)
        case.close(grad, name.replace("out_loss_", "out_grad_logp_"))
    return rollout, decide(clip, signal_of(rollout, x["advantages"]), rollout, {})


def fractions(case, rollout, signal, upper, lower):
    """The logged clip fractions and the drift."""
    x, mask = case.x, rollout.mask
    log_ratio = log_ratios(f64(x["logp"]), rollout.old_logp, mask)
    case.close(masked.mean(upper(log_ratio, signal), mask), "out_actor_pg_clipfrac")
    case.close(masked.mean(lower(log_ratio, signal), mask), "out_actor_pg_clipfrac_lower")
    case.close(-masked.mean(log_ratio, mask), "out_actor_ppo_kl")


def never(log_ratio, signal):
    return jnp.zeros_like(log_ratio)


def cut(surrogate, free=surrogates.unclipped):
    """True where a clipped surrogate lies strictly below the unclipped one."""
    return lambda x, signal: surrogate(x, signal) < free(x, signal)


@golden("base_ppo")
def test_ppo(case):
    h = hyper(case)
    clip = ej.clips.asymmetric(*(h[name] for name in RANGES))
    dual = surrogates.dual_clip(h["clip_ratio_c"])
    rollout, signal = losses(case, dual, clip)
    raised = lambda x, s: dual(x, s) > surrogates.ppo_clip(x, s)
    fractions(case, rollout, signal, cut(surrogates.ppo_clip), raised)
    out = ej.loss.LossOutput(jnp.zeros(()), f64(case.x["logp"]), f64(case.x["logp"]))
    metrics = step_metrics(rollout, signal, out)
    case.close(metrics["clip/low"] + metrics["clip/high"], "out_actor_pg_clipfrac")


@golden("base_gspo")
def test_gspo(case):
    clip = ej.clips.asymmetric(*(hyper(case)[name] for name in RANGES))
    rollout, signal = losses(case, surrogates.gspo, clip, fixed_average="seq_mean_token_mean")
    free = surrogates.sequence_level(surrogates.unclipped)
    fractions(case, rollout, signal, cut(surrogates.gspo, free), never)


@golden("base_sapo")
def test_sapo(case):
    h = hyper(case)
    gate = surrogates.sapo(h["tau_pos"], h["tau_neg"])
    rollout, signal = losses(case, gate, ej.clips.unclipped(), fixed_average="seq_mean_token_mean")
    fractions(case, rollout, signal, never, never)


@golden("base_cispo")
def test_cispo(case):
    clip = ej.clips.asymmetric(*(hyper(case)[name] for name in RANGES))
    rollout, signal = losses(case, surrogates.cispo, clip, in_log_pi=True)
    outside = lambda x, s: jnp.clip(jnp.exp(x), s.clip_low, s.clip_high) != jnp.exp(x)
    fractions(case, rollout, signal, outside, never)


@golden("base_gmpo")
def test_gmpo(case):
    clip = ej.clips.geometric(*(hyper(case)[name] for name in RANGES))
    rollout, signal = losses(
        case,
        surrogates.gmpo,
        clip,
        fixed_average="seq_mean_token_mean",
        weights=ej.weights.geometric_mean(),
    )
    outside = lambda x, s: (x < jnp.log(s.clip_low)) | (x > jnp.log(s.clip_high))
    fractions(
        case,
        rollout,
        signal,
        lambda x, s: outside(x, s) & (s.advantage > 0),
        lambda x, s: outside(x, s) & (s.advantage < 0),
    )


@golden("base_gpg")
def test_gpg(case):
    """GPG's loss is REINFORCE; there is no old policy in it. verl's bypass mode with weights is the same with `importance`."""
    losses(case, surrogates.reinforce, ej.clips.unclipped(), in_log_pi=True)


@golden("base_agg")
def test_averages(case):
    x = case.x
    rollout = rollout_of(x)
    length = rollout.mask.shape[1]
    loss_mat = f64(x["loss_mat"])

    def total(loss_mat, mean):
        signal = decide(mean, signal_of(rollout, 0.0), rollout, {})
        return jnp.where(rollout.mask, signal.scale * loss_mat, 0).sum()

    wide = {  # two workers, 100 tokens and 16 sequences in the whole batch, a loss scale of 64
        "token_mean": ej.averages.token_mean(tokens=100 / 2),
        "seq_mean_token_sum": ej.averages.sequence_mean_token_sum(sequences=16 / 2),
        "seq_mean_token_mean": ej.averages.sequence_mean_token_mean(sequences=16 / 2),
        "seq_mean_token_sum_norm": ej.averages.constant_length(64, over_sequences=False),
    }
    for mode, whole in wide.items():
        value, grad = jax.value_and_grad(total)(loss_mat, average(mode, length))
        case.close(value, f"out_{mode}")
        case.close(grad, f"out_grad_{mode}")
        case.close(total(loss_mat, whole), f"out_global_{mode}")


@golden("base_kl_entropy")
def test_kl_entropy(case):
    x = case.x
    if case.name == "adaptive_kl":
        return adaptive_kl(case)
    mask = jnp.asarray(x["mask"]).astype(bool)
    names = {"k1": ej.kl.k1(), "abs": ej.kl.absolute(), "k2": ej.kl.k2(), "k3": ej.kl.k3()}
    for name, estimator in names.items():

        def total(logp, estimator=estimator):
            k = estimator.value(f64(x["ref_logp"]) - logp)
            return masked.total(k, mask), k

        grad, k = jax.grad(total, has_aux=True)(f64(x["logp"]))
        case.close(k, f"out_{name}")
        case.close(grad, f"out_grad_sum_{name}")
    tokens = jnp.zeros(mask.shape, jnp.int32)
    of_logits = lambda logits: ej.vocab.entropy(ej.vocab.Row(logits, tokens))
    case.close(of_logits(f64(x["logits"])), "out_entropy")
    summed = lambda logits: masked.total(of_logits(logits), mask)
    case.close(jax.grad(summed)(f64(x["logits"])), "out_grad_entropy_sum_logits")
    case.close(masked.mean(of_logits(f64(x["logits"])), mask), "out_entropy_loss_token_mean")
    values = f64(x["values"])
    mean, var = masked.mean(values, mask), masked.var(values, mask, ddof=1)
    case.close(mean, "out_masked_mean")
    case.close(var, "out_masked_var")
    case.close((values - mean) / jnp.sqrt(var + 1e-8), "out_masked_whiten")
    case.close((values - mean) / jnp.sqrt(var + 1e-8) + mean, "out_masked_whiten_noshift")

    def value_loss(new):
        loss, clipped = clipped_value_loss(new, values, f64(x["returns"]))
        return masked.mean(loss, mask), masked.mean(clipped, mask)

    (loss, clipped), grad = jax.value_and_grad(value_loss, has_aux=True)(f64(x["vpreds"]))
    case.close(loss, "out_value_loss")
    case.close(clipped, "out_value_clipfrac")
    case.close(grad, "out_grad_vpreds")


def adaptive_kl(case):
    x = case.x
    coef, path = float(x["init"]), []
    for kl, n in zip(x["kl"], x["n_steps"], strict=True):
        target, horizon = float(x["target"]), float(x["horizon"])
        controller = ej.kl.adaptive(coef, target, horizon, float(n))
        value, _ = controller.update(kl, controller.init())
        coef = ej.kl.adapt(coef, kl, target, horizon, float(n))
        np.testing.assert_allclose(value, coef, rtol=1e-6)
        path.append(coef)
    case.close(path, "out_coef")


@golden("base_rollout_corr")
def test_rollout_correction(case):
    x = case.x
    zeros = jnp.zeros_like(f64(x["log_ratio"]))
    rollout = rollout_of(x, old_logp=f64(x["log_ratio"]), logp=zeros)
    start = signal_of(rollout, 1.0)
    seen = set()
    for name in x:
        if found := re.match(r"out_w_(token|sequence)_th(.*)_bn(.)", name):
            level, threshold, normalize = found.groups()
            t = ej.weights.importance(level, threshold=float(threshold), normalize=normalize == "1")
            case.close(masked.keep(decide(t, start, rollout, {}).weight, rollout.mask), name)
            seen.add(name)
    for name, masks in rejections(case.meta["hyper"]["rs thresholds"]).items():
        for denominator in ("selected", "all"):
            parts = [
                ej.rename(f"reject_{i}", ej.weights.reject_mismatch(**arguments, denominator=denominator))
                for i, arguments in enumerate(masks)
            ]
            signal = decide(ej.chain(*parts), start, rollout, {})
            kept = signal.mask if denominator == "selected" else signal.weight * rollout.mask
            case.close(kept, f"out_mask_{name}")
        seen.add(f"out_mask_{name}")
    assert seen == {name for name in x if name.startswith("out_")}


def rejections(thresholds):
    """{array: arguments of one or two rejection masks} from the json's table of thresholds."""
    out = {}
    for options, bounds in thresholds.items():
        if "AND" in options:
            first, second = bounds.split(" and ")
            out[options] = [one_rejection("token_k1", first), one_rejection("seq_mean_k3", second)]
            continue
        for option in expand(options):
            out[option] = [one_rejection(option, bounds)]
    return out


def expand(options):
    """'seq_sum_k2/k3' -> seq_sum_k2, seq_sum_k3;  'k2/k3 token' -> token_k2, token_k3."""
    if options.endswith(" token"):
        return [f"token_{k}" for k in options.removesuffix(" token").split("/")]
    level, statistics = options.rsplit("_", 1)
    return [f"{level}_{k}" for k in statistics.split("/")]


def one_rejection(option, bounds):
    level, statistic = option.rsplit("_", 1)
    level = level.replace("seq_", "sequence_")
    if statistic == "k1":
        low, high = map(float, str(bounds).split("_"))
        return {"statistic": statistic, "level": level, "low": low, "high": high}
    return {"statistic": statistic, "level": level, "high": float(bounds)}


# TRL ------------------------------------------------------------------------------------------------------------------------


def trl_parts(h, x):
    """(clip, surrogate, masks and terms, average) for a TRL configuration."""
    kind = h.get("loss_type", "grpo")
    low, high = h.get("epsilon_low", 0.2), h.get("epsilon_high", h.get("epsilon_low", 0.2))
    sequence = h.get("importance_sampling_level") == "sequence"
    surrogate = {"cispo": surrogates.cispo, "sapo": surrogates.sapo(), "vespo": surrogates.vespo}.get(
        kind, surrogates.gspo if sequence else surrogates.ppo_clip
    )
    if "delta" in h:
        surrogate = surrogates.delta_clip(h["delta"])
    clip = ej.clips.cap(high) if kind == "cispo" else ej.clips.asymmetric(low, high)
    parts = []
    if "off_policy_mask_threshold" in h:
        parts.append(ej.weights.off_policy_sequences(h["off_policy_mask_threshold"]))
    if "top_entropy_quantile" in h:
        rho = h["top_entropy_quantile"]
        parts.append(ej.weights.forking_tokens(rho, denominator="all", rule="quantile"))
    if "entropy_coef" in h:
        # The mean over the tokens that learn, beside losses that average by sequence; beside token means over all tokens.
        learning = kind in ("grpo", "sapo", "bnpo", "dr_grpo", "luspo")
        parts.append(ej.regularizers.entropy(h["entropy_coef"], average="learning" if learning else "tokens"))
    if "beta" in h:
        exact = ej.kl.k3(log_clip=math.inf, value_clip=math.inf)
        corrected = h.get("use_bias_correction_kl", False)
        parts.append(ej.regularizers.kl(h["beta"], estimator=exact, corrected=corrected))
    mean = {
        "grpo": ej.averages.sequence_mean_token_mean(),
        "sapo": ej.averages.sequence_mean_token_mean(),
        "luspo": ej.averages.sequence_mean_token_sum(),
        "dr_grpo": ej.averages.constant_length(32),
    }.get(kind, ej.averages.token_mean())
    return clip, surrogate, parts, mean


@golden("base_trl")
def test_trl(case):
    if case.name.startswith("adv_"):
        return  # advantages: tests/golden of that room
    if case.name == "adaptive_entropy":
        return adaptive_entropy(case)
    x = case.x
    h = case.meta["hyper"][case.name.split("_", 1)[1]]
    clip, surrogate, parts, mean = trl_parts(h, x)
    rollout = rollout_of(x, extra={"ref_logp": f64(x["ref_logp"])})
    weight = x["importance_sampling_ratio"] if "use_vllm" in h else None
    start = signal_of(rollout, x["advantages_seq"][:, None], weight)
    whole = ej.chain(clip, *parts, mean)
    signal = decide(whole, start, rollout, stats_of(x["logits"], rollout))
    loss, grad = loss_of_logits(x["logits"], rollout, signal, surrogate, whole.terms)
    if surrogate in (surrogates.cispo, surrogates.vespo):
        logp = stats_of(x["logits"], rollout)["logp"]
        _, slope = loss_of_logp(logp, rollout, signal.replace(coef={}), surrogate)
        loss = loss + masked.total(slope * rollout.old_logp, rollout.mask)
    loose = {"rtol": 1e-5}
    case.close(loss, "out_loss", **loose)
    case.close(grad, "out_grad_logits", **loose)
    if "out_mask" in x:
        case.close((signal.weight > 0) & rollout.mask, "out_mask")


def adaptive_entropy(case):
    x = case.x
    controller = ej.control.trl_adaptive(
        float(x["entropy_target"]),
        delta=float(x["delta"]),
        low=float(x["coef_min"]),
        high=float(x["coef_max"]),
        initial=float(x["init_coef"]),
    )
    state, rows = controller.init(), []
    for entropy in x["entropies"]:
        applied, state = controller.update(entropy, state)
        rows.append([float(applied), float(state.coef)])
    case.close(rows, "out_applied_and_next")
