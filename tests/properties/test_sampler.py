"""Whatever the prompts, temperatures, rules and weights: what the sampler returns is whole, finite and the row's own."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from flax import nnx

from entjax import decoding, models
from entjax.sampler import Sampling, make_sampler
from entjax.transform import chain
from tests.sampler.conftest import EOS, VOCAB, World, world  # noqa: F401

NEW = 12
few = hypothesis.settings(
    max_examples=6, deadline=None, database=None, derandomize=True, phases=[hypothesis.Phase.generate]
)
many = hypothesis.settings(few, max_examples=100)


@st.composite
def requests(draw, vocab):
    """(prompts, ids, samples, settings, how sharp the weights are, key)."""
    token = st.integers(0, vocab - 1)
    count = draw(st.integers(1, 4))
    prompts = [draw(st.lists(token, min_size=1, max_size=8)) for _ in range(count)]
    ids = draw(st.lists(st.integers(0, 99), min_size=count, max_size=count, unique=True))
    temperature = draw(st.sampled_from([1.0, 0.01, 0.7, 50.0]))
    rules = chain(
        decoding.top_k(draw(st.integers(1, vocab))), decoding.top_p(draw(st.sampled_from([1.0, 0.5, 1e-6])))
    )
    how = Sampling(
        max_new_tokens=NEW, temperature=temperature, rules=rules, stop_ids=draw(st.lists(token, max_size=2))
    )
    sharpness = draw(st.sampled_from([1.0, 0.0, 1e4]))
    return prompts, ids, draw(st.integers(1, 2)), how, sharpness, draw(st.integers(0, 99))


def check(world: World, vocab, request):  # noqa: F811
    prompts, ids, samples, how, sharpness, seed = request
    params = jax.tree.map(lambda x: x * sharpness if vocab in x.shape else x, world.params)
    run = lambda order: world.sampler.generate(
        params, [prompts[i] for i in order], how, key=jax.random.key(seed), samples=samples,
        prompt_ids=[ids[i] for i in order],
    )  # fmt: skip
    out = run(range(len(prompts)))
    ends = {EOS, *how.stop_ids}
    for row in range(len(prompts) * samples):
        start, end = int(out.prompt_length[row]), int(out.length[row])
        at = np.arange(out.tokens.shape[1])
        assert out.tokens[row, :start].tolist() == prompts[row // samples]
        np.testing.assert_array_equal(out.mask[row], (at >= start) & (at < end))
        completion = out.completion(row)
        assert 1 <= len(completion) <= NEW and all(0 <= t < vocab for t in completion)
        assert not ends & set(completion[:-1])
        assert out.finished[row] == (completion[-1] in ends)
        assert out.finished[row] or len(completion) == NEW
        for name, top in (("logp", 0.0), ("sampled_logp", 0.0), ("entropy", None), ("sampled_entropy", None)):
            x = getattr(out, name)[row]
            assert np.isfinite(x).all() and not x[~out.mask[row]].any(), name
            low, high = (-np.inf, 1e-5) if top == 0.0 else (-1e-5, np.log(vocab) + 1e-4)
            assert (x >= low).all() and (x <= high).all(), name
        assert out.group[row] == ids[row // samples]
    order = list(reversed(range(len(prompts))))
    turned = run(order)
    for new, old in enumerate(i * samples + s for i in order for s in range(samples)):
        assert turned.completion(new) == out.completion(old)


def test_any_request(world):  # noqa: F811
    few(hypothesis.given(requests(VOCAB))(lambda request: check(world, VOCAB, request)))()


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [2, VOCAB])
def test_any_request_thoroughly(vocab):
    model = models.Decoder(
        models.tiny(vocab=vocab, width=32, layers=2, heads=4, kv_heads=2), rngs=nnx.Rngs(0)
    )
    sampler = make_sampler(model, eos_ids=[EOS])
    made = World(model, nnx.split(model)[1], sampler)
    many(hypothesis.given(requests(vocab))(lambda request: check(made, vocab, request)))()
