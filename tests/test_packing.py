"""Packed places give the losses, gradients and statistics of plain rows; plans are right for every batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import entjax as ej
from entjax import features, packing, passes
from entjax.models import Decoder, DecoderConfig, Rope, Sliding

CONFIG = DecoderConfig(
    vocab=17, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=32, qk_norm=True, qkv_bias=True
)
COST = packing.Cost(head=0.1, key=0.001)


def model(**changes):
    return Decoder(CONFIG.replace(**changes), rngs=nnx.Rngs(0))


def rollout(groups=(4, 4), prompts=(9, 5), longest=12, length=24, seed=0, holes=True, **changes):
    """Rows of shared prompts, ragged completions, one row without a completion, tool output in the middle of another."""
    rng = np.random.default_rng(seed)
    rows = sum(groups)
    tokens, mask = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
    ends = np.zeros(rows, np.int32)
    group = np.repeat(np.arange(len(groups)), groups).astype(np.int32)
    starts = [rng.integers(1, 17, n) for n in prompts]
    for row in range(rows):
        prompt = starts[group[row]]
        size = int(rng.integers(1, longest + 1))
        ends[row] = len(prompt) + size
        tokens[row, : len(prompt)] = prompt
        tokens[row, len(prompt) : ends[row]] = rng.integers(1, 17, size)
        mask[row, len(prompt) : ends[row]] = True
    if holes:
        mask[1] = False
        mask[2, ends[2] - 3 : ends[2] - 1] = False
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    logp = -jnp.abs(draw(rows, length)) - 2.0
    made = ej.Rollout(
        tokens=jnp.asarray(tokens), mask=jnp.asarray(mask), logp=logp, entropy=jnp.abs(draw(rows, length)),
        old_logp=logp + 0.1 * draw(rows, length), reward=draw(rows), group=jnp.asarray(group), temperature=0.9,
    )  # fmt: skip
    return made.replace(**changes)


def rich_objective(surrogate=ej.surrogates.ppo_clip):
    """Reads, remembered features, a reference, a term on whole distributions, statistics over the minibatch."""
    return ej.Objective(
        per_rollout=ej.chain(ej.advantages.group_normalize()),
        per_step=ej.chain(
            ej.weights.steer(minimum=0.8), ej.regularizers.full_kl(coef=0.05), ej.regularizers.entropy(coef=0.01),
            ej.regularizers.kl(coef=0.1),
        ),
        per_token=surrogate,
    )  # fmt: skip


@pytest.fixture
def always(monkeypatch):
    """Take a pack also where it does not pay, in several pieces: these batches are tiny."""
    monkeypatch.setattr(packing, "MINIMUM_GAIN", 1e9)
    monkeypatch.setattr(packing, "CPU", packing.Grain(32, 64))


def run(objective, batch, packed, *, decoder=None, minibatches=1, microbatches=1, scored=True):
    decoder = decoder or model()
    optimizer = optax.sgd(0.1)
    state = ej.init_train_state(decoder, objective, optimizer, jax.random.key(0))
    if state.reference is not None:
        moved = jax.tree.map(lambda x: x * 1.1, state.reference)
        state = state.replace(reference=moved)
    pack = packing.plan(batch, COST, minibatches=minibatches, microbatches=microbatches) if packed else None
    assert packed == (pack is not None)
    if scored:
        score = ej.make_score(decoder, objective, microbatches=microbatches * minibatches, chunk=16)
        batch = score(state, batch, pack)
    step = ej.make_train_step(
        decoder, objective, optimizer, minibatches=minibatches, microbatches=microbatches, chunk=16
    )
    state, metrics = step(state, batch, pack)
    return state, metrics, batch


def assert_same(one, other, atol=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)


SCANNED, TIED = {"scan_layers": True, "remat": "full"}, {"remat": "dots", "tied": True}
# Shorter than a prompt and than a completion, in the second of two layers.
WINDOWED = {"sliding": Sliding(4, (False, True), Rope(theta=20.0)), "gemma": True, "remat": "full"}


@pytest.mark.parametrize(
    "decoder, minibatches, microbatches",
    [
        (SCANNED, 2, 2),
        (WINDOWED, 2, 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (({}, 1, 1), ({}, 2, 2), (SCANNED, 1, 1), (TIED, 1, 1), (TIED, 2, 2))
        ),
    ],
)
def test_a_packed_step_is_the_plain_step(always, decoder, minibatches, microbatches):
    batch, sizes = rollout(), {"minibatches": minibatches, "microbatches": microbatches}
    plain, metrics, scored = run(rich_objective(), batch, False, decoder=model(**decoder), **sizes)
    packed, more, again = run(rich_objective(), batch, True, decoder=model(**decoder), **sizes)
    assert_same(plain.params, packed.params)
    assert metrics.keys() == more.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], more[name], rtol=1e-4, atol=1e-5, err_msg=name)
    mask = np.asarray(batch.mask)
    np.testing.assert_allclose(np.asarray(scored.old_logp)[mask], np.asarray(again.old_logp)[mask], atol=1e-5)
    for name in ("ref_logp", "entropy"):
        np.testing.assert_allclose(
            np.asarray(scored.extra[name])[mask], np.asarray(again.extra[name])[mask], atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("surrogate", [ej.surrogates.gspo, ej.surrogates.cispo])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_surrogates_of_whole_rows_see_their_rows(always, surrogate, microbatches):
    objective = ej.Objective(per_rollout=ej.advantages.group_normalize(), per_token=surrogate)
    plain, metrics, _ = run(objective, rollout(), False, microbatches=microbatches, scored=False)
    packed, more, _ = run(objective, rollout(), True, microbatches=microbatches, scored=False)
    assert_same(plain.params, packed.params)
    np.testing.assert_allclose(metrics["loss"], more["loss"], rtol=1e-4, atol=1e-6)


def test_gradients_of_the_shared_prompt_are_exact_in_float64(always):
    with jax.enable_x64(True):
        decoder = model(dtype="float64", param_dtype="float64")
        graphdef, params = nnx.split(decoder)
        batch = rollout()
        batch = batch.replace(
            **{n: getattr(batch, n).astype(jnp.float64) for n in ("logp", "old_logp", "entropy", "reward")}
        )
        pack, signal = packing.plan(batch, COST).minibatch(0), ej.Signal.start(batch)

        def loss(params, places=None):
            hidden = passes.forward(graphdef, params, batch, places)
            return ej.policy_loss(ej.Objective(), *hidden, batch, signal, places=places, chunk=16).loss

        plain = jax.value_and_grad(loss)(params)
        pieces = [jax.value_and_grad(loss)(params, pack.piece(i)) for i in range(int(pack.count))]
        assert_same(plain, jax.tree.map(lambda *x: sum(x), *pieces), atol=1e-12)
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain[1])) > 1e-2


@pytest.mark.parametrize("microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_unscored_rollout_gives_the_step_of_a_scored_one(always, microbatches):
    """With one minibatch the policy has not moved: the loss' own log-probs are the old ones."""
    objective, batch = ej.recipes.grpo(), rollout()
    scored, metrics, _ = run(objective, batch, True, microbatches=microbatches)
    unscored, more, _ = run(
        objective, batch.replace(old_logp=None), True, microbatches=microbatches, scored=False
    )
    assert_same(scored.params, unscored.params, atol=1e-6)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], more[name], rtol=1e-4, atol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="old_logp must be computed first"):
        run(objective, batch.replace(old_logp=None), True, minibatches=2, scored=False)


