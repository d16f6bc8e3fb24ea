"""Contract rows of this project's own entropy budget."""

import entjax as ej
from tests.contract.table import Row

ROWS = [
    Row(ej.weights.entropy_budget, {"target": 0.5}, {"weight", "metrics"}),
    Row(ej.weights.entropy_budget, {"budget": -0.2, "maximum": 3.0}, {"weight", "metrics"}),
]
