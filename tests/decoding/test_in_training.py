"""Knobs of the last step reach the decoding rules of the next rollout."""

import numpy as np
import pytest

import entjax as ej
from entjax.log import read_lines
from entjax.train import train


def config(**changes):
    base = {
        "task": ej.tasks.countdown(numbers=2, split="train"),
        "recipe": "hapo",
        "steps": 2,
        "prompts": 4,
        "samples": 4,
    }
    small = {
        "max_new_tokens": 9,
        "eval_every": 0,
        "eval_prompts": 2,
        "eval_samples": 2,
        "eval_k": (1,),
        "lr": 1e-3,
    }
    model = ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=64)
    return ej.Config(**{**base, **small, "model": model, **changes})


def test_rules_made_from_the_knobs():
    seen = []

    def rules(knobs):
        seen.append(dict(knobs))
        return ej.decoding.hapo(knobs, tau=0.9)

    parts = ej.setup.build(config(rules=rules))
    params = parts.fresh_state().params
    knobs = {"hapo_pivot": 0.0, "hapo_spread": 0.1, "hapo_up": 10.0, "hapo_down": -10.0}  # all hot: T = 1.9
    sample = lambda **options: parts.tools(params, 0, **options).generate([[3, 4], [5]])
    first, hot, held_out = sample(), sample(knobs=knobs), sample(knobs=knobs, held_out=True)
    assert seen == [{}, knobs]
    np.testing.assert_allclose(first.sampled_logp, first.logp, atol=1e-6)
    assert (hot.sampled_entropy[hot.mask] > hot.entropy[hot.mask]).all()
    np.testing.assert_allclose(held_out.sampled_logp, held_out.logp, atol=1e-6)


@pytest.mark.slow
def test_hapo_trains_with_its_temperature(tmp_path):
    seen = []

    def rules(knobs):
        seen.append(set(knobs))
        return ej.decoding.hapo(knobs)

    train(config(rules=rules), tmp_path / "run")
    names = {f"hapo_{name}" for name in ("pivot", "spread", "up", "down")}
    assert seen[0] == set() and seen[-1] == names
    assert all(
        np.isfinite(r.get("entropy/mean", 0.0)) for r in read_lines(tmp_path / "run" / "metrics.jsonl")
    )
