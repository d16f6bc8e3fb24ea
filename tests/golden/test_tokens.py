"""Golden numbers of the token-level advantages and of the clips that follow entropy or confidence."""

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax import surrogates, vocab
from entjax.advantages.echo_shaping import confidence_of
from entjax.advantages.empg import _of_next_slot, _steps
from entjax.advantages.explore_perplexity import perplexity_scores
from entjax.advantages.hapo import normalized_entropy
from entjax.analysis.branching_factor import branching_factor
from entjax.analysis.strategic_grams import match_text, semantic_entropy
from entjax.decoding.hapo_temperature import hapo_temperature
from entjax.loss import log_ratios, token_losses
from tests.golden.harness import golden


def number(case, name):
    return float(case.x[name])


def batch(case, **extra):
    """(rollout, signal) of a case: what its arrays name, zeros elsewhere."""
    x = case.x
    mask = np.asarray(x["mask"]) > 0
    zeros = np.zeros(mask.shape)
    old_logp = x.get("old_logp", zeros)
    rollout = ej.Rollout(
        tokens=jnp.asarray(x.get("tokens", np.zeros(mask.shape, np.int64)), jnp.int32),
        mask=jnp.asarray(mask),
        logp=jnp.asarray(old_logp),
        entropy=jnp.asarray(x.get("entropy", zeros)) if np.ndim(x.get("entropy")) else jnp.asarray(zeros),
        old_logp=jnp.asarray(old_logp),
        reward=jnp.asarray(x.get("rewards", np.zeros(len(mask)))),
        group=jnp.asarray(x.get("group_ids", np.zeros(len(mask), np.int64)), jnp.int32),
        extra={name: jnp.asarray(value) for name, value in extra.items()},
    )
    signal = ej.Signal.start(rollout)
    if "advantages" in x:
        signal = signal.replace(advantage=jnp.asarray(x["advantages"]))
    return rollout, signal


def apply(transform, rollout, signal, **stats):
    stats = {name: jnp.asarray(value) for name, value in stats.items()}
    out, _ = transform.update(signal, transform.init(None), ej.Context(rollout, stats))
    return out


def check(case, ours, name):
    """Compare on valid tokens."""
    mask = np.asarray(case.x["mask"]) > 0
    ref, ours = np.where(mask, case.x[name], 0), np.where(mask, np.asarray(ours), 0)
    scale = max(np.abs(ref).max(), 1e-8)
    worst = np.abs(ours - ref).max()
    assert worst <= case.rtol * scale, f"{case}: {name} differs by {worst} of {scale}"


def check_loss(case, rollout, signal, surrogate, losses=None):
    """out_loss, out_grad_logp and the clip fractions of a token mean."""
    scale = rollout.mask.astype(jnp.float64) / rollout.mask.sum()
    signal = signal.replace(scale=scale)

    def per_token(logp):
        return token_losses(log_ratios(logp, rollout.old_logp, signal.mask), signal, {}, surrogate)

    logp = jnp.asarray(case.x["logp"])
    loss, slope = jax.value_and_grad(lambda x: per_token(x).sum())(logp)
    case.close(loss, "out_loss")
    case.close(np.where(rollout.mask, slope, 0), "out_grad_logp")
    ratio = np.exp(case.x["logp"] - case.x["old_logp"])
    a = np.asarray(signal.advantage)
    plain, clipped = -a * ratio, -a * np.clip(ratio, signal.clip_low, signal.clip_high)
    fraction = lambda x: np.mean(x[np.asarray(rollout.mask)])
    if "out_clipfrac" in case.x:
        case.close(fraction(clipped > plain), "out_clipfrac")
    return per_token(logp), np.maximum(plain, clipped), fraction


def set_clip(signal, low, high):
    return signal.replace(
        clip_low=jnp.full_like(signal.clip_low, 1 - low), clip_high=jnp.full_like(signal.clip_high, 1 + high)
    )


@golden("rwe")
def test_entropy_bonus(case):
    rollout, signal = batch(case)
    t = ej.advantages.entropy_bonus(alpha=number(case, "hp_alpha"), kappa=number(case, "hp_kappa"))
    out = apply(t, rollout, signal, entropy=case.x["entropy"])
    case.close(out.advantage, "out_advantages")
    check(case, out.advantage - signal.advantage, "out_bonus")


