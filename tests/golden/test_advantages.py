"""Group advantages against the numbers of the papers' own code."""

import re

import jax
import jax.numpy as jnp
import numpy as np

import entjax as ej
from entjax import masked
from entjax.advantages import canon_cosine, returns
from entjax.advantages.gae import returns as critic_targets
from entjax.advantages.replay_baseline import History
from entjax.rewards.overlong import overlong_penalty
from entjax.transform import Transform
from tests.golden.build import advantage, rollout_of, run
from tests.golden.harness import golden

A, R = ej.advantages, ej.rewards
F32 = 1e-6  # a factor of the official code is float32: still tighter than the 1e-5 asked for


def asked_before(t: Transform, times: str):
    """The state of t when its schedules have been asked so many times."""
    return jax.tree.map(lambda count: count + int(times), t.init(None))


@golden("base_advantages")
def test_base_advantages(case):
    x, hyper = case.x, case.meta["hyper"]
    r = rollout_of(
        x, x["seq_rewards"],
        baseline=x["reward_baselines"], value=x["values"], prob_sq=x["sum_pi_squared"],
    )  # fmt: skip
    same = {
        "out_grpo": A.group_normalize(),
        "out_grpo_nostd": A.group_normalize(std=False),
        "out_grpo_vectorized": A.group_normalize(variance_floor=1e-6),
        "out_rloo": A.leave_one_out(),
        "out_rloo_vectorized": A.leave_one_out(singleton="zero"),
        "out_rfpp_baseline": A.reinforce_pp_baseline(),
        "out_rfpp": A.reinforce_pp(gamma=hyper["rfpp"]["gamma"]),
        "out_opo": A.opo(),
        "out_gpg": A.gpg(),
        "out_passk": A.pass_at_k(),
        "out_passk_nostd": A.pass_at_k(std=False),
        "out_otb": A.otb(),
    }
    checked = set()
    for name, t in same.items():
        if name in x:  # pass@k is missing where a group has one row
            case.close(advantage(t, r), name, rtol=1e-5 if "vectorized" in name else F32)
            checked.add(name)

    signal, context = ej.Signal.start(r), ej.Context(r)
    mask = r.mask
    tokens = returns.token_rewards(signal, context)
    np.testing.assert_array_equal(tokens, x["token_level_rewards"] * (x["mask"] > 0))
    case.close(returns.reward_to_go(tokens, mask), "out_remax_returns", rtol=F32)
    case.close(
        returns.reward_to_go(tokens, mask, hyper["rfpp"]["gamma"], "stop"), "out_rfpp_returns", rtol=F32
    )
    on = x["mask"] > 0
    shaped = returns.token_rewards(signal, context, hyper["kl_shaped_rewards"]["beta"])
    only_valid(case, shaped, "out_kl_shaped_rewards", on)
    only_valid(case, advantage(A.remax(), r), "out_remax", on)
    only_valid(case, advantage(A.gae(**hyper["gae"]), r), "out_gae", on)
    targets = critic_targets(tokens, jnp.asarray(x["values"]), mask, **hyper["gae"])
    case.close(targets, "out_gae_returns", rtol=F32)
    checked |= {
        "out_remax", "out_remax_returns", "out_rfpp_returns", "out_kl_shaped_rewards", "out_gae", "out_gae_returns"
    }  # fmt: skip
    assert checked == {name for name in x if name.startswith("out_")}


def only_valid(case, ours, name, on):
    """Compare on the mask: the official code leaves other values on padding and holes, here they are 0."""
    ref = np.where(on, case.x[name], 0)
    np.testing.assert_allclose(ours, ref, rtol=0, atol=F32 * np.abs(ref).max())


