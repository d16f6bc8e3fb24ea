"""Rows that share the keys and values of their prompt while decoding: the same numbers as a full forward, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from entjax import models
from entjax.models import take_rows
from entjax.sampler import Sampling, Shapes, make_sampler, multiple_of, sequence_keys
from entjax.sampler.generate import shares_prompts

# Of 2, 9 and 15 tokens: the 16 slots of a prompt are nearly empty, half full, nearly full.
PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12, 13, 14, 15], [16, *range(3, 17)]]
NEW, SAMPLES = 12, 4
HOW = Sampling(NEW)


def world(scan_layers: bool = False, dtype=jnp.float32, sliding=None, **shapes):
    size = {"vocab": 29, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "sliding": sliding}
    config = models.tiny(**size, scan_layers=scan_layers, dtype=dtype)
    model = models.Decoder(config, rngs=nnx.Rngs(0))
    params = jax.tree.map(lambda x: x * 2, nnx.split(model)[1])
    nnx.update(model, params)
    sizes = Shapes(multiple_of(8), multiple_of(8), window=multiple_of(8), block=4, **shapes)
    return model, params, make_sampler(model, eos_ids=[1], shapes=sizes)


def begin(sampler, params, share: bool):
    """A state in which every prompt is continued SAMPLES times."""
    source = np.repeat(np.arange(len(PROMPTS), dtype=np.int32), SAMPLES)
    number = np.tile(np.arange(SAMPLES, dtype=np.int32), len(PROMPTS))
    prefix = sampler.prefill(params, PROMPTS)
    request = sampler.request(HOW, source, sequence_keys(jax.random.key(3), np.int32(0), source, number))
    assert shares_prompts(sampler.shapes, prefix, request)
    return sampler.device.begin(prefix, request, sampler.slots(prefix, HOW), shared=share)


def plain_statistics(model, tokens):
    """(log-prob of every token, entropy) of a full forward without a cache, float64."""
    logits = np.asarray((model(jnp.asarray(tokens)[None]) @ model.head())[0], np.float64)[:-1]
    logp = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logp -= logits.max(-1, keepdims=True)
    return logp[np.arange(len(tokens) - 1), tokens[1:]], -(np.exp(logp) * logp).sum(-1)


WINDOWS = models.Sliding(
    6, (True, False), models.Rope(theta=20.0)
)  # shorter than a prompt and than a completion


@pytest.mark.parametrize(
    "scan_layers, sliding", [(False, None), (True, None), (False, WINDOWS), (True, WINDOWS)]
)
def test_statistics_are_those_of_a_full_forward(scan_layers, sliding):
    model, params, sampler = world(scan_layers, sliding=sliding, share=1, shrink=2)
    out = sampler.generate(params, PROMPTS, HOW, key=jax.random.key(7), samples=SAMPLES)
    assert (
        len(np.unique(out.length - out.prompt_length)) > 1
    )  # so rows were decoded in smaller batches at the end
    for row in range(len(PROMPTS) * SAMPLES):
        start, end = out.prompt_length[row], out.length[row]
        logp, entropy = plain_statistics(model, out.tokens[row, :end])
        np.testing.assert_allclose(out.logp[row, start:end], logp[start - 1 :], rtol=0, atol=1e-5)
        np.testing.assert_allclose(out.entropy[row, start:end], entropy[start - 1 :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_rows_get_their_prompts_back(scan_layers):
    """After some steps the cache, taken apart, is the one of rows that had their prompts from the start."""
    _, params, sampler = world(scan_layers, share=1)
    after = lambda share: sampler.device.decode(
        params, begin(sampler, params, share), np.int32(5), 8 if share else 24
    )
    together, apart = after(True), after(False)
    np.testing.assert_array_equal(together.tokens, apart.tokens)
    found = take_rows(together.cache, jnp.arange(len(together.length)))
    assert found.prompts is None and found.slots == apart.cache.slots
    for axis, mine, theirs in ((found.key_slots, found.k, apart.cache.k), (3, found.v, apart.cache.v)):
        for x, y in zip(mine, theirs, strict=True):
            x, y = (np.moveaxis(np.asarray(z), (1, axis), (0, 1)) for z in (x, y))
            for row, length in enumerate(np.asarray(apart.length)):
                np.testing.assert_allclose(x[row, : length - 1], y[row, : length - 1], rtol=1e-5, atol=3e-5)


def test_a_forked_state_goes_on_by_itself():
    _, params, sampler = world(share=1)
    state = sampler.device.decode(params, begin(sampler, params, True), np.int32(3), 8)
    rows = [7, 2, 2, 11]
    fork, whole = sampler.fork(state, rows), sampler.device.decode(params, state, np.int32(9), 16)
    assert fork.cache.prompts is None
    fork = sampler.device.decode(params, fork, np.int32(9), 32)
    np.testing.assert_array_equal(fork.tokens, np.asarray(whole.tokens)[rows])


def test_bfloat16_is_as_close_as_without_sharing():
    _, params, exact = world(share=0)
    how = Sampling(NEW, temperature=0.5)
    runs = {share: world(dtype=jnp.bfloat16, share=share)[2] for share in (0, 1)}
    want = exact.generate(params, PROMPTS, how, key=jax.random.key(1), samples=SAMPLES)
    apart = {}
    for share, sampler in runs.items():
        out = sampler.generate(params, PROMPTS, how, key=jax.random.key(1), samples=SAMPLES)
        same = out.prompt_length  # the first token is drawn behind the same prefix
        row = np.arange(len(same))
        apart[share] = np.abs(out.entropy[row, same] - want.entropy[row, same]).max()
    assert apart[1] <= 2 * apart[0] + 1e-3


def test_prompts_are_kept_once():
    _, params, sampler = world(share=1)
    size = lambda state: sum(x.nbytes for x in jax.tree.leaves(state.cache))
    slots = 16 + 16
    rows = len(PROMPTS) * SAMPLES
    assert size(begin(sampler, params, False)) / size(begin(sampler, params, True)) == pytest.approx(
        rows * slots / (rows * 16 + len(PROMPTS) * 16), rel=0.01
    )


@pytest.mark.parametrize("why", ["short prompts", "never", "one sample", "some wait"])
def test_rows_have_their_own_prompts(why):
    """Where sharing does not pay, or rows do not stay together."""
    shapes = {"short prompts": {"share": 17}, "never": {"share": 0}, "some wait": {"share": 1, "at_once": 8}}
    _, params, sampler = world(**shapes.get(why, {"share": 1}))
    seen, device_begin = [], sampler.device.begin
    watched = sampler.device._replace(begin=lambda *a, **k: seen.append(k["shared"]) or device_begin(*a, **k))
    samples = 1 if why == "one sample" else SAMPLES
    sampler._replace(device=watched).generate(params, PROMPTS, HOW, key=jax.random.key(0), samples=samples)
    assert seen == [False]
