"""The estimator study's table on made-up updates: correlations that are known, and the average that AdamW's momentum makes."""

import json

import numpy as np

from entjax.analysis.prediction import ESTIMATORS, SHARED, TAKEN, Update
from entjax.studies import estimators


def test_momentum_is_adams_first_moment():
    """Weights 0.9^age, normalised: from the definition, without a recursion."""
    x = np.random.default_rng(0).normal(size=12)
    weights = [0.9 ** np.arange(t, -1, -1.0) for t in range(12)]
    np.testing.assert_allclose(
        estimators.momentum(x), [(w * x[: len(w)]).sum() / w.sum() for w in weights], rtol=1e-12
    )


def test_the_page_is_written_again_from_its_json(tmp_path):
    rng = np.random.default_rng(1)
    measured = rng.normal(size=6)
    noise = {e.name: rng.normal(size=6) for e in ESTIMATORS} | {SHARED: -measured, TAKEN: 3 * measured + 1}
    noise["covariance"] = np.exp(9 * measured)  # in the same order, not on a line
    updates = [
        Update({name: float(x[i]) for name, x in noise.items()}, float(measured[i]), 0.2, 0.5,
               {e.name: (0.25, 0.5) for e in ESTIMATORS})
        for i in range(6)
    ]  # fmt: skip
    rows = {row["estimator"]: row for row in estimators.table(updates)}
    np.testing.assert_allclose([rows[TAKEN]["pearson"], rows[SHARED]["pearson"]], [1, -1])
    assert rows["covariance"]["spearman"] == 1 and rows["covariance"]["pearson"] < 0.99
    known = {"command": "the command", "updates": [u._asdict() for u in updates]}
    (tmp_path / "estimators.json").write_text(json.dumps(known))
    estimators.main(["--updates", "0", "--docs", str(tmp_path)])
    text = (tmp_path / "estimators.md").read_text()
    assert "`the command`" in text and "| step taken | 1.00 | 1.00 | - | - | - |" in text
    assert json.loads((tmp_path / "estimators.json").read_text())["command"] == "the command"
