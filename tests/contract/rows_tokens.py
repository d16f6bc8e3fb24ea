"""Contract rows of the token-level advantages and of the clips that follow entropy or confidence."""

import entjax as ej
from entjax.analysis.strategic_grams import pack
from tests.contract.table import Row

a, clips, control = ej.advantages, ej.clips, ej.control
ADVANTAGE, CLIP = {"advantage"}, {"clip_low", "clip_high"}
GRAMS = pack([(1, 2), (3, 4, 5), (7,)])

ROWS = [
    Row(a.entropy_bonus, {}, ADVANTAGE),
    Row(a.entropy_bonus, {"alpha": 0.1, "kappa": 1.0}, ADVANTAGE, where="per_rollout"),
    Row(a.entropy_bonus, {"alpha": control.linear(0.4, 0.0, 10)}, ADVANTAGE, label="entropy_bonus(linear)"),
    Row(a.empg, {}, ADVANTAGE, ("turn",), "per_rollout"),
    Row(a.empg, {"k": 2.0, "zeta": 0.3}, ADVANTAGE, ("turn",)),
    Row(a.empg, {"steps": "rows"}, ADVANTAGE, ("trajectory", "row_turn"), "per_rollout"),
    Row(a.hicra, {}, ADVANTAGE, ("planning",), "per_rollout"),
    Row(a.hicra, {"grams": GRAMS, "alpha": 0.5}, ADVANTAGE),
    Row(a.hapo_average, {}, ADVANTAGE, where="per_rollout"),
    Row(a.hapo_average, {"std": False, "fallback": 0.6}, ADVANTAGE, where="per_rollout"),
    Row(a.hapo_redistribution, {}, ADVANTAGE),
    Row(a.hapo_redistribution, {"sign_fix": False, "pivot": 0.5, "beta": 0.8}, ADVANTAGE),
    Row(a.hapo_statistics, {}, {"knobs"}, where="per_rollout"),
    Row(a.erpo, {}, ADVANTAGE, ("ref_logp",)),
    Row(a.erpo, {"buckets": 3, "gamma": 0.0}, ADVANTAGE, ("ref_logp",), "per_rollout"),
    Row(a.dgpo, {}, ADVANTAGE),
    Row(a.dgpo, {"kappa": 0.0, "tau": 0.1}, ADVANTAGE, where="per_rollout"),
    Row(a.explore_perplexity, {"alpha": 0.3}, ADVANTAGE, where="per_rollout"),
    Row(a.explore_perplexity, {"favour": "high"}, ADVANTAGE),
    Row(a.explore_perplexity, {"variant": "released"}, ADVANTAGE, where="per_rollout"),
    Row(a.explore_position, {}, ADVANTAGE, where="per_rollout"),
    Row(a.ear, {}, ADVANTAGE, where="per_rollout"),
    Row(a.ear, {"floor": 0.0}, ADVANTAGE, where="per_rollout"),
    Row(a.ear, {"variant": "clip", "beta": 0.8}, ADVANTAGE),
    Row(a.echo_shaping, {}, ADVANTAGE, where="per_rollout"),
    Row(a.echo_shaping, {"confidence": "token_prob", "s_max": None, "add": 0.3}, ADVANTAGE),
    Row(a.echo_shaping, {"confidence": "neg_mean_logprob", "top_k": 3}, ADVANTAGE),
    Row(clips.echo, {}, CLIP, surrogate=ej.surrogates.dual_clip(3.0)),
    Row(clips.echo, {"confidence": "token_prob", "window": 2, "kappa": -6.0}, CLIP, where="per_rollout"),
    Row(clips.hapo, {}, CLIP, surrogate=ej.surrogates.dual_clip(10.0)),
    Row(clips.hapo, {"sign_fix": False, "alpha": 0.5, "low": 0.1, "high": 0.1}, CLIP),
    Row(a.agentic_advantage, {}, ADVANTAGE, surrogate=ej.surrogates.preserve_high()),
    Row(a.agentic_advantage, {"a": 0.8, "floor": 0.0}, ADVANTAGE),
    Row(a.dcpo, {}, ADVANTAGE, where="per_rollout"),
    Row(
        a.dcpo,
        {"measure": "shannon", "target": control.linear(0.5, 0.25, 10)},
        ADVANTAGE,
        label="dcpo(linear)",
    ),
    Row(a.divergence_weights, {}, ADVANTAGE),
    Row(a.divergence_weights, {"against": "reference", "alpha": -5.0}, ADVANTAGE, ("ref_logp",)),
]
