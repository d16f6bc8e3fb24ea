"""Contract rows: clips, averages, token weights, and every surrogate with the clip range that belongs to it."""

import entjax as ej
from tests.contract.table import Row

CLIP = {"clip_low", "clip_high"}
CHANGE = ej.entropy_change
linear = ej.control.linear(0.1, 0.3, 10)

ROWS = [
    Row(ej.clips.asymmetric, {}, CLIP),
    Row(ej.clips.asymmetric, {"low": linear, "high": 0.2}, CLIP | {"metrics"}, label="asymmetric(schedule)"),
    Row(ej.clips.asymmetric, {"low": 3e-4, "high": 4e-4}, CLIP, surrogate=ej.surrogates.gspo),
    Row(ej.clips.geometric, {}, CLIP, surrogate=ej.surrogates.gmpo),
    Row(ej.clips.cap, {}, CLIP, surrogate=ej.surrogates.cispo),
    Row(ej.clips.unclipped, {}, CLIP),
    Row(ej.clips.asymmetric, {"low": 0.2}, CLIP, surrogate=ej.surrogates.dual_clip(10.0)),
    Row(ej.clips.asymmetric, {"high": 0.2}, CLIP, surrogate=ej.surrogates.delta_clip(1.4)),
    Row(ej.averages.token_mean, {"tokens": 40}, {"scale"}, surrogate=ej.surrogates.unclipped),
    Row(ej.averages.sequence_mean_token_mean, {}, {"scale"}, surrogate=ej.surrogates.sapo()),
    Row(ej.averages.sequence_mean_token_mean, {"sequences": 9}, {"scale"}, surrogate=ej.surrogates.vespo),
    Row(ej.averages.sequence_mean_token_sum, {}, {"scale"}, surrogate=ej.surrogates.gspo),
    Row(ej.averages.first_tokens, {"length": 3}, {"scale"}),
    Row(
        ej.averages.first_tokens,
        {"length": ej.sft.length_curriculum(0.1, (2, 4), stage=2)},
        {"scale"},
        label="curriculum",
    ),
    Row(ej.averages.constant_length, {"length": 32}, {"scale"}, surrogate=ej.surrogates.reinforce),
    Row(ej.averages.constant_length, {"length": 32, "over_sequences": False}, {"scale"}),
    Row(ej.weights.steer, {}, {"weight"}),
    Row(ej.weights.steer, {"mode": "linear", "estimator": CHANGE.steer_code}, {"weight"}),
    Row(ej.weights.steer, {"mode": "asymmetric", "estimator": CHANGE.exact_first_order}, {"weight"}),
    Row(ej.weights.steer, {"normaliser": CHANGE.rank, "estimator": CHANGE.covariance}, {"weight"}),
    Row(ej.weights.steer, {"normaliser": CHANGE.winsorised(), "minimum": linear}, {"weight", "metrics"}),
    Row(ej.weights.steer, {"estimator": CHANGE.discriminator}, {"weight"}, where="per_rollout"),
    Row(ej.weights.forking_tokens, {}, {"mask"}),
    Row(ej.weights.forking_tokens, {"scope": "sequence", "denominator": "all"}, {"weight"}),
    Row(ej.weights.forking_tokens, {"rule": "quantile", "rho": linear}, {"mask", "metrics"}),
    Row(ej.weights.forking_tokens, {"rule": "floor"}, {"mask"}, surrogate=ej.surrogates.gmpo),
    Row(ej.weights.clip_cov, {"fraction": 0.1, "low": 0.0}, {"weight"}, random=True),
    Row(ej.weights.clip_cov, {"choose": "highest", "fraction": 0.1, "low": -1.0}, {"weight"}),
    Row(ej.weights.clip_b, {"mu": 0.5}, {"mask"}, where="per_rollout"),
    Row(ej.weights.clip_b, {"logp": "sampler", "denominator": "all"}, {"weight"}, where="per_rollout"),
    Row(ej.weights.clip_v, {"mu": 0.2, "max_fraction": 0.1}, {"mask"}, where="per_rollout"),
    Row(ej.weights.clip_v, {"denominator": "all"}, {"weight"}, where="per_rollout"),
    Row(ej.weights.attention_entropy, {}, {"weight"}, inputs=("attention_entropy",)),
    Row(ej.weights.importance, {}, {"weight"}, where="per_rollout"),
    Row(ej.weights.importance, {"level": "sequence", "above": "zero", "threshold": 3.0}, {"weight"}),
    Row(ej.weights.importance, {"normalize": True}, {"weight"}, surrogate=ej.surrogates.reinforce),
    Row(ej.weights.geometric_mean, {}, {"weight"}, surrogate=ej.surrogates.gmpo),
    Row(ej.weights.reject_mismatch, {"high": 0.03}, {"mask"}, where="per_rollout"),
    Row(
        ej.weights.reject_mismatch, {"statistic": "k1", "level": "token", "low": 0.8, "high": 1.25}, {"mask"}
    ),
    Row(ej.weights.reject_mismatch, {"level": "sequence_max", "high": 0.1, "denominator": "all"}, {"weight"}),
    Row(ej.weights.off_policy_sequences, {"threshold": 0.05}, {"weight"}),
    Row(ej.weights.zero_variance, {}, {"mask"}, where="per_rollout"),
    Row(ej.weights.zero_variance, {"denominator": "all"}, {"weight"}, where="per_rollout"),
]