def test_what_needs_scoring_is_found_by_tracing():
    batch = rollout()
    assert not passes.needs_scoring(ej.recipes.grpo(), batch)
    assert passes.needs_scoring(rich_objective(), batch)  # reads and a reference
    assert passes.needs_scoring(ej.Objective(per_rollout=ej.weights.importance()), batch)  # old_logp itself


def test_reads_are_taken_from_the_scoring_pass_only_while_they_hold():
    """The step uses what scoring saw if the state is the one that was scored, and reads the policy again otherwise."""
    objective = ej.Objective(per_step=ej.weights.steer(minimum=0.8))
    decoder, optimizer, batch = model(), optax.sgd(0.5), rollout()
    state = lambda: ej.init_train_state(model(), objective, optimizer, jax.random.key(0))
    step = ej.make_train_step(decoder, objective, optimizer)
    scored = ej.make_score(decoder, objective, reads=True)(state(), batch)
    false = jax.tree.map(jnp.zeros_like, scored.extra["reads"]["values"])
    lied = scored.replace(extra={**scored.extra, "reads": {**scored.extra["reads"], "values": false}})
    no_reads = scored.replace(extra={n: x for n, x in scored.extra.items() if n != "reads"})
    moved = lambda batch, start: step(start, batch)[0].params
    assert_same(moved(scored, state()), moved(no_reads, state()), atol=1e-6)
    different = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(*(jax.tree.leaves(moved(b, state())) for b in (scored, lied)), strict=True)
    )
    assert different > 1e-4  # the given reads were used
    later = lambda: state().replace(step=jnp.asarray(3, jnp.int32))
    assert_same(moved(lied, later()), moved(no_reads, later()), atol=1e-6)  # and here they were not


def test_plain_rows_are_kept_where_a_pack_saves_nothing():
    batch = rollout((1,) * 4, (1, 1, 1, 1), longest=1, length=16, holes=False)
    full = batch.replace(mask=jnp.ones_like(batch.mask).at[:, 0].set(False))
    assert packing.plan(full, packing.Cost(head=0.0, key=0.0)) is None
    assert packing.plan(full.replace(mask=jnp.zeros_like(full.mask)), COST) is None