@golden("empg")
def test_empg(case):
    turn = np.asarray(case.x["step_ids"], np.int32)
    rollout, signal = batch(case, turn=turn)
    k, k_future, zeta = (number(case, f"hp_{n}") for n in ("k", "k_f", "zeta"))
    t = ej.advantages.empg(k=k, k_future=k_future, zeta=zeta)
    case.close(apply(t, rollout, signal).advantage, "out_advantages")

    slot = jnp.where(rollout.mask & (turn >= 0), turn, turn.shape[1])
    entropy, present, _ = _steps(rollout.entropy, slot)
    case.close(entropy[present], "out_step_entropy")
    # g and f through the transform: advantages of one are g less their mean, the last step of a row shows no bonus
    one = apply(
        ej.advantages.empg(k=k, zeta=0.0), rollout, signal.replace(advantage=jnp.ones_like(signal.advantage))
    )
    first = np.array(
        [next(t for t in range(turn.shape[1]) if turn[b, t] == s) for b, s in np.argwhere(present)]
    )
    g = np.asarray(one.advantage)[np.argwhere(present)[:, 0], first]
    np.testing.assert_allclose(g - g.mean(), case.x["out_g"] - case.x["out_g"].mean(), atol=1e-7)
    zero = signal.replace(advantage=jnp.zeros_like(signal.advantage))
    bonus = np.asarray(apply(ej.advantages.empg(k_future=k_future, zeta=1.0), rollout, zero).advantage)
    bonus = bonus[np.argwhere(present)[:, 0], first]
    f = jnp.zeros(present.shape).at[jnp.where(present)].set(jnp.asarray(case.x["out_f"]))
    expected = np.asarray(_of_next_slot(f, present))[np.asarray(present)]
    np.testing.assert_allclose(bonus, expected - expected.mean(), atol=1e-6)


@golden("empg_rows")
def test_empg_rows(case):
    x = case.x
    rollout, signal = batch(
        case, trajectory=x["traj_ids"].astype(np.int32), row_turn=x["turn"].astype(np.int32)
    )
    t = ej.advantages.empg(
        k=number(case, "hp_k"),
        k_future=number(case, "hp_k_f"),
        zeta=number(case, "hp_zeta"),
        steps="rows",
    )
    case.close(apply(t, rollout, signal).advantage, "out_advantages")


@golden("hicra")
def test_hicra(case):
    rollout, signal = batch(case, planning=case.x["planning_mask"])
    t = ej.advantages.hicra(alpha=number(case, "hp_alpha"))
    case.close(apply(t, rollout, signal).advantage, "out_advantages")
    signal = signal.replace(advantage=jnp.asarray(case.x["advantages_tok"]))
    case.close(apply(t, rollout, signal).advantage, "out_advantages_tok")


@golden("hicra_grams")
def test_hicra_grams(case):
    words = [word.replace("\u0120", " ") for word in case.meta["hyper"]["vocab"]]
    for row, ref in zip(case.x["tokens"], case.x["out_mask"]):
        found = match_text([words[i] for i in row], case.meta["hyper"]["grams"], tight=False)
        np.testing.assert_array_equal(found, ref)


@golden("hicra_semantic_entropy")
def test_semantic_entropy(case):
    case.close(semantic_entropy(case.x["gram_cluster_ids"]), "out_semantic_entropy")


@golden("hapo_loss")
def test_hapo(case):
    x = case.x
    rollout, signal = batch(case)
    signal = set_clip(signal, number(case, "hp_clip"), number(case, "hp_clip"))
    pivot, clip = number(case, "hp_pivot"), number(case, "hp_clip")
    h, scale = normalized_entropy(jnp.asarray(x["entropy"]), rollout.mask, pivot, sign_fix=False)
    check(case, h, "out_h_hat")
    for ours, name in zip(scale, ("median", "std", "scale_pos", "scale_neg")):
        case.close(ours, f"out_{name}")
    stats = {"entropy": x["entropy"], "logp": x["logp"]}
    if np.isfinite(x["hp_clip_alpha"]):
        t = ej.clips.hapo(
            low=clip, high=clip, alpha=number(case, "hp_clip_alpha"), pivot=pivot, sign_fix=False
        )
        signal = apply(t, rollout, signal, **stats)
        check(case, 1 - signal.clip_low, "out_clip_low")
        check(case, signal.clip_high - 1, "out_clip_high")
    if np.isfinite(x["hp_adv_beta"]):
        beta = number(case, "hp_adv_beta")
        t = ej.advantages.hapo_redistribution(beta=beta, pivot=pivot, sign_fix=False)
        signal = apply(t, rollout, signal, **stats)
        check(case, signal.advantage, "out_advantages")
    c = number(case, "hp_clip_ratio_c")
    _, largest, fraction = check_loss(case, rollout, signal, surrogates.dual_clip(c))
    a = np.asarray(signal.advantage)
    case.close(fraction((largest > -a * c) & (a < 0)), "out_clipfrac_lower")


