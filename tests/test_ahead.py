"""lag=1: every batch but those after a save is sampled and scored by the policy one step old, and its weights say so."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import entjax as ej
from entjax import setup
from entjax.config import ConfigError
from entjax.log import read_lines
from entjax.preemption import Preempted
from entjax.train import train
from tests.records import untimed


def digits(example, text):
    """A reward that a random policy gets unequally."""
    return sum(character.isdigit() for character in text) / 9


def config(**changes):
    base = dict(  # noqa: C408
        task=ej.tasks.countdown(numbers=2)._replace(verify=digits),
        model=ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=64),
        steps=4, prompts=2, samples=4, max_new_tokens=9, lr=3e-2, eval_every=0, eval_prompts=2, eval_samples=2, eval_k=(1,),
        save_every=3, lag=1,
    )  # fmt: skip
    return ej.Config(**{**base, **changes})


def ran(folder, *, terminated=-1, resume=False):
    """(records, the parameters before and the rollout of every update) of a run; SIGTERM comes in update `terminated`."""
    seen, build = [], setup.build

    def spying(settings):
        parts = build(settings)

        def step(state, rollout, places):
            if len(seen) == terminated:
                os.kill(os.getpid(), signal.SIGTERM)
            seen.append((jax.tree.map(np.asarray, state.params), jax.tree.map(np.asarray, rollout)))
            return parts.step(state, rollout, places)

        return parts._replace(step=step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "build", spying)
        train(config(), folder, resume=resume)
    return read_lines(folder / "metrics.jsonl"), seen


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("lag") / "run")


def log_probs(params, rollout):
    """Of the tokens of a rollout, from whole logits."""
    model = ej.models.Decoder(config().model, rngs=nnx.Rngs(0))
    nnx.update(model, params)
    tokens = jnp.asarray(rollout.tokens)
    logits = model(tokens)[:, :-1] @ model.head()
    found = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), tokens[:, 1:, None], axis=2)[..., 0]
    return np.asarray(jnp.pad(found, ((0, 0), (1, 0))))


def test_old_log_probs_are_those_of_the_policy_one_step_before(run):
    _, seen = run
    policies = [params for params, _ in seen]
    for step, owner in (
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 3),
    ):  # the first and the one after the save are not behind
        rollout = seen[step][1]
        mask = rollout.mask
        assert mask.any()
        expected = log_probs(policies[owner], rollout)[mask]
        np.testing.assert_allclose(rollout.old_logp[mask], expected, atol=1e-5, err_msg=str(step))
        np.testing.assert_allclose(rollout.logp[mask], expected, atol=1e-4, err_msg=str(step))


def test_the_policy_has_moved_in_between(run):
    records, seen = run
    rollout = seen[2][1]
    moved = log_probs(seen[2][0], rollout) - rollout.old_logp
    assert np.abs(moved[rollout.mask]).max() > 1e-2
    ratio = np.exp(moved[rollout.mask])
    assert records[3]["ratio/max"] == pytest.approx(ratio.max(), rel=1e-3)
    assert records[4]["ratio/max"] == pytest.approx(1.0, abs=1e-4)


def test_every_prompt_is_used_once(run):
    _, seen = run
    starts = {tuple(row[: m.argmax()]) for _, r in seen for row, m in zip(r.tokens, r.mask, strict=True)}
    assert len(starts) == 8


def test_a_run_ended_between_saves_goes_on_from_the_last_one(run, tmp_path):
    """The policy that sampled the batch in the making is gone: the steps since the save are done again, to the same numbers."""
    records, seen = run
    with pytest.raises(Preempted):
        ran(tmp_path / "run", terminated=1)
    again, rest = ran(tmp_path / "run", resume=True)
    assert len(rest) == 4  # nothing had been saved since step 0
    assert untimed(again) == untimed(records)
    jax.tree.map(np.testing.assert_array_equal, rest[-1][0], seen[-1][0])


def test_more_than_one_step_is_refused():
    with pytest.raises(ConfigError, match="lag=2"):
        config(lag=2)
