"""The programs of a run compiled for a TPU slice on a machine without TPUs: do they fit, what do they move, how fast at best?

The update step, the scoring pass, the copy of the weights for the sampler and the sampler's prefill and decode step are the very
functions that `entjax train` runs, lowered for the shapes and shardings of a config and compiled by libtpu for a named topology.
Shown by this: HBM per chip, collectives, traffic, and the time that the chip's published ceilings allow. Not shown: numerics
and real speed.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from entjax import setup
from entjax.aot import hlo
from entjax.aot.chips import Chip, chip_of
from entjax.aot.flops import Work, work_of
from entjax.config import Config
from entjax.learning import make_objective, make_optimizer
from entjax.models import Decoder, DecoderConfig
from entjax.models.known import architecture
from entjax.packing import Pack, bucket
from entjax.policy import make_for_sampler
from entjax.sampler import Sampling, Shapes, make_sampler, sequence_keys
from entjax.sampler.generate import shares_prompts
from entjax.sampler.state import DecodeState, Prefix, by_row
from entjax.sharding import Layout, make_mesh, sampled_as
from entjax.step import make_score
from entjax.types import Rollout

PROGRAMS = ("update", "score", "reshard", "prefill", "decode")
USABLE = 0.96  # of HBM; the runtime keeps the rest
DECODE_STEPS = 128  # tokens per call of the decode loop, over which what happens once a call is spread


class Sizes(NamedTuple):
    """The shapes of a run."""

    rows: int
    length: int
    prompts: int
    prompt: int
    new: int
    at_once: int  # rows that are decoded at the same time


class Plan(NamedTuple):
    """A config on a slice: everything that compilation needs, as shapes."""

    config: Config
    chip: Chip
    layout: Layout
    model: Any  # a Decoder with shapes for weights
    sizes: Sizes

    @property
    def architecture(self) -> DecoderConfig:
        return self.model.config

    @property
    def chips(self) -> int:
        return self.layout.mesh.size // self.chip.devices

    @property
    def weights_of_device(self) -> int:
        """Bytes of the trainer's weights on one device."""
        weights = jax.tree.leaves(_state(self).params)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in weights)

    @property
    def scored(self) -> bool:
        """Does this run score its rollouts?"""
        return setup.scored(self.config, make_objective(self.config), rollout_shapes(self))

    @property
    def reads(self) -> float:
        """The share of the minibatches that read the policy in the update; the scoring pass has read it for the first."""
        asked = bool(make_objective(self.config).per_step.reads)
        return asked * (1 - self.scored / self.config.minibatches)

    @property
    def wanted(self) -> list[str]:
        """The programs of this run, in the order of the table."""
        own = self.config.sampler_sharding is not None
        return ["update", *["score"] * self.scored, *["reshard"] * own, "prefill", "decode"]


class Report(NamedTuple):
    """One compiled program, per device where not said otherwise."""

    program: str
    seconds: float  # of compilation
    cpu: float  # seconds of all cores of this machine
    arguments: int  # bytes
    temporaries: int
    peak: int  # as the compiler gives it; None where it does not
    collectives: dict[str, float]  # bytes sent
    traffic: float
    work: Work
    fault: str = ""  # why it could not be compiled

    @property
    def needed(self) -> int:
        """Bytes of HBM that the program needs: the larger of the compiler's two answers."""
        return max(self.arguments + self.temporaries, self.peak)


