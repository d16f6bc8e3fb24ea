"""generate(): its log-probs are a full forward's, and a sequence depends on nothing but its prompt, key and names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from entjax import decoding, models
from entjax.sampler import Sampling, make_sampler, multiple_of
from entjax.transform import Transform, chain
from tests.sampler.conftest import EOS, HOW, PROMPTS, VOCAB, spell

KEY = jax.random.key(7)


def entropy(logp):
    return -(np.exp(logp) * np.where(np.isfinite(logp), logp, 0)).sum(-1)


def assert_same_sequences(a, b, rows_of_b):
    """The sequences of `a` are the given rows of `b`: tokens exactly, statistics up to rounding."""
    for i, j in enumerate(rows_of_b):
        assert a.completion(i) == b.completion(j)
        assert a.finished[i] == b.finished[j]
        for name in ("logp", "entropy", "sampled_logp", "sampled_entropy"):
            np.testing.assert_allclose(
                getattr(a, name)[i][a.mask[i]], getattr(b, name)[j][b.mask[j]], rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_statistics_are_those_of_a_full_forward(world, temperature):
    rules = chain(decoding.top_k(9), decoding.top_p(0.8))
    how = Sampling(max_new_tokens=12, temperature=temperature, rules=rules)
    out = world.sampler.generate(world.params, PROMPTS, how, key=KEY, samples=2)
    for row in range(8):
        n, start = out.length[row], out.prompt_length[row]
        tokens = out.tokens[row, :n]
        assert tokens[:start].tolist() == PROMPTS[row // 2]
        logp = world.log_probs(tokens, temperature)
        at = np.arange(start, n)
        np.testing.assert_allclose(out.logp[row, at], logp[at, tokens[at]], rtol=0, atol=1e-5)
        np.testing.assert_allclose(out.entropy[row, at], entropy(logp[at]), rtol=0, atol=1e-5)
        # The distribution really sampled from: the nine largest, and of those the nucleus.
        nine = np.where(logp[at] >= np.sort(logp[at], -1)[:, [-9]], logp[at], -np.inf)
        p = np.exp(nine) / np.exp(nine).sum(-1, keepdims=True)
        above = np.where(p[:, None, :] > p[:, :, None], p[:, None, :], 0).sum(-1)
        p = np.where(above < 0.8, p, 0)
        p /= p.sum(-1, keepdims=True)
        chosen = p[np.arange(n - start), tokens[at]]
        assert (chosen > 0).all()
        np.testing.assert_allclose(out.sampled_logp[row, at], np.log(chosen), rtol=0, atol=1e-5)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(out.sampled_entropy[row, at], entropy(np.log(p)), rtol=0, atol=1e-5)


def test_without_rules_the_policy_is_what_is_sampled(world):
    out = world.sampler.generate(world.params, PROMPTS, HOW, key=KEY)
    np.testing.assert_array_equal(out.logp, out.sampled_logp)
    np.testing.assert_array_equal(out.entropy, out.sampled_entropy)


def test_mask_length_and_end(world):
    out = world.sampler.generate(world.params, PROMPTS, HOW, key=KEY, samples=8)
    assert out.tokens.shape == (32, 8 + 16)
    assert 3 < out.finished.sum() < 30  # both ways to end occur
    for row in range(32):
        start, n = out.prompt_length[row], out.length[row]
        inside = (np.arange(24) >= start) & (np.arange(24) < n)
        np.testing.assert_array_equal(out.mask[row], inside)
        completion = out.completion(row)
        assert EOS not in completion[:-1]
        assert out.finished[row] == (completion[-1] == EOS)
        assert out.finished[row] or len(completion) == 12
        assert not out.tokens[row, n:].any() and not out.logp[row, ~inside].any()
    np.testing.assert_array_equal(out.group, np.repeat([0, 1, 2, 3], 8))


def test_samples_steps_and_keys_differ(world):
    run = lambda **more: world.sampler.generate(world.params, PROMPTS[:1], HOW, samples=8, **more)
    first = run(key=KEY)
    assert len({tuple(first.completion(i)) for i in range(8)}) == 8
    assert_same_sequences(run(key=KEY), first, range(8))
    for other in (run(key=KEY, step=1), run(key=jax.random.key(8)), run(key=KEY, prompt_ids=[3])):
        assert [other.completion(i) for i in range(8)] != [first.completion(i) for i in range(8)]


def test_the_layout_of_the_batch_does_not_matter(world):
    whole = world.sampler.generate(
        world.params, PROMPTS, HOW, key=KEY, samples=3, prompt_ids=[10, 11, 12, 13]
    )
    order = [2, 0, 3, 1]
    turned = world.sampler.generate(
        world.params, [PROMPTS[i] for i in order], HOW, key=KEY, samples=3, prompt_ids=[10 + i for i in order]
    )
    assert_same_sequences(turned, whole, [3 * i + s for i in order for s in range(3)])
    small = world.with_shapes(rows=multiple_of(1))
    part = small.generate(world.params, PROMPTS[1:2], HOW, key=KEY, samples=2, prompt_ids=[11])
    assert_same_sequences(part, whole, [3, 4])
    np.testing.assert_array_equal(part.group, [11, 11])
    wide = world.with_shapes(prompt=multiple_of(32), rows=multiple_of(5), window=multiple_of(16), block=3)
    padded = wide.generate(world.params, PROMPTS, HOW, key=KEY, samples=3, prompt_ids=[10, 11, 12, 13])
    assert_same_sequences(padded, whole, range(12))


def test_rows_that_end_make_room_for_those_that_wait(world):
    whole = world.sampler.generate(world.params, PROMPTS, HOW, key=KEY, samples=6)
    narrow = world.with_shapes(at_once=5, block=2, rows=multiple_of(1))
    assert_same_sequences(narrow.generate(world.params, PROMPTS, HOW, key=KEY, samples=6), whole, range(24))


def test_the_last_ones_go_on_in_a_smaller_batch(world):
    how = dataclasses.replace(HOW, stop_ids=range(8, 14))  # lengths that differ
    whole = world.sampler.generate(world.params, PROMPTS, how, key=KEY, samples=6)
    small, sizes = world.with_shapes(shrink=3, block=2, rows=multiple_of(1)), []

    def fork(state, rows, key):
        sizes.append(len(rows))
        return small.device.fork(state, rows, key)

    spied = small._replace(device=small.device._replace(fork=fork))
    assert_same_sequences(spied.generate(world.params, PROMPTS, how, key=KEY, samples=6), whole, range(24))
    assert sizes
    assert set(sizes) <= {12, 6, 3}
    assert sizes == sorted(sizes, reverse=True)


def test_a_temperature_for_each_sequence(world):
    temperature = [0.3, 1.0, 2.0, 1.0]
    mixed = world.sampler.generate(
        world.params, PROMPTS[:2], dataclasses.replace(HOW, temperature=temperature), key=KEY, samples=2
    )
    for row, value in enumerate(temperature):
        alone = dataclasses.replace(HOW, temperature=value)
        out = world.sampler.generate(world.params, PROMPTS[:2], alone, key=KEY, samples=2)
        assert mixed.completion(row) == out.completion(row)


def test_greedy_follows_the_mode(world):
    out = world.sampler.generate(
        world.params, PROMPTS, dataclasses.replace(HOW, rules=decoding.greedy()), key=KEY
    )
    for row in range(4):
        tokens = out.tokens[row, : out.length[row]]
        mode = world.log_probs(tokens).argmax(-1)
        np.testing.assert_array_equal(tokens[out.mask[row, : len(tokens)]], mode[out.prompt_length[row] :])
    assert not out.sampled_logp.any() and not out.sampled_entropy.any()
    assert (out.entropy[out.mask] > 0.5).all()


def test_stop_ids(world):
    free = world.sampler.generate(world.params, PROMPTS, HOW, key=KEY, samples=8)
    stop = free.completion(0)[3]
    out = world.sampler.generate(
        world.params, PROMPTS, dataclasses.replace(HOW, stop_ids=[stop]), key=KEY, samples=8
    )
    for row in range(32):
        want = free.completion(row)
        if stop in want:
            want = want[: want.index(stop) + 1]
            assert out.finished[row]
        assert out.completion(row) == want


@pytest.mark.parametrize("block", [1, 5, 32])
def test_stop_strings_end_at_the_token_that_completes_them(world, block):
    stops = ["c!", "g", "po"]
    free = world.sampler.generate(world.params, PROMPTS, HOW, key=KEY, samples=8)
    how = dataclasses.replace(HOW, stop_strings=stops)
    out = world.with_shapes(block=block).generate(world.params, PROMPTS, how, key=KEY, samples=8)
    cut = 0
    for row in range(32):
        full = free.completion(row)
        ends = [n for n in range(1, len(full) + 1) if any(s in spell(full[:n]) for s in stops)]
        want = full[: ends[0]] if ends else full
        cut += len(want) < len(full)
        assert out.completion(row) == want
        assert out.finished[row] == (bool(ends) or full[-1] == EOS)
        inside = np.arange(24) < len(want) + out.prompt_length[row]
        assert not out.tokens[row, ~inside].any() and not out.mask[row, ~inside].any()
        assert not out.logp[row, ~inside].any()
    assert cut > 8


def test_nothing_is_compiled_again(world):
    """Other lengths within a bucket, temperatures, values of rules that are built again, stop ids, weights, keys."""
    run = lambda prompts, seed=0, p=0.9, k=5, **more: world.sampler.generate(
        jax.tree.map(lambda x: x * (1 + 0.01 * seed), world.params),
        prompts,
        Sampling(max_new_tokens=12, rules=chain(decoding.top_k(k), decoding.top_p(p)), **more),
        key=jax.random.key(seed),
        step=seed,
        samples=2,
    )
    run(PROMPTS, 3)
    run(PROMPTS, 3)
    compiled = []
    listener = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        run([[4] * 7, [5], [6] * 3, [7] * 8], 4)
        run(PROMPTS, 5, temperature=0.5)
        run(PROMPTS, 6, temperature=np.linspace(0.5, 2, 8).tolist())
        run(PROMPTS, 7, p=0.4, k=11, stop_ids=[4, 5])
        assert compiled == []
        run([[4] * 9] * 4, 8)  # a longer bucket: the counter does count
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def test_a_rule_with_a_state_for_each_row(world):
    """A rule that counts the steps of its row and then forbids all but one token; states move with rows that refill."""
    rule = decoding_countdown()
    how = dataclasses.replace(HOW, rules=chain(rule, decoding.top_p(0.99)))
    for shapes in ({}, {"at_once": 5, "block": 2, "rows": multiple_of(1)}):
        out = world.with_shapes(**shapes).generate(world.params, PROMPTS, how, key=KEY, samples=4)
        for row in range(16):
            completion = out.completion(row)
            assert all(token == 17 for token in completion[4:])
            assert out.finished[row] or len(completion) == 12
    assert any(out.length - out.prompt_length > 4)


def decoding_countdown():
    def update(logits, left, context):
        token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        logits = jnp.where((left[:, None] > 0) | (token == 17), logits, -jnp.inf)
        return logits, left - 1

    return Transform("countdown", lambda logits: jnp.full(logits.shape[0], 4, jnp.int32), update)


@pytest.mark.parametrize(
    ("prompts", "more", "said"),
    [
        ([[]], {}, "Prompt 0 has 0 tokens"),
        ([[1] * 300], {}, "Prompt 0 has 300 tokens"),
        ([[1] * 250], {}, "250 tokens and 12 new ones"),
        ([[1], [2]], {"prompt_ids": [4, 4]}, "different numbers"),
        ([[1]], {"samples": 0}, "at least one"),
        ([[VOCAB]], {}, "token id 29"),
    ],
)
def test_impossible_requests_say_what_to_do(world, prompts, more, said):
    with pytest.raises(ValueError, match=said):
        world.sampler.generate(world.params, prompts, HOW, key=KEY, **more)


def test_impossible_settings_say_what_to_do(world):
    silent = lambda: world.sampler._replace(text=None)
    for make, said in (
        (lambda: Sampling(max_new_tokens=0), "got 0"),
        (lambda: Sampling(temperature=0.0), "greedy"),
        (lambda: Sampling(stop_strings="ab"), "list of non-empty"),
        (lambda: make_sampler(world.model, eos_ids=[VOCAB]), "outside the model's vocabulary"),
        (
            lambda: silent().generate(world.params, [[3]], Sampling(8, stop_strings=["x"]), key=KEY),
            "tokenizer.decode",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_the_weights_are_an_argument(world):
    """Other weights of the same structure, by the same sampler: what the trainer does after each update."""
    other = models.Decoder(world.model.config, rngs=nnx.Rngs(5))
    out = world.sampler.generate(nnx.split(other)[1], PROMPTS, HOW, key=KEY)
    tokens = out.tokens[0, : out.length[0]]
    logp = world._replace(model=other).log_probs(tokens)
    at = np.flatnonzero(out.mask[0])
    np.testing.assert_allclose(out.logp[0, at], logp[at, tokens[at]], rtol=0, atol=1e-5)
