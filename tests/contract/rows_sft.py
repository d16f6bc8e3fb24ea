"""Contract rows of distillation as an Objective."""

from entjax.sft.on_policy import teacher_advantage, terms_only
from tests.contract.table import Row

ROWS = [
    Row(terms_only, {}, {"weight"}),
    Row(teacher_advantage, {}, {"advantage"}, inputs=("ref_logp",), where="per_rollout"),
]