WITHOUT_TPU = {  # libtpu asks the machine about its TPU unless told, and allows one process at a time
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology_devices(topology: str) -> list[Any]:
    """The devices of a slice that is not there."""
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("compile needs libtpu, which also runs without a TPU: pip install 'entjax[tpu]'.")
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (RuntimeError, ValueError) as error:  # JAX's own errors are RuntimeErrors
        raise ValueError(
            f"--topology {topology}: libtpu gives no such slice ({str(error).splitlines()[0]})."
        ) from error


def sizes_of(config: Config, **changes: Any) -> DecoderConfig:
    """The decoder of a config; `model_options` are for one in a folder."""
    options = {} if isinstance(config.model, DecoderConfig) else config.model_options
    return architecture(config.model, **{**options, **changes})


def plan(
    config: Config, topology: str, *, prompt: int = 512, mesh: dict[str, int] | None = None, **changes: Any
) -> Plan:
    """A config on a slice; `changes` are fields of the model (remat, dtype ...)."""
    chip = chip_of(topology)
    layout = Layout(
        make_mesh(mesh or dict(config.mesh) or {"fsdp": -1}, topology_devices(topology)), config.sharding
    )
    layout.check(config)
    sizes = sizes_of(config, **changes)
    model = nnx.eval_shape(lambda: Decoder(sizes, rngs=nnx.Rngs(0), constrain=layout.constrain))
    if prompt + config.max_new_tokens > sizes.context:
        raise ValueError(
            f"{prompt} prompt tokens and max_new_tokens={config.max_new_tokens} exceed the model's context of {sizes.context}."
        )
    rows = config.rows
    shapes = Sizes(
        rows=rows, length=bucket(prompt + config.max_new_tokens), prompts=config.prompts, prompt=prompt,
        new=config.max_new_tokens, at_once=min(rows, config.sampler_rows),
    )  # fmt: skip
    return Plan(config, chip, layout, model, shapes)


def lowering(p: Plan) -> dict[str, Any]:
    """name -> a function that lowers the program."""
    return {
        "update": lambda: _update(p),
        "score": lambda: _score(p),
        "reshard": lambda: _reshard(p),
        "prefill": lambda: _prefill(p),
        "decode": lambda: _decode(p),
    }


def compile_program(p: Plan, name: str) -> Report:
    """Compile one program and read what it needs and moves."""
    started, cpu = time.perf_counter(), time.process_time()
    spent = lambda: (time.perf_counter() - started, time.process_time() - cpu)
    work = work_of(p.architecture, p.sizes, name, reads=p.reads)
    try:
        compiled = lowering(p)[name]().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        return Report(name, *spent(), 0, 0, 0, {}, 0, work, _first_sentence(str(error)))
    memory = compiled.memory_analysis()
    calls = DECODE_STEPS if name == "decode" else 1
    # The update's one conditional is the reading of the policy, left out where the scoring pass has done it.
    program = hlo.parse(
        compiled.as_text(), open_loops=_pieces(p, name), branches=p.reads if name == "update" else 1.0
    )
    moved: dict[str, float] = {}
    for one in hlo.collectives(program, p.layout.mesh.size):
        moved[one.kind] = moved.get(one.kind, 0.0) + one.total / calls
    return Report(
        name,
        *spent(),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes,
        int(getattr(memory, "peak_memory_in_bytes", 0) or 0),
        moved,
        hlo.traffic(program) / calls,
        work,
    )


def _first_sentence(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "Used" in line or "Ran out" in line]
    return (lines or text.splitlines())[0][:200]


# The programs ---------------------------------------------------------------------------------------------------------------


def rollout_shapes(p: Plan) -> Rollout:
    """A batch as it comes from the sampler."""
    b, t = p.sizes.rows, p.sizes.length
    rows = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=p.layout.rows)
    wide = jnp.float32
    return Rollout(
        tokens=rows(jnp.int32, b, t), mask=rows(bool, b, t), logp=rows(wide, b, t), entropy=rows(wide, b, t),
        old_logp=rows(wide, b, t), reward=rows(wide, b), group=rows(jnp.int32, b),
        temperature=jax.ShapeDtypeStruct((), wide, sharding=p.layout.whole),
    )  # fmt: skip


def rollout_of(p: Plan, lengths: Any) -> Rollout:
    """A batch whose groups share their prompts, with completions of these lengths."""
    rows, length = p.sizes.rows, p.sizes.length
    tokens, place = np.zeros((rows, length), np.int32), np.arange(length)
    tokens[:, 0] = np.arange(rows) * p.sizes.prompts // rows
    mask = (place >= p.sizes.prompt) & (place < p.sizes.prompt + np.reshape(lengths, (-1, 1)))
    return rollout_shapes(p).replace(tokens=tokens, mask=np.broadcast_to(mask, tokens.shape))


def packed(p: Plan) -> Pack | None:
    """The places of a batch of full rows: as many pieces as a run can need."""
    return setup.make_planner(p.config, p.model, p.layout)(rollout_of(p, p.sizes.new))


def pack_shapes(p: Plan, pack: Pack | None) -> Pack | None:
    """The shapes of a pack, on their devices."""
    if pack is None:
        return None
    shape = lambda sharding: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return Pack(jax.tree.map(shape(p.layout.families), pack.places), shape(p.layout.whole)(pack.count))


def _pieces(p: Plan, name: str) -> int:
    """How often the loop of a program runs whose length is known at run time only."""
    if name == "decode":
        return DECODE_STEPS
    found = packed(p) if name in ("update", "score") else None
    return 1 if found is None else int(found.count.sum() if name == "score" else found.count.max())


