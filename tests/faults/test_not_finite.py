"""An update that is not finite: skipped without a trace, told with its cause, kept, replayed; too many end the run."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import cli, setup
from entjax.checkpoint import flatten
from entjax.diagnose import diagnose
from entjax.log import read_lines
from entjax.preemption import Preempted
from entjax.rollouts import to_rollout
from entjax.train import Loop, train
from tests import tiny

# The third step's second minibatch divides by zero: the update counter that per-step transforms see is 2 * 2 + 1 = 5.
CONFIG = """
import jax.numpy as jnp
import entjax as ej

def broken(when):
    def f(signal, context):
        bad = jnp.where(jnp.asarray(context.step) == when, 0.0, 1.0)
        return signal.replace(weight=signal.weight.at[1].multiply(1.0 / bad))
    return ej.stateless("broken", f, writes={{"weight"}})

def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=2)._replace(verify=lambda example, text: float("1" in text)),
        model=ej.models.tiny(vocab=20, width=16, layers=2, heads=2, context=64),
        objective=ej.Objective(
            ej.advantages.group_normalize(),
            ej.chain(broken({when}), ej.regularizers.entropy(coef=ej.control.pi(target=2.9, kp=0.1, ki=0.01))),
        ),
        steps=4, prompts=2, samples=4, minibatches=2, max_new_tokens=9, lr=1e-3, chunk=64, eval_every=0, eval_prompts=2,
        eval_samples=2, eval_k=(1,), save_every=1, keep=9)
