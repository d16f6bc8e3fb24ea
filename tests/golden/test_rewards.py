"""Rewards from statistics and from other answers against the numbers of the papers' own code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entjax as ej
from entjax import masked, vocab
from entjax.rewards import ares_bucket, ares_window, clusters
from entjax.rewards.ares_kl import start_kl_buckets, update_kl_buckets
from entjax.rewards.ares_reward import entropy_score
from entjax.rewards.pear import phase_means
from tests.golden.build import advantage, rollout_of, run
from tests.golden.harness import golden

A, R = ej.advantages, ej.rewards


@golden("ttrl_vote")
def test_majority_vote(case):
    x = case.x
    answers, samples = x["answers"], int(x["n_samples"])
    prompts, votes = answers.shape
    assert votes == int(x["n_votes"])
    cluster = jnp.asarray(answers.ravel(), jnp.int32)
    group = np.repeat(np.arange(prompts), votes)
    result = R.vote(cluster, jnp.asarray(group, jnp.int32))
    square = lambda values: np.asarray(values).reshape(prompts, votes)
    np.testing.assert_array_equal(square(result.label)[:, 0], x["out_label"])
    case.close(square(result.ratio)[:, 0], "out_majority_ratio")
    case.close(square(result.reward), "out_rewards_all")
    case.close(square(result.reward)[:, :samples], "out_rewards")
    truth = x["truth"][:, None] == answers
    case.close(truth.any(axis=1), "out_pass")
    r = rollout_of({}, truth.ravel(), group, cluster=cluster)
    signal, _ = run(R.majority_vote(), r)
    case.close(square(signal.reward), "out_rewards_all")
    noted = {key.split("/")[1]: float(value) for key, value in signal.metrics.items()}
    assert noted["majority_ratio"] == pytest.approx(x["out_majority_ratio"].mean(), abs=1e-6)
    assert noted["reward_accuracy"] == pytest.approx(x["out_reward_accuracy"].mean(), abs=1e-6)
    assert noted["label_accuracy"] == pytest.approx(x["out_label_accuracy"].mean(), abs=1e-6)
    agrees = square(result.reward) > 0
    case.close((agrees == truth).mean(axis=1), "out_reward_accuracy")
    case.close((agrees & truth).any(axis=1), "out_label_accuracy")


@golden("t1")
def test_t1(case):
    x = case.x
    r = rollout_of(x, x["rewards"])
    beta = float(x["beta"])
    case.close((r.reward - run(R.kl_reward(beta), r)[0].reward) / beta, "out_kl_seq")
    shaped = run(R.kl_reward(beta, centred=True), r)[0].reward
    case.close(shaped, "out_shaped_reward")
    case.close((r.reward - shaped) / beta, "out_kl_centered")
    both = ej.chain(R.kl_reward(beta, centred=True), A.leave_one_out(singleton="zero"))
    case.close(advantage(both, r)[:, 0], "out_advantages_seq")
    decay = float(x["ema_decay"])
    moved = optax.incremental_update(jnp.asarray(x["theta"]), jnp.asarray(x["theta_ref"]), 1 - decay)
    case.close(moved, "out_theta_ref_next")


@golden("pear")
def test_pear(case):
    x = case.x
    alpha = float(x["hp_alpha"])
    r = rollout_of(x, x["rewards"], np.arange(len(x["rewards"])), think_end=x["think_end"])
    think, answer = phase_means(r.entropy, r.mask, jnp.asarray(x["think_end"]))
    case.close(think, "out_h_think")
    case.close(answer, "out_h_answer")
    case.close(jnp.maximum(think - alpha * answer, 0), "out_penalty")
    signal = ej.Signal.start(r).replace(reward=jnp.where(r.reward == 1, 1.0, jnp.asarray(x["format_score"])))
    case.close(run(R.pear(alpha), r, signal)[0].reward, "out_rewards")


@golden("em_rl")
def test_em_rl(case):
    x = case.x
    r = rollout_of(x, np.zeros(len(x["group_ids"])))
    for level in ("token", "sequence"):
        case.close(run(R.em_rl(level), r)[0].reward, f"out_reward_{level}")
        both = ej.chain(R.em_rl(level), A.leave_one_out())
        found = np.asarray(advantage(both, r))
        per_row = np.where(x["mask"] > 0, found, -np.inf).max(axis=1)
        case.close(per_row, f"out_rloo_{level}")
        np.testing.assert_allclose(found, per_row[:, None] * x["mask"], rtol=1e-12)
    signal, _ = run(ej.regularizers.entropy(-1.0), r)
    signal = signal.replace(scale=r.mask / r.mask.shape[0])  # EM-FT: mean over rows of the sum over tokens

    def loss(logits):
        values = {"entropy": vocab.entropy(vocab.Row(logits, r.tokens))}
        surrogate = lambda log_ratio, signal: jnp.zeros_like(log_ratio)
        return ej.loss.token_losses(jnp.zeros(r.mask.shape), signal, values, surrogate).sum()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(x["logits"]))
    case.close(value, "out_emft_loss")
    case.close(gradient, "out_grad_logits")


@golden("empo")
def test_empo(case):
    x = case.x
    answers = [None if empty else int(i) for i, empty in zip(x["answer_ids"], x["empty"])]
    equal = lambda i, j: bool(x["equal"][i, j])
    cluster = R.answer_clusters(answers, x["group_ids"], equal)
    together = R.answer_clusters(list(range(len(answers))), x["group_ids"], equal)  # empties compared as well
    np.testing.assert_array_equal(together, x["out_cluster_ids"])
    r = rollout_of(x, np.zeros(len(answers)), cluster=cluster)
    reward = lambda **how: run(R.empo(**how), r)[0].reward
    case.close(reward(), "out_rewards_trl")
    case.close(reward(variant="verl"), "out_rewards_verl")
    case.close(reward(variant="vote"), "out_vote_rewards")
    case.close(reward(variant="verl", min_confidence=0.25), "out_rewards_thresholded")
    same = clusters.same_cluster(jnp.asarray(together), r.group)
    share = clusters.cluster_share(same, r.group)
    case.close(clusters.semantic_entropy(share, same, r.group), "out_semantic_entropy")


@golden("ares_reward")
def test_ares_reward(case):
    x = case.x
    right = jnp.asarray(x["accuracy"]) > 0
    arrays = (jnp.asarray(x[name]) for name in ("n_high", "difficulty", "target", "alpha"))
    score = entropy_score(right, *arrays)
    case.close(score, "out_entropy_score")
    case.close(jnp.asarray(x["accuracy"]) + score, "out_rewards")


@golden("ares_window")
def test_ares_window(case):
    x = case.x
    mask = jnp.asarray(x["mask"]) > 0
    window, k = int(x["hp_window"]), int(x["hp_topk"])
    row = vocab.Row(jnp.asarray(x["old_logits"]), jnp.zeros(mask.shape, jnp.int32))
    entropy, bare = (ares_window.truncated(k, tail)(row) for tail in (True, False))
    trigger = ares_window.argmax_in(tuple(x["trigger_ids"].tolist()))(row) > 0
    found = ares_window.window_entropy_count(entropy, trigger, mask, float(x["hp_threshold"]), window)
    case.close(found.n_high, "out_n_high")
    case.close(found.n_low, "out_n_low")
    case.close(found.soft_cost, "out_soft_cost", rtol=2e-5)
    percentile = ares_window.window_percentile(bare, mask, float(x["hp_percentile"]), window)
    case.close(percentile, "out_percentile")
    case.close(masked.mean(entropy, mask, axis=1), "out_mean_entropy")


@golden("ares_bucket")
def test_ares_bucket(case):
    x = case.x
    state = ares_bucket.start_buckets()
    targets, alphas = [], []
    for accuracy, n_high, group in zip(x["accuracy"], x["n_high"], x["group_ids"]):
        accuracy, group = jnp.asarray(accuracy), jnp.asarray(group)
        first = np.unique(group, return_index=True)[1]
        level = np.asarray(ares_bucket.difficulty(accuracy, group))[first]
        np.testing.assert_array_equal(level, x["out_difficulty"][len(targets)])
        state = ares_bucket.update_buckets(
            state, accuracy, jnp.asarray(n_high), group, float(x["hp_alpha_lr"])
        )
        targets.append(state.target)
        alphas.append(state.alpha)
    np.testing.assert_array_equal(np.array(targets), x["out_target"])
    case.close(np.array(alphas), "out_alpha")


@golden("ares_kl")
def test_ares_kl(case):
    x = case.x
    law = R.Law(
        target=float(x["hp_target"]), smooth=float(x["hp_ema"]), clip=float(x["hp_clip"]), lr=float(x["hp_lr"]),
        interval=int(x["hp_interval"]), deadzone=float(x["hp_deadzone"]),
    )  # fmt: skip
    rows = jnp.ones(x["seq_kl"].shape[1], bool)

    def call(state, given):
        state = update_kl_buckets(state, *given, rows, law)
        return state, jnp.exp(state.log_beta)

    start = start_kl_buckets()
    _, betas = jax.lax.scan(call, start, (jnp.asarray(x["seq_kl"]), jnp.asarray(x["difficulty"])))
    case.close(betas, "out_beta")


@golden("dsdr")
def test_dsdr_reward(case):
    """The local term of DSDR has its own test; this is the global part."""
    x = case.x
    group = jnp.asarray(x["group_ids"], jnp.int32)
    d = R.diversity(jnp.asarray(x["embeddings"]), jnp.asarray(x["formulas"]), group)
    case.close(jnp.clip(d, 0, float(x["hp_sigma_d"])), "out_diversity")
    t = R.dsdr(float(x["hp_lambda_d"]), sigma_d=float(x["hp_sigma_d"]))
    case.close(run(t, rollout_of(x, x["rewards"], diversity=d))[0].reward, "out_rewards")
