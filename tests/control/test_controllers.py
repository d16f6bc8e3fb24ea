"""Controllers against closed forms: what they put out, that they stay in their bounds and that they come back from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import control
from entjax.transform import measured_entropy
from tests import tiny


def drive(controller, measurements):
    """The outputs for a list of measurements."""
    state, out = controller.init(), []
    for m in measurements:
        value, state = controller.update(m, state)
        out.append(float(value))
    return np.asarray(out)


def test_pid_is_its_equation():
    target, kp, ki, kd = 0.7, 0.3, 0.05, 0.2
    rng = np.random.default_rng(0)
    measured = rng.uniform(0.5, 0.9, 20)
    ours = drive(control.pid(target, kp, ki, kd, low=-9.0, high=9.0, bias=0.1), measured)
    e = target - measured
    change = np.diff(e, prepend=e[0])
    np.testing.assert_allclose(ours, 0.1 + kp * e + ki * np.cumsum(e) + kd * change, rtol=1e-5)


def test_negative_gains_are_the_mirror_image():
    measured = np.linspace(0, 1, 9)
    up = drive(control.pi(0.5, 0.3, 0.1, low=-1.0), measured)
    down = drive(control.pi(0.5, -0.3, -0.1, low=-1.0), 1 - measured)
    np.testing.assert_allclose(up, down, rtol=1e-6)
    with pytest.raises(ValueError, match="one sign"):
        control.pi(0.5, 0.3, -0.1)


BOUNDED = {
    "p": (control.pid(0.5, 0.5), 1),
    "pi": (control.pi(0.5, 0.5, 0.1), 1),
    "pid": (control.pid(0.5, 0.5, 0.1, 0.4), 1),
    "i only": (control.pid(0.5, 0.0, 0.1), 1),
    "bias at the bound": (control.pi(0.5, 0.5, 0.1, low=0.3, high=0.8), 1),
    "negative gains": (control.pi(0.5, -0.5, -0.1), -1),
    "staircase": (control.staircase(0.5, delta=0.2), 1),
    "skywork": (control.skywork(0.5, delta=0.2, high=1.0), 1),
    "trl": (control.trl_adaptive(0.5, delta=0.2), 1),
    "bang bang": (control.bang_bang(0.5, below=1.0, above=0.0), 1),
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("first", [0.0, 1.0])
def test_recovers_from_its_bounds(name, first):
    """200 steps against a bound, then errors of the other sign: within two steps the output has moved off, and it soon arrives
    at the other bound."""
    controller, sign = BOUNDED[name]
    there, back = 0.5 - sign * (0.5 - first), 0.5 + sign * (0.5 - first)
    out = drive(controller, [there] * 200 + [back] * 40)
    assert out[199] == out[198]
    assert np.abs(out[200:202] - out[199]).max() > 0.02, "the output sticks to its bound"
    arrived = np.flatnonzero(np.isclose(out[200:], out[-1], atol=1e-6))[0]
    assert arrived <= 25 and out[-1] != out[199], "wound up"


def test_an_integral_without_anti_windup_would_fail():
    """The same test sees the fault it looks for: a naive sum stays at its bound for 200 steps more."""
    total, out = 0.0, []
    for m in [0.0] * 200 + [1.0] * 40:
        total += 0.5 - m
        out.append(np.clip(0.1 * total, 0, 1))
    assert out[239] == out[199] == 1.0


def test_a_coefficient_of_zero_comes_back():
    """A peer gated its controller on coef != 0: at its minimum it was dead. Here it starts again."""
    for make in (control.skywork, control.trl_adaptive):
        out = drive(make(0.5, delta=0.1, high=0.3, initial=0.3), [0.9] * 10 + [0.1] * 10)
        assert out[9] == 0.0 and out[-1] == pytest.approx(0.3)


def test_nan_measurements_do_not_poison_the_integral():
    out = drive(control.pi(0.5, 0.5, 0.1), [0.2, np.nan, 0.2])
    assert np.isfinite(out).all() and out[2] > out[0]


def test_ramps_and_gates_of_the_adaptive_coefficients():
    low = drive(control.skywork(0.2, delta=0.01, high=0.03), [0.1] * 6)
    np.testing.assert_allclose(low, [0, 0.01, 0.02, 0.03, 0.03, 0.03], atol=1e-7)
    gated = drive(control.skywork(0.2, delta=0.01, high=0.03), [0.1, 0.1, 0.1, 0.5, 0.1, 0.1])
    np.testing.assert_allclose(gated, [0, 0.01, 0.02, 0.03, 0, 0.03], atol=1e-7)
    at_target = {
        f: drive(f(0.2, delta=0.01, initial=0.005), [0.2] * 3)
        for f in (control.skywork, control.trl_adaptive)
    }
    np.testing.assert_allclose(at_target[control.skywork], [0.005, 0, 0], atol=1e-6)
    np.testing.assert_allclose(at_target[control.trl_adaptive], [0, 0.015, 0.025], atol=1e-6)


def test_measured_entropy_is_a_choice():
    rollout = tiny.rollout()
    context = ej.Context(rollout, {"entropy": rollout.entropy * 2})
    mask = np.asarray(rollout.mask)
    np.testing.assert_allclose(
        measured_entropy(context), 2 * np.asarray(rollout.entropy)[mask].mean(), rtol=1e-6
    )
    np.testing.assert_allclose(
        measured_entropy(context, "nll"), -np.asarray(rollout.old_logp)[mask].mean(), rtol=1e-6
    )
    seen = {}
    for measure in ("shannon", "nll"):
        probe = control.Controller(lambda: (), lambda m, s: (m, s))
        t = ej.regularizers.entropy(control.measuring(measure, probe))
        out, _ = t.update(ej.Signal.start(rollout), (), context)
        seen[measure] = float(out.metrics["entropy/coef"])
    assert seen["shannon"] == pytest.approx(float(measured_entropy(context)))
    assert seen["nll"] == pytest.approx(float(measured_entropy(context, "nll")))
    with pytest.raises(ValueError, match="'cross'"):
        control.measuring("cross", control.constant(1.0))


def test_mistakes_are_told():
    for bad in (
        lambda: control.pi(0.5, 0.1, 0.1, low=1.0, high=0.0),
        lambda: control.pi(0.5, 0.1, 0.1, bias=2.0),
        lambda: control.pid(0.5, 0.0),
        lambda: control.skywork(0.2, delta=0.0),
        lambda: control.trl_adaptive(0.2, initial=7.0),
    ):
        with pytest.raises(ValueError, match=r"\d"):
            bad()
    for target in (float("nan"), float("inf"), None, True, "0.3"):
        for make in (
            lambda t: control.pi(t, 0.1, 0.1),
            lambda t: control.bang_bang(t, below=0.0, above=1.0),
            lambda t: control.staircase(t, delta=0.1),
            control.skywork,
        ):
            with pytest.raises(ValueError, match="give a finite number, or a schedule"):
                make(target)
    for target in (0, 0.3, np.float32(0.3), jnp.asarray(0.3), control.linear(0.5, 0.3, 10)):
        control.pi(target, 0.1, 0.1)


def test_state_is_a_pytree_of_arrays_and_jits():
    for controller, _ in BOUNDED.values():
        state = controller.init()
        value, new = jax.jit(controller.update)(jnp.float32(0.3), state)
        assert jax.tree.structure(state) == jax.tree.structure(new) and jnp.shape(value) == ()
