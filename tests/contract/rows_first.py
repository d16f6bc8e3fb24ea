"""Contract rows of the rooms' first residents."""

import entjax as ej
from tests.contract.table import Row

ROWS = [
    Row(ej.advantages.group_normalize, {}, {"advantage"}, where="per_rollout"),
    Row(
        ej.advantages.group_normalize, {"std": False, "singleton": "zero"}, {"advantage"}, where="per_rollout"
    ),
    Row(ej.regularizers.entropy, {"coef": 0.01}, {"coef"}),
    Row(
        ej.regularizers.entropy,
        {"coef": ej.control.pi(target=0.5, kp=0.1, ki=0.01)},
        {"coef", "metrics"},
        label="entropy(pi)",
    ),
    Row(ej.averages.token_mean, {}, {"scale"}),
]