def _state(p: Plan) -> Any:
    return setup.abstract_state(p.model, make_objective(p.config), make_optimizer(p.config), p.layout)


def _score(p: Plan) -> Any:
    score = setup.make_scoring_pass(p.config, p.model, make_objective(p.config), p.layout)
    return score.lower(_state(p), rollout_shapes(p), pack_shapes(p, packed(p)))


def _update(p: Plan) -> Any:
    return lower_update(p, packed(p))


def lower_update(p: Plan, pack: Pack | None) -> Any:
    """The update for the places of a pack, or for plain rows."""
    objective, optimizer = make_objective(p.config), make_optimizer(p.config)
    step = setup.make_step(p.config, p.model, objective, optimizer, p.layout)
    return step.lower(_state(p), scored_rollout(p), pack_shapes(p, pack))


def scored_rollout(p: Plan) -> Rollout:
    """A batch as it comes from the scoring pass: rows stay with their devices, scalars are everywhere."""
    rollout = rollout_shapes(p)
    if not p.scored:
        return rollout.replace(old_logp=None)
    objective = make_objective(p.config)
    shapes = jax.eval_shape(make_score(p.model, objective, reads=True), _state(p), rollout)
    place = lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=p.layout.rows if x.ndim and x.shape[0] == p.sizes.rows else p.layout.whole
    )
    return jax.tree.map(place, shapes)


def _reshard(p: Plan) -> Any:
    copy = make_for_sampler(p.config, p.layout, p.model)
    if copy is None:
        raise ValueError(
            "The sampler of this config uses the trainer's weights: there is no reshard program."
        )
    return copy.lower(_state(p).params)


def _sampler(p: Plan) -> tuple[Any, Any]:
    """(sampler, its weights): laid out by the sampler's rules, in the compute type when those differ from the trainer's."""
    sampler = make_sampler(
        p.model, eos_ids=(0,), rows_sharding=p.layout.rows, shapes=Shapes(at_once=p.config.sampler_rows)
    )
    params = nnx.split(p.model)[1]
    own = p.config.sampler_sharding
    layout = p.layout if own is None else p.layout._replace(rules=own)
    dtype = None if own is None else p.architecture.dtype
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, sampled_as(x, dtype), sharding=s)
    return sampler, jax.tree.map(place, params, layout.weights(params))


def _prompt_arrays(p: Plan, sampler: Any) -> tuple[Any, Any]:
    rows = sampler.shapes.rows(p.sizes.prompts)
    whole = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=p.layout.whole)
    return whole(rows, sampler.shapes.prompt(p.sizes.prompt)), whole(rows)


def _prefill(p: Plan) -> Any:
    sampler, params = _sampler(p)
    return sampler.device.prefill.lower(params, *_prompt_arrays(p, sampler))


def _decode(p: Plan) -> Any:
    sampler, params = _sampler(p)
    prefix: Prefix = jax.eval_shape(sampler.device.prefill, params, *_prompt_arrays(p, sampler))
    how = Sampling(p.sizes.new, p.config.temperature, p.config.rules)
    rows = sampler.shapes.rows(min(p.sizes.rows, sampler.shapes.at_once))
    source = np.arange(rows, dtype=np.int32) // (p.sizes.rows // p.sizes.prompts)  # those that sit first
    request = sampler.request(how, source, sequence_keys(jax.random.key(0), np.int32(0), source, source))
    begin = functools.partial(
        sampler.device.begin,
        slots=sampler.slots(prefix, how),
        shared=shares_prompts(sampler.shapes, prefix, request),
    )
    state = jax.eval_shape(begin, prefix, request)
    steps = jax.ShapeDtypeStruct((), jnp.int32, sharding=p.layout.whole)
    slots = state.cache.slots
    return sampler.device.advance.lower(params, _placed(p, state), steps, sampler.window(slots, slots))


def _placed(p: Plan, state: DecodeState) -> DecodeState:
    """The shardings that the sampler gives its state: rows, and key heads where the weights cut them."""
    put = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    cache_axes = (None, "batch", "kv_heads", None, None)
    cache = jax.tree.map(lambda x: put(x, p.layout.of(cache_axes[: x.ndim], x.shape)), state.cache)
    placed = by_row(lambda x: put(x, p.layout.rows), state)
    whole = {name: put(getattr(state, name), p.layout.whole) for name in ("stop", "pad")}
    return placed.replace(cache=cache, **whole)
