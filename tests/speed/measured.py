"""What update, sampler step and vocabulary pass cost at fixed shapes, in numbers that no other load on a machine changes.

Command:  python -m tests.speed.measured > tests/speed/expected.json     writes down what the code costs now
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import entjax as ej
import tests.conftest  # noqa: F401  the devices of the tests, also when this runs as a script
from entjax import features, packing, vocab
from entjax.aot import hlo
from entjax.models import Decoder, DecoderConfig
from entjax.sampler import Sampling, make_sampler, sequence_keys
from tests.speed.count import flops

CONFIG = DecoderConfig(vocab=1031, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=192, context=256)
PROMPT, NEW, GROUPS, SAMPLES = 40, 24, 4, 4


def cost(jitted, *arguments) -> dict[str, int]:
    """FLOPs that are asked for, and temporary memory that the compiler plans."""
    compiled = jitted.lower(*arguments).compile()
    return {
        "flops": flops(jitted, *arguments),
        "temporary bytes": int(compiled.memory_analysis().temp_size_in_bytes),
    }


def rollout(length: int = PROMPT + NEW) -> ej.Rollout:
    """Groups that share their prompt, every row full."""
    rng = np.random.default_rng(0)
    rows = GROUPS * SAMPLES
    tokens = rng.integers(2, CONFIG.vocab, (rows, length)).astype(np.int32)
    tokens[:, :PROMPT] = np.repeat(tokens[::SAMPLES, :PROMPT], SAMPLES, axis=0)
    mask = np.zeros((rows, length), bool)
    mask[:, PROMPT:] = True
    zeros = np.zeros((rows, length), np.float32)
    return ej.Rollout(
        tokens=tokens, mask=mask, logp=zeros - 7, entropy=zeros + 6, old_logp=None,
        reward=rng.random(rows).astype(np.float32), group=np.repeat(np.arange(GROUPS, dtype=np.int32), SAMPLES),
    )  # fmt: skip


@functools.cache
def updates() -> dict[str, dict[str, int]]:
    """One optimizer step of GRPO: plain rows, and packed."""
    model, found = Decoder(CONFIG, rngs=nnx.Rngs(0)), {}
    for name in ("plain", "packed"):
        state = ej.init_train_state(model, ej.recipes.grpo(), optax.adamw(1e-3), jax.random.key(0))
        step = ej.make_train_step(model, ej.recipes.grpo(), optax.adamw(1e-3), chunk=128)
        batch = rollout()
        pack = packing.plan(batch, packing.Cost.of(CONFIG)) if name == "packed" else None
        assert (name == "packed") == (pack is not None)
        found[f"update, {name}"] = once = cost(step, state, batch, pack)
        if pack is not None:  # all products are in the loop over pieces, which is counted once
            once["flops"] *= int(pack.count[0])
    return found


def sampler_step() -> dict[str, dict[str, int]]:
    """One turn of the decode loop for 16 rows that read 80 slots, or share their prompts and read 32 of their own."""
    model = Decoder(CONFIG, rngs=nnx.Rngs(0))
    sampler, params = make_sampler(model, eos_ids=[1]), nnx.split(model)[1]
    rows = np.repeat(np.arange(GROUPS), SAMPLES)
    keys = sequence_keys(
        jax.random.key(0), np.int32(0), rows.astype(np.int32), np.arange(len(rows), dtype=np.int32)
    )
    prefix = sampler.prefill(params, rollout().tokens[::SAMPLES, :PROMPT].tolist())
    request, slots = sampler.request(Sampling(NEW), rows, keys), sampler.slots(prefix, Sampling(NEW))
    found = {}
    for name, shared, window in (("sampler step", False, 80), ("sampler step, prompts shared", True, 32)):
        state = sampler.device.begin(prefix, request, slots, shared)
        program = jax.jit(
            lambda params, state, steps, w=window: sampler.device.decode(params, state, steps, w)
        )
        found[name] = cost(program, params, state, np.int32(1))
    return found


def vocabulary() -> dict[str, dict[str, int]]:
    """Value and gradients of a loss with entropy, top-p entropy and sum p^2."""
    hidden, head = jnp.ones((4, 64, 64)), jnp.ones((64, 4099))
    tokens = jnp.zeros((4, 64), jnp.int32)

    def per_token(row):
        terms = vocab.entropy(row) + features.top_p_entropy(0.9)(row) + vocab.prob_sq(row)
        return 0.01 * terms - vocab.logp(row), {}

    loss = lambda hidden, head: vocab.sweep(per_token, hidden, head, tokens, {}, chunk=32)[0]
    return {"vocabulary": cost(jax.jit(jax.value_and_grad(loss, (0, 1))), hidden, head)}


def collectives() -> dict[str, dict[str, int]]:
    """What eight devices send each other in one update with weights and rows sharded over all of them."""
    mesh = Mesh(np.asarray(jax.devices()[:8]), ("fsdp",))
    model = Decoder(CONFIG, rngs=nnx.Rngs(0))
    state = ej.init_train_state(model, ej.recipes.grpo(), optax.adamw(1e-3), jax.random.key(0))

    def place(x):
        wide = [i for i in range(jnp.ndim(x)) if x.shape[i] % 8 == 0 and x.shape[i] >= 64]
        spec = [None] * jnp.ndim(x)
        if wide:
            spec[wide[0]] = "fsdp"
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    state = jax.tree.map(place, state)
    rows = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp")))
    batch = rollout().rows(rows)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    chunk = vocab.Chunks(256, head_pieces=1)
    step = ej.make_train_step(model, ej.recipes.grpo(), optax.adamw(1e-3), chunk=chunk, shardings=shardings)
    program = hlo.parse(step.lower(state, batch).compile().as_text())
    found: dict[str, int] = {}
    for one in hlo.collectives(program, 8):
        found[one.kind] = found.get(one.kind, 0) + round(one.times)
    return {"collectives of the update": dict(sorted(found.items()))}


def everything() -> dict:
    return {"jax": jax.__version__} | updates() | sampler_step() | vocabulary() | collectives()


if __name__ == "__main__":
    print(json.dumps(everything(), indent=1))