@golden("hapo_adv")
def test_hapo_average(case):
    rollout, signal = batch(case)
    assert np.allclose(case.x["token_level_rewards"].sum(1), case.x["rewards"])
    t = ej.advantages.hapo_average(std=bool(case.x["hp_norm_by_std"]), variant="released")
    check(case, apply(t, rollout, signal).advantage, "out_advantages")


@golden("hapo_temperature")
def test_hapo_temperature(case):
    x = case.x
    rollout, signal = batch(case)
    rollout = rollout.replace(entropy=jnp.asarray(x["stat_entropy"]))
    knobs = apply(ej.advantages.hapo_statistics(pivot=number(case, "hp_pivot")), rollout, signal).knobs
    names = {"pivot": "median", "spread": "std", "up": "scale_pos", "down": "scale_neg"}
    for ours, name in names.items():
        case.close(knobs[f"hapo_{ours}"], f"out_{name}")
    given = {name: knobs[f"hapo_{name}"] for name in names}
    given |= {"tau": number(case, "hp_tau"), "base": number(case, "hp_T0")}
    entropy = jnp.asarray(x["entropy"])
    case.close(hapo_temperature(entropy, **given, sign_fix=False), "out_temperature")
    case.close(hapo_temperature(entropy, **given), "out_temperature_signfix")


def feature(f, logits, tokens=None, **side):
    tokens = jnp.zeros(logits.shape[:-1], jnp.int32) if tokens is None else jnp.asarray(tokens)
    return f(vocab.Row(jnp.asarray(logits), tokens, {k: jnp.asarray(v) for k, v in side.items()}))


@golden("dgpo_hellinger")
def test_dgpo(case):
    rollout, signal = batch(case)
    t = ej.advantages.dgpo(kappa=number(case, "hp_kappa"), tau=number(case, "hp_tau"))
    read = {
        name: feature(f, case.x["logits"], ref_logits=case.x["ref_logits"]) for name, f in t.reads.items()
    }
    case.close(read["hellinger"], "out_divergence")
    case.close(apply(t, rollout, signal, **read).advantage, "out_advantages")
    ones = signal.replace(advantage=rollout.mask.astype(jnp.float64))
    case.close(apply(t, rollout, ones, **read).advantage, "out_weights")


@golden("explore_shaping")
def test_explore(case):
    x, alpha = case.x, number(case, "hp_alpha")
    rollout, signal = batch(case)
    signal = set_clip(signal, number(case, "hp_clip_low"), number(case, "hp_clip_high"))
    lp, w, inside = perplexity_scores(rollout.old_logp, rollout.mask, rollout.group)
    for ours, name in ((jnp.exp(lp), "ppl"), (w, "ppl_weight"), (inside, "iqr_mask")):
        if f"out_{name}" in x:
            case.close(ours, f"out_{name}")
    if "out_advantages_ppl_low_intended" in x:
        low = ej.advantages.explore_perplexity(alpha=alpha)
        case.close(apply(low, rollout, signal).advantage, "out_advantages_ppl_low_intended")
    if "position" in case.name:
        t = ej.advantages.explore_position(alpha=alpha)
    elif "ppl_high" in case.name:
        t = ej.advantages.explore_perplexity(alpha=alpha, favour="high")
    else:
        t = ej.advantages.explore_perplexity(alpha=alpha, variant="released")
    signal = apply(t, rollout, signal)
    case.close(signal.advantage, "out_advantages")
    check_loss(case, rollout, signal, surrogates.ppo_clip)


@golden("branching_factor")
def test_branching_factor(case):
    rbf = feature(branching_factor(number(case, "hp_top_p")), case.x["old_logits"])
    case.close(rbf, "out_rbf")
    case.close(ej.masked.mean(rbf, jnp.asarray(case.x["mask"] > 0)), "out_rbf_mean")


@golden("ettrl")
def test_ear(case):
    rollout, signal = batch(case)
    case.close(apply(ej.advantages.ear(), rollout, signal).advantage, "out_advantages_res")
    clip = ej.advantages.ear(variant="clip", beta=number(case, "clip_beta"))
    case.close(apply(clip, rollout, signal).advantage, "out_advantages_clip")
    case.close(ej.masked.mean(rollout.entropy, rollout.mask, axis=1), "out_resp_entropy")
    ones = signal.replace(advantage=rollout.mask.astype(jnp.float64))
    weights = apply(ej.advantages.ear(), rollout, ones).advantage
    case.close(ej.masked.mean(weights, rollout.mask, axis=1), "out_weights")


