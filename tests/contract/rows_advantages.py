"""Contract rows of group-level advantages and of rewards."""

import functools

import entjax as ej
from tests.contract.table import Row

advantage = functools.partial(Row, writes={"advantage"}, where="per_rollout")
reward = functools.partial(Row, writes={"reward"}, where="per_rollout")
A, R, control = ej.advantages, ej.rewards, ej.control

ROWS = [
    advantage(A.group_normalize, {"eps": 1e-4, "singleton": "zero", "scope": "batch"}),
    advantage(A.group_normalize, {"variance_floor": 1e-6}),
    advantage(A.raw, {}),
    advantage(A.raw, {"baseline": 0.5, "scale": 2.0}),
    advantage(A.leave_one_out, {}),
    advantage(A.leave_one_out, {"normalize": True, "singleton": "zero"}),
    advantage(A.reinforce_pp, {"gamma": 0.97}),
    advantage(A.reinforce_pp, {"kl": 0.05, "holes": "skip"}, inputs=("ref_logp",)),
    advantage(A.reinforce_pp_baseline, {}),
    advantage(A.opo, {}),
    advantage(A.gpg, {}),
    advantage(A.remax, {}, inputs=("baseline",)),
    advantage(A.pass_at_k, {}),
    advantage(A.otb, {}),
    advantage(A.otb, {"importance": True, "kl": 0.01}, inputs=("ref_logp",)),
    advantage(A.gae, {"gamma": 0.99}, inputs=("value",)),
    advantage(A.quantile, {}),
    advantage(A.quantile, {"level": control.linear(0.4, 0.6, 100)}),
    advantage(A.quantile, {"interpolation": "linear", "std": False}),
    advantage(A.seed, {"alpha": 1.0}, inputs=("cluster",)),
    advantage(
        A.seed,
        {"alpha": 1.0, "probability": "likelihood", "estimator": "mc", "shape": "reciprocal"},
        inputs=("cluster",),
    ),
    advantage(A.canon, {}),
    advantage(A.canon, {"metric": "entropy", "mu": A.canon_cosine(), "alpha": 0.9, "beta": 0.05}),
    advantage(A.canon, {"mu": "accuracy", "l_max": 64.0}),
    advantage(A.canon, {"metric": "length", "mu": 0.5}, random=True),  # ties keep row order
    advantage(A.canon, {"metric": "row"}, random=True),
    advantage(A.hardness, {}),
    Row(A.entrocraft, {"low": 1.4, "high": 1.6}, {"advantage", "mask"}, where="per_rollout"),
    advantage(A.entrocraft, {"renormalize": False}, label="entrocraft(schedules)"),
    advantage(A.entrocraft, {"low": 0.1, "high": 0.2, "variant": "released"}),
    advantage(A.signed_scale, {}),
    advantage(A.entropic_balance, {"target": 0.5, "bound": 1.0}),
    Row(
        A.replay_baseline,
        {"std": True, "capacity": 5},
        {"advantage", "mask"},
        inputs=("replayed",),
        where="per_rollout",
    ),
    Row(
        A.replay_baseline,
        {"weight_decay": 0.9},
        {"advantage", "mask"},
        inputs=("replayed", "stored_advantage"),
        where="per_rollout",
    ),
    Row(A.replay_weight, {}, {"weight"}, inputs=("replayed",), where="per_rollout"),
    reward(R.kl_reward, {"beta": 0.1}, inputs=("ref_logp",)),
    reward(
        R.kl_reward, {"centred": True, "estimator": ej.kl.k3()}, inputs=("ref_logp",), label="kl_reward(k3)"
    ),
    reward(R.majority_vote, {}, inputs=("cluster",), random=True),  # ties go by row order
    reward(R.majority_vote, {"ties": "smallest"}, inputs=("cluster",)),
    reward(R.pear, {}, inputs=("think_end",)),
    reward(R.pear, {"alpha": control.linear(0.0, 1.0, 10), "floor": 0.0}, inputs=("think_end",)),
    reward(R.em_rl, {"level": "token"}),
    reward(R.em_rl, {"level": "sequence"}),
    reward(R.empo, {}, inputs=("cluster",)),
    reward(R.empo, {"variant": "verl", "min_confidence": 0.25}, inputs=("cluster",)),
    reward(R.empo, {"variant": "vote"}, inputs=("cluster",)),
    reward(R.empo, {"variant": "reasoning"}, inputs=("cluster", "copied")),
    reward(R.overlong, {"max_length": 8, "buffer": 5}),
    reward(R.overlong, {"max_length": 8, "buffer": 5, "floor": False, "factor": 0.5}),
    reward(R.dsdr, {"lambda_d": 0.3, "sigma_d": 0.45}, inputs=("diversity",)),
    reward(R.tool_use, {}, inputs=("tool_calls",)),
    reward(R.ares_reward, {"trigger_ids": (0, 2, 3, 5), "window": 2}, label="ares_reward"),
    reward(R.ares_reward, {"trigger_ids": (0, 2, 3, 5), "window": 2, "top_k": 6}, label="ares_reward(top_k)"),
    Row(
        R.ares_kl,
        {"law": R.Law(interval=1, smooth=0.5)},
        {"coef"},
        inputs=("ref_logp",),
        where="per_rollout",
        label="ares_kl",
    ),
]