@golden("base_trl")
def test_trl_advantages(case):
    if not case.name.startswith("adv_"):
        return
    x = case.x
    r = rollout_of(x, x["rewards"], np.arange(len(x["rewards"])) // int(x["num_generations"]))
    trl = {"eps": 1e-4, "singleton": "zero"}
    ours = {
        "out_group": A.group_normalize(**trl),
        "out_batch": A.group_normalize(scope="batch", **trl),
        "out_none": A.group_normalize(std=False, singleton="zero"),
        "out_rloo": A.leave_one_out(singleton="zero"),
        "out_rloo_norm": A.leave_one_out(normalize=True, **trl),
    }
    for name, t in ours.items():
        case.close(advantage(t, r)[:, 0], name, rtol=F32)


@golden("base_dapo_aux")
def test_dapo(case):
    x = case.x
    if case.name.startswith("dynsample"):
        r = rollout_of(x, x["metric"])
        signal, _ = run(ej.weights.zero_variance(), r)
        np.testing.assert_array_equal(signal.mask.any(axis=1), x["out_keep"])
        return
    length, limits = jnp.asarray(x["length"]), (int(x["max_resp_len"]), int(x["buffer_len"]))
    factor = float(x["penalty_factor"])
    case.close(overlong_penalty(length, *limits, factor, False), "out_penalty")
    t = R.overlong(limits[0], buffer=limits[1], factor=factor, floor=False)
    mask = np.arange(int(length.max())) < np.asarray(length)[:, None]
    r = rollout_of({"mask": mask}, np.full(len(length), 0.25), np.arange(len(length)))
    case.close(run(t, r)[0].reward - 0.25, "out_penalty")


@golden("qae")
def test_qae(case):
    x, eps = case.x, case.meta["hyper"]["eps"]
    r = rollout_of(x, x["rewards"])
    n = 0
    for name in x:
        found = re.fullmatch(r"out_(baseline|advantages)(_rc)?_K([\d.]+)", name)
        if not found:
            continue
        what, right, level = found.groups()
        how = {"interpolation": "right_continuous" if right else "linear"}
        if what == "advantages":
            ours = advantage(A.quantile(float(level), eps=eps, **how), r)[:, 0]
        else:
            ours = r.reward - advantage(A.quantile(float(level), std=False, **how), r)[:, 0]
        case.close(ours, name)
        n += 1
    assert n == len([name for name in x if name.startswith("out_")]) > 0


@golden("seed_grpo")
def test_seed(case):
    x = case.x
    r = rollout_of(
        x | {"old_logp": x["seq_logp_norm"][:, None]}, x["rewards"], cluster=x["answer_ids"].astype(np.int32)
    )
    ones = ej.Signal.start(r.replace(reward=jnp.ones_like(r.reward)))
    factor = lambda **how: run(A.seed(**how), r, ones)[0].advantage[:, 0]
    n = np.asarray(masked.group_count(r.group))
    for name in x:
        if name.startswith("out_weights_a"):
            alpha = float(name.removeprefix("out_weights_a"))
            ours = factor(alpha=alpha, probability="likelihood", shape="reciprocal")
            case.close(ours, name)
    entropy = lambda **how: (1 - factor(alpha=1.0, **how)) * np.log(n)
    case.close(entropy(), "out_se_counts")
    case.close(entropy(estimator="mc"), "out_se_mc_counts")
    both = ej.chain(A.group_normalize(std=False), A.seed())
    case.close(advantage(both, r)[:, 0], "out_adv_linear_counts")


@golden("canon")
def test_canon(case):
    x = case.x
    if case.name == "schedule":
        steps = jnp.asarray(x["steps"])
        rising, falling = jax.vmap(canon_cosine())(steps), jax.vmap(canon_cosine(rising=False))(steps)
        case.close(1 - rising, "out_cos")
        case.close(1 - falling, "out_cosr")
        return
    r = rollout_of(x, x["rewards"])
    sets = {
        "inter": {},
        "half": {"mu": 0.5},
        "intra": {"mu": 0.0},
        "mix": {"alpha": 0.9, "beta": 0.05, "mu": 0.7, "l_max": 64.0},
    }
    for name, how in sets.items():
        for metric in ("entropy", "length"):
            case.close(advantage(A.canon(metric, **how), r), f"out_{metric}_{name}")
    case.close(advantage(A.canon(mu="accuracy"), r), "out_annel")
    case.close(advantage(A.canon("row"), r), "out_random")
    case.close(advantage(A.group_normalize(std=False), r), "out_drgrpo")
    for name in x:
        found = re.fullmatch(r"out_cos(r?)_step(\d+)", name)
        if found:
            t = A.canon(mu=canon_cosine(rising=not found[1]))
            case.close(advantage(t, r, state=asked_before(t, found[2])), name)


@golden("confucius_pshw")
def test_hardness(case):
    x = case.x
    t = A.hardness(float(x["alpha"]), float(x["bias"]), low=-1.0, high=1.0)
    case.close(advantage(t, rollout_of(x, x["rewards_pm1"]))[:, 0], "out_advantages_seq")
    zero_one = rollout_of(x, (x["rewards_pm1"] + 1) / 2)
    case.close(
        advantage(A.hardness(float(x["alpha"]), float(x["bias"])), zero_one)[:, 0], "out_advantages_seq"
    )


@golden("entrocraft")
def test_entrocraft(case):
    x = case.x
    plain = rollout_of(x, x["rewards"])
    at = lambda h: plain.replace(entropy=jnp.full_like(plain.entropy, h))
    measured = {"low": 0.1, "mid": 0.5, "high": 0.9}
    shapes = {"linear": (ej.control.linear, 0.55, (0.6, 0.4), (0.7, 0.5)),
              "cos": (ej.control.cosine, 0.32, (0.6, 0.1), (0.7, 0.2))}  # fmt: skip
    balance = A.entropic_balance(0.5)
    state, integrals = balance.init(None), []
    for k, h in enumerate(x["entropic_entropies"]):
        signal, state = run(balance, at(h), state=state)
        case.close(signal.advantage, f"out_entropic_{k}")
        integrals.append(state["own"].integral)
    case.close(np.array(integrals), "out_entropic_integral")
    case.close(advantage(ej.chain(A.raw(), A.signed_scale(0.1)), plain), "out_wreinforce")
    n = len(x["entropic_entropies"]) + 2
    for name in x:
        kind = name.removeprefix("out_").split("_")[0]
        if name.startswith("out_range_"):
            t = A.entrocraft(0.3, 0.7, variant="released")
            case.close(advantage(t, at(measured[name.split("_")[2]])), name, rtol=F32)
            n += 1
        elif name.startswith("out_") and kind in shapes:
            shape, h, low, high = shapes[kind]
            t = A.entrocraft(shape(*low, 100), shape(*high, 100), variant="released")
            state = asked_before(t, name.split("_")[2])
            case.close(advantage(t, at(h), state=state), name, rtol=F32)
            n += 1
    assert n == len([name for name in x if name.startswith("out_")])


@golden("spear_replay")
def test_spear(case):
    x = case.x
    if case.name == "schedules":
        steps = jnp.asarray(x["steps"])
        for name, fade, t in (
            ("out_replay_coef", ej.control.cosine(0.0, 1.0, 300), A.replay_weight()),
            ("out_tool_coef", ej.control.cosine(1.0, 0.0, 200), R.tool_use()),
        ):
            case.close(jax.vmap(fade)(steps), name)
            np.testing.assert_allclose(jax.vmap(t.hyper["coef"])(steps), x[name], atol=1e-5)
        return
    means, stds = x["group_mean_history"].ravel(), x["group_std_history"].ravel()
    r = rollout_of(x, x["rewards"], replayed=np.ones(len(x["rewards"]), bool))
    room = len(means) + 3  # unused places must not count
    ring = lambda values: jnp.asarray(np.append(values, [99.0] * 3), jnp.float64)
    history = History(ring(means), ring(stds), jnp.int32(len(means)))
    known = jnp.arange(room) < len(means)
    case.close(masked.quantile(history.means, known, 0.5), "out_p50_mean")
    case.close(masked.quantile(history.stds, known, 0.5), "out_p50_std")
    how = {"std": bool(x["hp_norm_by_std"]), "capacity": room, "eps": case.meta["hyper"]["eps"]}
    go = lambda t: run(t, r, state={"own": history, "hyper": ()})[0]
    case.close(go(A.replay_baseline(**how, keep_positive=False)).advantage, "out_advantages")
    kept = go(A.replay_baseline(**how))
    np.testing.assert_array_equal(kept.mask.any(axis=1), x["out_keep"])
    np.testing.assert_array_equal(np.where(x["out_keep"][:, None], kept.advantage, 0), kept.advantage)
