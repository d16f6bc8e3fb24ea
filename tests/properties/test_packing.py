"""Whatever the lengths, prompts and holes: a pack computes every sampled token once, after its own prompt, and gives it back."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entjax as ej
from entjax import packing

LENGTH = 32
COST = packing.Cost(head=0.3, key=0.001)
few = hypothesis.settings(max_examples=60, deadline=None, database=None, derandomize=True)
many = hypothesis.settings(few, max_examples=2000)


@st.composite
def batches(draw):
    """Rows of a few prompts, completions of any length (none included), holes in them; (rollout, minibatches, microbatches)."""
    minibatches, microbatches = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    rows = minibatches * microbatches * draw(st.integers(1, 6))
    prompts = draw(st.lists(st.integers(1, LENGTH), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    texts = [rng.integers(0, 2, n) for n in prompts]  # two tokens: some prompts begin like others
    tokens, mask = rng.integers(0, 2, (rows, LENGTH)), np.zeros((rows, LENGTH), bool)
    for row in range(rows):
        text = texts[draw(st.integers(0, len(texts) - 1))]
        tokens[row, : len(text)] = text
        mask[row, len(text) : len(text) + draw(st.integers(0, LENGTH))] = True
    if draw(st.booleans()):
        mask &= rng.random(mask.shape) < 0.8
    zeros = np.zeros((rows, LENGTH), np.float32)
    group = np.zeros(rows, np.int32)
    rollout = ej.Rollout(tokens.astype(np.int32), mask, zeros, zeros, zeros, zeros[:, 0], group)
    return rollout, minibatches, microbatches


def check(batch):
    rollout, minibatches, microbatches = batch
    pack = packing.plan(rollout, COST, minibatches=minibatches, microbatches=microbatches)
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    if not mask.any():
        assert pack is None
    if pack is None:
        return
    whole = jax.tree.map(np.asarray, pack.whole())
    capacity = pack.places.lead.shape[1]
    assert (pack.count <= capacity).all() and whole.count == pack.count.sum()
    assert not whole.places.at[whole.count :].any()  # nothing is left out
    taken = whole.places.at > 0
    count = np.zeros(mask.shape, int)
    np.add.at(count, (whole.places.row[taken], whole.places.at[taken]), 1)
    assert count[mask].min() == 1 == count.max()
    for piece, family in np.argwhere(taken.any((-1, -2))):
        one = whole.places.row[piece, family][taken[piece, family]]
        known, lead = whole.places.known[piece, family], whole.places.lead[piece, family]
        for row in np.unique(one):
            start = int(mask[row].argmax())
            assert known == start - 1 <= pack.places.width
            np.testing.assert_array_equal(tokens[row, :start], tokens[lead, :start])
    numbers = jnp.arange(1.0, mask.size + 1, dtype=np.float32).reshape(mask.shape)
    there_and_back = lambda places, rows: places.scatter(places.gather(numbers), rows)
    back = jax.tree.map(jnp.asarray, pack.whole()).fold(there_and_back, jnp.zeros_like(numbers))
    np.testing.assert_array_equal(back, np.where(count > 0, numbers, 0))
    assert 0 < packing.share(pack) <= 1


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Take a pack also where it does not pay, in several pieces: these batches are tiny."""
    monkeypatch.setattr(packing, "MINIMUM_GAIN", 1e9)
    monkeypatch.setattr(packing, "CPU", packing.Grain(32, 64))


def test_plans():
    few(hypothesis.given(batches())(check))()


@pytest.mark.slow
def test_plans_thoroughly():
    many(hypothesis.given(batches())(check))()