@golden("echo_adv")
def test_echo(case):
    x = case.x
    assert bool(x["enable"])
    kind = "token_prob" if case.name.endswith("ptok") else "topk_prob"
    rollout, signal = batch(case, topk_prob_5=x["confidence"])
    check(case, confidence_of(rollout, rollout.mask, kind, 5), "confidence")
    s_max = number(case, "s_max")
    t = ej.advantages.echo_shaping(
        alpha=number(case, "alpha"),
        beta=number(case, "beta"),
        s_max=None if np.isnan(s_max) else s_max,
        multiply=number(case, "mult_coeff"),
        add=number(case, "add_coeff"),
        confidence=kind,
    )
    signal = apply(t, rollout, signal)
    case.close(signal.advantage, "out_advantages")
    eps_min, eps_max, kappa = (number(case, n) for n in ("eps_min", "eps_max", "kappa"))
    window = int(x["tail_window"])
    clip = ej.clips.echo(eps_min=eps_min, eps_max=eps_max, kappa=kappa, window=window, confidence=kind)
    signal = apply(clip, rollout, signal)
    case.close(signal.clip_high[:, 0] - 1, "out_clip_epsilon")
    case.close(1 - signal.clip_low[:, -1], "out_clip_epsilon")
    share = (signal.clip_high[:, 0] - 1 - eps_min) / (eps_max - eps_min)
    case.close(1 - jnp.log(share / (1 - share)) / kappa, "out_tail_confidence")
    check_loss(case, rollout, signal, surrogates.dual_clip(3.0))


@golden("aepo_agentic_loss")
def test_agentic(case):
    x = case.x
    rollout, signal = batch(case)
    signal = set_clip(signal, number(case, "clip_low"), number(case, "clip_high"))
    if bool(x["bal_adv"]):
        t = ej.advantages.agentic_advantage(a=number(case, "adv_coef"))
        signal = apply(t, rollout, signal, entropy=x["entropy"])
    check(case, signal.advantage, "out_advantages")
    c = number(case, "clip_c")
    surrogate = surrogates.preserve_high(c) if bool(x["bal_clip"]) else surrogates.dual_clip(c)
    losses, largest, fraction = check_loss(case, rollout, signal, surrogate)
    check(case, losses * rollout.mask.sum(), "out_pg_losses")
    a = np.asarray(signal.advantage)
    case.close(fraction((a < 0) & (largest > -a * c)), "out_clipfrac_lower")
    case.close(fraction(np.asarray(x["old_logp"] - x["logp"])), "out_ppo_kl")


@golden("dcpo")
def test_dcpo(case):
    x = case.x
    t = ej.advantages.dcpo(target=number(case, "entropy_base"), measure="shannon")
    tempered = {name: feature(f, x["old_logits"], x["tokens"]) for name, f in t.remembers.items()}
    rollout, signal = batch(case, **tempered)
    rollout = rollout.replace(entropy=jnp.full(rollout.mask.shape, number(case, "entropy")))
    out = apply(t, rollout, signal)
    check(case, out.advantage, "out_advantages")
    temperature = number(case, "out_temperature")
    rho = jnp.exp(tempered[f"tempered_logp_{temperature}"] - rollout.old_logp)
    case.close(rho, "out_rho")
    case.close(out.metrics["dcpo/alpha"], "out_alpha")


@golden("divergence_weighted_adv")
def test_divergence_weights(case):
    x = case.x
    rollout, signal = batch(case, ref_logp=x["ref_logp"])
    against = "old" if "old_new" in case.name else "reference"
    s, alpha = number(case, "s"), number(case, "alpha")
    t = ej.advantages.divergence_weights(s=s, alpha=alpha, against=against)
    stats = {"logp": x["logp"]}
    case.close(apply(t, rollout, signal, **stats).advantage, "out_advantages")
    ones = signal.replace(advantage=rollout.mask.astype(jnp.float64))
    weights = apply(t, rollout, ones, **stats).advantage
    check(case, weights, "out_weights")
    gentle = apply(ej.advantages.divergence_weights(alpha=0.1, against=against), rollout, ones, **stats)
    share = np.where(rollout.mask, gentle.advantage - 0.5, 0.5)
    check(case, np.log(share / (1 - share)) / 0.1, "out_kl")
