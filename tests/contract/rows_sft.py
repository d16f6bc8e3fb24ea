"""Contract rows of distillation as an Objective."""

from entjax.advantages import teacher_advantage
from entjax.weights import terms_only
from tests.contract.table import Row

ROWS = [
    Row(terms_only, {}, {"weight"}),
    Row(teacher_advantage, {}, {"advantage"}, inputs=("ref_logp",), where="per_rollout"),
]
