"""Contract rows of the regularizers and of the controllers that drive them."""

import entjax as ej
from tests.contract.table import Row

r, c = ej.regularizers, ej.control
ROWS = [
    Row(
        r.entropy,
        {"coef": c.pid(0.5, kp=0.1, ki=0.01, kd=0.02, ema=0.5)},
        {"coef", "metrics"},
        label="entropy(pid)",
    ),
    Row(r.entropy, {"coef": c.skywork(0.5, delta=0.1, high=1.0)}, {"coef"}, label="entropy(skywork)"),
    Row(r.entropy, {"coef": c.trl_adaptive(2.5, delta=0.1)}, {"coef"}, label="entropy(trl_adaptive)"),
    Row(r.entropy, {"coef": c.linear(0.1, 0.0, 10)}, {"coef"}, label="entropy(schedule)"),
    Row(r.siren, {"coef": 0.5}, {"coef"}),
    Row(r.siren, {"coef": 0.5, "anchor": 0.4, "include_crossing": False}, {"coef"}),
    Row(r.siren, {"coef": c.linear(0.1, 0.5, 10), "quantile": 0.5}, {"coef"}, label="siren(schedule)"),
    Row(r.kl_cov, {"ratio": 0.1}, {"coef"}, surrogate=ej.surrogates.unclipped),
    Row(r.lp_reg, {"rho": 0.5}, {"coef", "clip_low"}),
    Row(
        r.lp_reg,
        {"rho": 0.9, "kappa": 0.05, "rule": "fixed", "estimator": "mse"},
        {"coef", "clip_low"},
    ),
    Row(r.lp_reg, {"rho": 0.5, "kappa": 0.3, "rule": "minp_soft"}, {"coef", "clip_low"}),
    Row(r.targeted_entropy, {}, {"coef"}),
    Row(r.targeted_entropy, {"target": c.linear(1.0, 0.3, 10)}, {"coef"}, label="ter(schedule)"),
    Row(r.tea, {}, {"coef"}),
    Row(r.tea, {"detach": False}, {"coef"}),
    Row(r.dsdr_local, {"coef": 0.1, "tau": 3.0}, {"coef"}, ("diversity",)),
    Row(r.dsdr_local, {"over": "sum"}, {"coef"}, ("diversity",)),
    Row(r.kl, {"coef": 0.1}, {"coef"}, ("ref_logp",)),
    Row(r.kl, {"corrected": True, "estimator": ej.kl.k2()}, {"coef"}, ("ref_logp",), label="kl(corrected)"),
    Row(r.kl, {"coef": ej.kl.adaptive()}, {"coef"}, ("ref_logp",), label="kl(adaptive)"),
    Row(r.kl, {"coef": c.pi(0.1, kp=-0.1, ki=-0.01)}, {"coef"}, ("ref_logp",), label="kl(pi)"),
    Row(r.full_kl, {"coef": 0.1}, {"coef"}),
    Row(r.full_kl, {"coef": 0.1, "direction": "hellinger"}, {"coef"}),
    Row(
        r.full_kl,
        {"coef": c.pi(0.1, kp=-0.1, ki=-0.01), "direction": "forward"},
        {"coef"},
        label="full_kl(pi)",
    ),
    Row(r.entropic, {"threshold": 0.3}, {"weight"}),
    Row(r.entropic, {"threshold": 0.3, "form": "released", "fraction": 0.5}, {"coef"}),
    Row(r.entropic, {"measure": "nll", "threshold": 0.0}, {"weight"}),
    Row(r.epo, {}, {"coef"}),
    Row(r.epo, {"turns": 4, "upper": 1.01}, {"coef"}, ("turn",)),
    Row(r.epo_released, {}, {"coef"}),
    Row(r.epo_released, {"turns": 4}, {"coef"}, ("turn",)),  # mode="seq" counts padding: tests/golden
    Row(r.safe, {"base": 0.01}, {"coef"}, ("ref_logp",)),
    Row(r.safe, {"variant": "released"}, set(), ("ref_logp",)),
    Row(
        r.aepo,
        {"samples": 2, "choose": "random"},
        {"advantage", "mask", "knobs"},
        ("tempered",),
        where="per_rollout",
        random=True,
    ),
    Row(
        r.aepo,
        {"measure": "shannon"},
        {"advantage", "mask", "knobs"},
        ("tempered",),
        where="per_rollout",
        random=True,  # the order of the rows decides
    ),
]