"""


def write(folder, when):
    (folder / "small.py").write_text(CONFIG.format(when=when))
    return str(folder / "small.py")


@pytest.mark.slow
def test_the_step_is_skipped_told_kept_and_replayed(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", write(tmp_path, when=5), "--workdir", str(run)]) == 0
    told = capsys.readouterr().err
    assert (
        "Step 3: the update was not finite and was skipped. the per_step transform 'broken': weight is infinite"
        in told
    )
    assert f"entjax replay {run}/faults/step_00000003" in told
    skipped = [r["update/skipped"] for r in read_lines(run / "metrics.jsonl") if "loss" in r]
    assert skipped == [0, 0, 1, 0]
    kept = json.loads((run / "faults/step_00000003/report.json").read_text())
    assert len(kept["rows"]) == 8 and kept["found"][0].startswith("the per_step transform 'broken'")
    assert {p.name for p in (run / "faults").iterdir()} == {"step_00000003", "states"}

    assert cli.main(["replay", str(run / "faults/step_00000003")]) == 1
    again = capsys.readouterr().out
    assert "the per_step transform 'broken': weight is infinite" in again
    assert "1 of 2 updates would be skipped" in again
    assert cli.main(["replay", str(run)]) == 2
    assert "does not lie in the faults of a run directory" in capsys.readouterr().err


def test_too_many_in_a_row_end_the_run_with_advice(tmp_path, capsys):
    source = write(tmp_path, when=1).replace("small.py", "always.py")
    text = (tmp_path / "small.py").read_text().replace("jnp.asarray(context.step) == when", "True")
    (tmp_path / "always.py").write_text(text)
    assert cli.main(["train", source, "stop_after_skips=2", "--workdir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert re.search(r"2 steps in a row .* stop_after_skips=2 .* Lower lr \(0.001\)", told)
    assert [r["step"] for r in read_lines(tmp_path / "run/metrics.jsonl")] == [0, 1, 2]


def test_a_skipped_update_counts_whose_evaluation_sigterm_breaks_off(tmp_path, capsys, monkeypatch):
    text = Path(write(tmp_path, when=1)).read_text().replace("jnp.asarray(context.step) == when", "True")
    (tmp_path / "small.py").write_text(text)
    command = [
        "train",
        str(tmp_path / "small.py"),
        "stop_after_skips=2",
        "eval_every=1",
        "--workdir",
        str(tmp_path / "run"),
    ]
    evaluate = Loop._evaluate

    def broken_off(loop, step):
        if step == 1:
            raise Preempted
        return evaluate(loop, step)

    monkeypatch.setattr(Loop, "_evaluate", broken_off)
    assert cli.main(command) == 143
    assert (tmp_path / "run/faults/step_00000001").is_dir()
    monkeypatch.undo()
    assert cli.main([*command, "--resume"]) == 2
    assert "2 steps in a row" in capsys.readouterr().err
    assert [r["step"] for r in read_lines(tmp_path / "run/metrics.jsonl")] == [0, 1, 2]


def small(objective, **changes):
    return ej.Config(
        task=ej.tasks.countdown(numbers=2), model=ej.models.tiny(vocab=20, width=16, layers=2, heads=2, context=64),
        objective=objective, steps=1, prompts=2, samples=4, max_new_tokens=9, lr=1e-3, chunk=64, eval_prompts=2,
        eval_samples=2, eval_k=(1,), **changes)  # fmt: skip


def first_finding(objective, spoil=lambda state, rollout: (state, rollout)):
    parts = setup.build(small(objective))
    state = parts.fresh_state()
    harvest = parts.strategy(parts.tools(state.params, 0), parts.stream.next(), 0, {})
    rollout = to_rollout(harvest, rows=8, length=16, temperature=1.0)
    rollout = rollout.replace(reward=jnp.arange(8, dtype=jnp.float32) % 2)
    parts.close()
    found = diagnose(parts, *spoil(state, rollout))
    return str(found[0]) if found else ""


def huge(*which):
    """Weights of layer 1, finite, whose product is not."""

    def spoil(state, rollout):
        def one(path, x):
            name = jax.tree_util.keystr(path)
            return x * 1e30 if "[1]" in name and any(w in name for w in which) else x

        return state.replace(params=jax.tree_util.tree_map_with_path(one, state.params)), rollout

    return spoil


def steep(row):
    """A feature whose value is finite and whose slope is not: the root at 0."""
    logp = ej.vocab.logp(row)
    return jnp.sqrt(logp - jax.lax.stop_gradient(logp))


STEEP = ej.Transform(
    "steep", lambda payload: (), lambda s, state, context: (s.add_term("steep", jnp.ones_like(s.weight)), state),
    terms={"steep": steep}, writes=frozenset({"coef"}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "spoil", "expected"),
    [
        (ej.Objective(), lambda s, r: (s, r), ""),
        (ej.Objective(), lambda s, r: (s, r.replace(reward=r.reward.at[3].set(jnp.nan))),
         "the rollout: reward is NaN at 1 of 8 places"),
        (ej.Objective(), huge("gate", "up"), "layer 1: the residual after MLP is"),
        (ej.Objective(ej.advantages.group_normalize(), STEEP), lambda s, r: (s, r), "the term 'steep': the gradient of"),
    ],
    ids=["nothing", "reward", "layer", "gradient"],
)  # fmt: skip
def test_the_first_cause_is_named(objective, spoil, expected):
    found = first_finding(objective, spoil)
    assert found.startswith(expected) and bool(found) == bool(expected), found


def test_a_poisoned_reward_does_not_stay_in_a_running_mean():
    """One batch with an infinite reward: parameters, both chains' states and knobs are those of before, and the next is fine."""
    running = ej.transform.stateful(
        "running",
        lambda: jnp.zeros(()),
        lambda s, own, c: (s.replace(advantage=s.advantage - own), 0.9 * own + 0.1 * s.reward.mean()),
        {},
        writes={"advantage"},
    )
    knob = ej.stateless(
        "knob",
        lambda s, c: s.replace(knobs={"temperature": s.reward.mean()}),
        writes={"knobs"},
        knobs={"temperature"},
    )
    objective, model = ej.Objective(running, knob), tiny.model()
    import optax

    optimizer = optax.adam(1e-2)
    step = ej.make_train_step(model, objective, optimizer, minibatches=2)
    state, _ = step(ej.init_train_state(model, objective, optimizer, jax.random.key(0)), tiny.rollout(0))
    before = jax.tree.map(np.asarray, flatten(state))
    bad = tiny.rollout(1)
    state, metrics = step(state, bad.replace(reward=bad.reward.at[:2].set(jnp.inf)))
    assert metrics["update/skipped"] == 2
    for name, x in flatten(state).items():
        if name not in ("step", "skipped"):
            np.testing.assert_array_equal(x, before[name], err_msg=name)
    state, metrics = step(state, tiny.rollout(2))
    assert metrics["update/skipped"] == 0 and np.isfinite(state.knobs["temperature"])


def test_what_is_kept_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("entjax.faults.MOST", 1)
    bad = ej.Objective(
        ej.stateless("bad", lambda s, c: s.replace(advantage=s.advantage * np.nan), writes={"advantage"})
    )
    c = small(bad)
    train(ej.Config(**{**{f: getattr(c, f) for f in c.__dataclass_fields__}, "steps": 3}), tmp_path / "run")
    assert [p.name for p in sorted((tmp_path / "run/faults").glob("step_*"))] == ["step_00000001"]