def test_costs_count_the_matrices():
    small = DecoderConfig(vocab=512, width=256, layers=4, heads=4, kv_heads=2, head_dim=64, mlp=1024)
    cost = packing.Cost.of(small)
    matrices = 4 * (256 * 64 * 12 + 3 * 256 * 1024)
    assert cost.head == pytest.approx(256 * 512 / matrices)
    assert (
        cost.rows(64, 320) / cost.families(4, 256, 16, 64) > 3.5
    )  # 4 x 16 completions of 64 tokens after 256: 20480 to 5120 places


def test_features_with_a_reference_at_places(always):
    batch = rollout()
    graphdef, params = nnx.split(model())
    other = jax.tree.map(lambda x: 1.2 * x, params)
    wanted = {"kl": features.reverse_kl, "ref_logp": passes.reference_logp}
    rows = passes.policy_features(graphdef, params, other, batch, wanted, 16)
    pack = packing.plan(batch, COST).minibatch(0)
    assert pack.count > 1
    seen = np.zeros_like(batch.mask)
    for index in range(int(pack.count)):
        places = pack.piece(index)
        found = passes.policy_features(graphdef, params, other, batch, wanted, 16, places)
        there = np.asarray(places.scatter(places.taken(), jnp.zeros_like(batch.mask)))
        assert there.any()
        seen |= there
        for name, values in places.scatter(found, rows).items():
            np.testing.assert_allclose(
                np.asarray(values)[there], np.asarray(rows[name])[there], atol=1e-5, err_msg=name
            )
    assert seen[np.asarray(batch.mask)].all()


def test_batches_of_other_lengths_run_the_same_program(always):
    """The number of pieces is no shape: one compilation for batches of one to all pieces, each the step of plain rows."""
    objective, optimizer, decoder, counts = ej.recipes.grpo(), optax.sgd(0.1), model(), set()
    step = ej.make_train_step(decoder, objective, optimizer, chunk=16)
    state = lambda: ej.init_train_state(model(), objective, optimizer, jax.random.key(0))
    longest = rollout(groups=(8, 8), prompts=(9, 9), length=32, holes=False)
    places, row = np.arange(32), np.arange(16)[:, None]
    for length in (2, 4, 8):
        ends = np.where(row == 0, 9 + 16, 9 + length)
        batch = longest.replace(mask=jnp.asarray((places >= 9) & (places < ends)))
        pack = packing.plan(batch, COST._replace(head=1.0))
        counts.add(int(pack.count[0]))
        packed, _ = step(state(), batch, pack)
        plain, _ = step(state(), batch)
        assert_same(packed.params, plain.params)
    assert len(counts) == 3
    assert step._cache_size() == 2


def test_the_shape_of_the_last_pack_is_kept_while_it_costs_little_more(always, monkeypatch):
    """Two, four and eight bins a family suit these batches best; two cost 1.11 and 1.18 times as much for the others."""
    monkeypatch.setattr(packing, "KEEP", 1.15)
    longest = rollout(groups=(8, 8), prompts=(9, 9), length=32, holes=False)
    places, row, cost = np.arange(32), np.arange(16)[:, None], COST._replace(head=1.0)

    def batch(length):
        ends = np.where(row == 0, 9 + 16, 9 + length)
        return longest.replace(mask=jnp.asarray((places >= 9) & (places < ends)))

    bins = lambda pack: pack.places.row.shape[-2]
    planner, alone = packing.Planner(cost), packing.plan(batch(5), cost)
    assert bins(planner(batch(4))) == 2 and bins(alone) == 4
    assert bins(planner(batch(5))) == 2
    assert bins(planner(batch(16))) == planner.bins == 8
    assert bins(planner(batch(5))) == 4


@pytest.mark.parametrize("microbatches", [1, 2, 4, 16])
def test_no_piece_is_larger_than_a_microbatch_of_rows(always, monkeypatch, microbatches):
    monkeypatch.setattr(packing, "CPU", packing.Grain(1, 10**6))
    batch = rollout(groups=(8, 8), prompts=(9, 9), longest=16, length=32, holes=False)
    pack = packing.plan(batch, COST, microbatches=microbatches)
    families, k, length = pack.places.row.shape[2:]
    assert families * (pack.places.width + k * length) <= 16 * (pack.places.width + length) / microbatches


def test_an_accelerator_gets_larger_pieces(monkeypatch):
    batch = rollout(groups=(8,) * 40, prompts=(60,) * 40, longest=60, length=120, holes=False)
    packs = {}
    for backend in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(packing.jax, "default_backend", lambda backend=backend: backend)
        packs[backend] = packing.plan(batch, COST)
    sizes = {backend: pack.places.size for backend, pack in packs.items()}
    assert sizes["cpu"] < 2048 < sizes["gpu"] == sizes["tpu"] <= 4096
    assert packing.share(packs["gpu"]) > 0.9 * packing.share(packs["cpu"])  # and computes little more
