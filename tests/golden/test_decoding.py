"""Golden numbers of decoding: what warpers keep, temperatures by entropy, EM-INF's logits, model switches, annealing."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from entjax import decoding
from entjax.decoding.ead import Switch, Writer, after_token
from entjax.decoding.edt import edt_temperature
from entjax.decoding.em_inf import EMInf, minimise_entropy
from entjax.decoding.em_temperature import EMTemperature, entropy_temperature
from entjax.rollouts import particles
from tests.golden.harness import golden

WARPERS = {
    "typical": decoding.typical,
    "min_p": decoding.min_p,
    "epsilon": decoding.epsilon,
    "eta": decoding.eta,
    "top_h": decoding.top_h,
    "nsigma": decoding.top_n_sigma,
    "top_p": decoding.top_p,
    "top_k": lambda k, **_: decoding.top_k(int(k)),
}
NOT_COMPARED = {
    "top_h": {0, 1},
    "top_p": {0},
    "top_k": {0},
    "nsigma": {2},
}  # ties of round-off, or NaN in the original


def tied(kind, value, min_keep):
    """Rows whose choice among equal tokens is arbitrary: only the number kept is compared."""
    rows = {("typical", 3): {1}, ("min_p", 2): {1}}.get((kind, min_keep), set())
    return rows | ({3} if (kind, value) == ("top_h", 0.4) else set())


@golden("logits_warpers")
def test_what_the_warpers_keep(case):
    logits = jnp.asarray(case.x["logits"])
    names = [name for name in case.x if name.startswith("out_keep_")]
    assert names
    for name in names:
        kind, value, _, min_keep = re.fullmatch(r"out_keep_([a-z_]+)_([\d.]+)(_k(\d+))?", name).groups()
        options = {"min_keep": int(min_keep)} if min_keep else {}
        rule = WARPERS[kind](float(value), **options)
        kept = np.isfinite(np.asarray(rule.update(logits, rule.init(logits), None)[0]))
        counted = tied(kind, float(value), int(min_keep or 1))
        for row, want in enumerate(case.x[name]):
            want = want & np.isfinite(case.x["logits"][row])
            if row in NOT_COMPARED.get(kind, ()):
                continue
            if row in counted:
                assert kept[row].sum() == want.sum(), (name, row)
            else:
                np.testing.assert_array_equal(kept[row], want, err_msg=f"{name} row {row}")


@golden("edt")
def test_edt(case):
    p = jax.nn.softmax(jnp.asarray(case.x["logits"]), axis=-1)
    entropy = decoding.select.entropy_of(p)
    case.close(entropy, "entropy")
    names = [name for name in case.x if name.startswith("out_temperature")]
    assert names
    for name in names:
        base, theta = map(float, re.fullmatch(r"out_temperature_T([\d.]+)_theta([\d.]+)", name).groups())
        case.close(edt_temperature(entropy, base, theta, float(case.x["N"])), name)


SETTINGS = {"paper": (0.1, 3, 0.05, 0.3), "code": (0.1, 5, 0.001, 0.3), "long": (0.1, 15, 0.0, 0.1)}


@golden("em_inf")
def test_em_inf(case):
    logits = jnp.asarray(case.x["logits"])
    for name, (lr, steps, kl, threshold) in SETTINGS.items():
        number = lambda x: jnp.asarray(x, logits.dtype)
        theta, taken = minimise_entropy(
            logits, EMInf(number(lr), jnp.int32(steps), number(kl), number(threshold))
        )
        want = case.x[f"out_logits_{name}"]
        flat = lambda x: np.asarray(jax.nn.log_softmax(jnp.asarray(x), axis=-1))
        np.testing.assert_allclose(theta[1:], want[1:], rtol=0, atol=1e-5 * np.abs(want).max())
        np.testing.assert_allclose(flat(theta[:1]), flat(want[:1]), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(taken[1:], case.x[f"out_steps_{name}"][1:])


@golden("em_inf")
def test_em_temperature(case):
    logits = jnp.asarray(case.x["logits"])
    for name, (ratio, tolerance) in {"r0.85": (0.85, 0.1), "r0.5_tol1e-3": (0.5, 1e-3)}.items():
        settings = EMTemperature(*(jnp.asarray(x, logits.dtype) for x in (ratio, 1e-5, tolerance)))
        case.close(logits / entropy_temperature(logits, settings)[:, None], f"out_adaptive_{name}")


@golden("ead_switch")
def test_ead(case):
    rule = Switch(float(case.x["tau"]), int(case.x["window"]), int(case.x["d_min"]))
    writer, models = Writer(), []
    for bits in case.x["entropy_bits"]:
        writer = after_token(writer, bits, rule)
        models.append(writer.model)
    np.testing.assert_array_equal(models, case.x["out_model_next"])


@golden("epf")
def test_entropic_particle_filtering(case):
    x = case.x
    n = len(x["log_weights"])
    weights = jnp.broadcast_to(jnp.asarray(x["log_weights"]), (len(x["steps"]), n))
    w = jax.nn.softmax(weights, axis=-1)
    case.close(particles.effective_size(w), "out_ess")
    case.close(particles.normalized_entropy(w), "out_entropy_norm")
    rules = [particles.by_ess, particles.by_entropy, particles.by_progress]
    bounds = {"ess_threshold": float(x["ess_threshold"]), "early": float(x["early_phase"])}
    tau = jnp.stack(
        [
            particles.temperature(row, step / x["max_steps"], rules[method], **bounds)
            for row, step, method in zip(weights, x["steps"], x["method"])
        ]
    )
    case.close(tau, "out_temperature")
    probs = jax.nn.softmax(weights / tau[:, None], axis=-1)
    case.close(probs, "out_probs")
    drawn = particles.systematic_at(probs, jnp.full(len(probs), x["u"]))
    np.testing.assert_array_equal(drawn, x["out_systematic_idx"])
