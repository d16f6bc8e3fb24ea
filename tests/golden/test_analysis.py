"""Golden numbers of analysis: semantic entropies, conditional and inverse entropy, spectra, divergences, the entropy law."""

import re

import jax.numpy as jnp
import numpy as np

from entjax import features, masked, vocab
from entjax.advantages.divergence_weights import divergence_weight
from entjax.analysis import conditional_entropy, entropy_law, semantic_entropy, spectral
from entjax.analysis.inv_entropy import inv_entropy
from entjax.analysis.sparse_but_critical import jensen_shannon, rank_in_base, switched, top_k_overlap
from tests.golden.harness import golden


@golden("semantic_entropy")
def test_semantic_entropy(case):
    x = case.x
    labels, ll = x["labels"], x["log_likelihood"]
    case.close(semantic_entropy.discrete(labels), "out_discrete_semantic_entropy")
    case.close(semantic_entropy.cluster_logprobs(labels, ll), "out_cluster_logprobs", atol=1e-12)
    case.close(semantic_entropy.by_likelihood(labels, ll), "out_semantic_entropy_rao", atol=1e-12)
    case.close(semantic_entropy.predictive(ll), "out_predictive_entropy")
    case.close(semantic_entropy.likelihood_weights(ll), "weights")
    names = [name for name in x if "snne" in name]
    assert len(names) > 6
    for name in names:
        weighted, variant, tau, diag = re.fullmatch(r"out_(w?)snne_(\w+)_t([\d.]+)_(\w+)", name).groups()
        options = {"tau": float(tau), "variant": variant, "itself": diag == "diag"}
        if weighted:
            options["weights"] = x["weights"]
        case.close(semantic_entropy.snne(x["similarity"], labels, **options), name, atol=1e-6)


@golden("conditional_entropy")
def test_conditional_entropy(case):
    logits = jnp.asarray(case.x["answer_logits"])
    row = vocab.Row(logits, jnp.zeros(logits.shape[:-1], jnp.int32))
    entropies = conditional_entropy.answer_entropy(vocab.entropy(row), np.ones(logits.shape[:-1], bool))
    case.close(entropies, "out_entropy_per_step")
    found = conditional_entropy.reduction(entropies)
    case.close(found.utility, "out_reduction")
    case.close(found.slope, "out_slope")
    case.close(found.monotone, "out_monotone_fraction")


@golden("inv_entropy")
def test_inv_entropy(case):
    found = inv_entropy(case.x["sim_x"], case.x["sim_y"])
    case.close(found.x_given_y, "out_H_x_given_y")
    case.close(found.y_given_x, "out_H_y_given_x")
    case.close(found.p_x_given_y, "out_p_x_given_y")
    case.close(found.p_y_given_x, "out_p_y_given_x")
    case.close(found.max_py, "out_max_py")
    case.close(found.wasserstein, "out_WD")


@golden("spectral")
def test_spectral(case):
    x = case.x["features"]
    case.close(spectral.rankme(x), "out_rankme_singular")
    case.close(spectral.covariance_eigenvalues(x), "out_eigs")
    case.close(spectral.effective_rank(x), "out_effrank_cov_eig")
    case.close(spectral.matrix_entropy(x), "out_matrix_entropy")
    for name in case.x:
        if window := re.fullmatch(r"out_alpha_req_(\d+)_(\d+)", name):
            case.close(spectral.alpha_req(x, *map(int, window.groups())), name)
        if parts := re.fullmatch(r"out_dse_sigma([\d.]+)_t(\d+)", name):
            case.close(spectral.diffusion_entropy(x, float(parts[1]), int(parts[2])), name)


@golden("sparse_but_critical")
def test_sparse_but_critical(case):
    x = case.x
    tokens, mask = jnp.asarray(x["tokens"], jnp.int32), jnp.asarray(x["mask"]) > 0
    policy, base, old = (jnp.asarray(x[f"{name}_logits"]) for name in ("rl", "base", "old"))
    row = vocab.Row(policy, tokens, {"ref_logits": base})
    js = jensen_shannon(row)
    case.close(js, "out_js")
    case.close(features.forward_kl(row), "out_kl_base_rl")
    case.close(features.reverse_kl(row), "out_kl_rl_base")
    case.close(rank_in_base(row), "out_rank_of_rl_top1_in_base")
    overlap = [top_k_overlap(int(k))(row) for k in x["overlap_ks"]]
    case.close(jnp.stack(overlap, axis=-1), "out_topk_overlap")
    for name in x:
        if eps := re.fullmatch(r"out_switch_eps([\d.]+)", name):
            np.testing.assert_array_equal(switched(js, mask, float(eps[1])), x[name])
    moved = features.forward_kl(vocab.Row(policy, tokens, {"ref_logits": old}))
    case.close(moved, "out_kl_old_new")
    gap = jnp.asarray(x["logp"] - x["old_logp"])
    k3 = jnp.exp(gap) - 1 - gap
    case.close(k3, "out_k3")
    for way, alpha in (("high", 5.0), ("low", -5.0)):
        case.close(divergence_weight(moved, 1.0, alpha), f"out_weight_{way}_exact")
        case.close(divergence_weight(k3, 1.0, alpha), f"out_weight_{way}_k3")
    quantiles = [masked.quantile(jnp.asarray(x["old_entropy"]), mask, q) for q in x["quantiles"]]
    case.close(jnp.stack(quantiles), "out_entropy_quantiles")


@golden("entropy_law")
def test_entropy_law(case):
    x = case.x
    law = entropy_law.fit(x["entropy"], x["reward"])
    case.close(law.a, "out_a")
    case.close(law.b, "out_b")
    case.close(law.ceiling, "out_ceiling")
    case.close(law.rmse, "out_rmse", atol=1e-12)
    early = entropy_law.fit(x["entropy"][:10], x["reward"][:10])
    case.close(early.a, "out_a_first10")
    case.close(early.b, "out_b_first10")


@golden("entropy_performance_fit")
def test_entropy_performance_fit(case):
    x = case.x
    law = entropy_law.fit(x["entropy"], x["performance"], x["weights"])
    case.close(law.a, "out_a")
    case.close(law.b, "out_b")
    case.close(law.ceiling, "out_ceiling")
    case.close(law.r2, "out_r2")
