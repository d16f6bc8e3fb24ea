"""From a config to the parts of a run: model, tokenizer, objective, optimizer, compiled functions. Fails before compiling."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

from entjax import distributed
from entjax.checkpoint import CheckpointFault, Checkpoints
from entjax.config import Config, ConfigError, load_config, parse_overrides
from entjax.data import PromptStream, prompts
from entjax.held_out import eval_examples, evaluated_task, kept_back, say_what_is_shared, training_task
from entjax.learning import make_objective, make_optimizer
from entjax.loss import Objective
from entjax.models import Decoder
from entjax.models.lora import split, together
from entjax.packing import Cost, Pack, Planner
from entjax.passes import needs_scoring
from entjax.policy import (
    encode_prompt,
    load_checkpoint,
    make_for_sampler,
    make_layout,
    make_model,
    make_tokenizer,
    split_stops,
)
from entjax.recipes.distillation import DISTILLATION
from entjax.rehearsal import rehearse
from entjax.rollouts import Strategy
from entjax.rollouts.harvest import Tools, same_text
from entjax.rollouts.inputs import check_inputs
from entjax.rollouts.stepper import Stepper
from entjax.room import with_room
from entjax.sampler import Sampler, Sampling, Shapes, make_sampler
from entjax.sampler.shapes import Bucket
from entjax.sharding import Layout, MeshError, beside, mirror
from entjax.step import TrainState, make_score, make_train_step, state_of
from entjax.tasks import Example, Limits, Scorer, Task, Tokenizer, scorer
from entjax.tasks.scoring import canonical_of
from entjax.teacher import Teacher, make_teacher
from entjax.transform import NOTHING
from entjax.types import Rollout
from entjax.vocab import Chunks


class Parts(NamedTuple):
    """Everything of a run that does not change while it goes."""

    config: Config
    model: nnx.Module  # with shapes for weights where a checkpoint was restored
    tokenizer: Tokenizer
    objective: Objective
    optimizer: optax.GradientTransformation
    sampler: Sampler
    score: Any
    step: Any
    plan: Planner  # where the passes of a batch compute its tokens
    scorer: Scorer
    eval_scorer: Scorer  # the same where the evaluation has the same verifier
    strategy: Strategy
    stream: PromptStream
    eval_examples: list[Example]
    layout: Layout | None = None  # None: one device
    for_sampler: Callable[[Any], Any] | None = (
        None  # the trainer's weights laid out for the sampler; None: as they are
    )
    teacher: Teacher | None = None

    @property
    def eval_task(self) -> Task:
        """Where held-out prompts come from, and how their answers are judged."""
        return evaluated_task(self.config)

    def close(self) -> None:
        """End the verifiers' processes."""
        self.scorer.close()
        self.eval_scorer.close()

    def fresh_state(self, params: Any = None) -> TrainState:
        """The state before the first step, with these weights or the model's, not copied: the first step takes their memory. On a
        mesh every device makes its own pieces."""
        params, key = nnx.state(self.model) if params is None else params, jax.random.key(self.config.seed)
        plain = self.objective.replace(teacher=None)  # a teacher lies on its devices already
        rest = lambda params: state_of(params, plain, self.optimizer, key).replace(params=None)
        state = beside(rest, params).replace(params=params)
        return state if self.teacher is None else self.teacher.enter(state)

    @property
    def refound(self) -> bool:
        """Are weights that are not trained found again in a folder?"""
        return isinstance(self.config.model, str)

    def first_weights(self) -> Any:
        """The weights that the run began with, made again."""
        return nnx.state(make_model(self.config, self.tokenizer, self.layout))

    def like(self) -> TrainState:
        """A state to restore into: shapes and places only, so that nothing is held twice, and the model's frozen weights."""
        place = None if self.layout is None else self.layout.whole
        key = jax.jit(lambda: jax.random.key(self.config.seed), out_shardings=place)()
        state = abstract_state(self.model, self.objective, self.optimizer, self.layout)
        if self.layout is None:
            state = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=key.sharding), state
            )
        frozen = split(nnx.state(self.model))[1]
        return state.replace(key=key, params=together(split(state.params)[0], frozen))

    def restore(self, checkpoints: Checkpoints, step: int) -> TrainState:
        """The state of a checkpoint. The model keeps shapes of what is trained: the weights are the state's from here on."""
        trained = split(nnx.state(self.model))[0]
        nnx.update(self.model, jax.eval_shape(lambda weights: weights, trained))
        return checkpoints.restore(step, self.like())

    def newest(self, checkpoints: Checkpoints) -> TrainState:
        """The state of the newest checkpoint that can be read; damaged ones are passed over loudly."""
        fault = CheckpointFault("The run holds no checkpoint yet: come back after the first save.")
        for step in reversed(checkpoints.steps()):
            try:
                return self.restore(checkpoints, step)
            except CheckpointFault as damaged:
                fault = damaged
                print(f"Checkpoint {step} is passed over: {damaged}", file=sys.stderr)
        raise fault

    def tools(self, params: Any, step: int, *, samples: int | None = None, temperature: float | None = None,
              knobs: Mapping[str, Any] = NOTHING, held_out: bool = False) -> Tools:  # fmt: skip
        """What a rollout strategy may use, bound to these weights, this step and the scalars that the last step left."""
        c = self.config
        n = c.samples if samples is None else samples
        base = jax.random.fold_in(jax.random.key(c.seed), 2 if held_out else 1)
        params = self.for_sampler(params) if self.for_sampler else params
        taught = None if self.teacher is None or held_out else (self.teacher.sampler, self.teacher.params)
        policy_temperature = c.temperature if temperature is None else temperature
        chosen = self.objective.rules if c.rules is None else c.rules
        rules = None if held_out else chosen(knobs) if callable(chosen) else chosen
        stops = split_stops(c, self.tokenizer)

        def draw(count: int) -> list[Example]:
            return self.stream.take(count)

        def of(sampler: Sampler, params: Any, base: Any, teacher: Tools | None = None) -> Tools:
            def generate(tokens: Sequence[Sequence[int]], *, samples=n, prompt_ids=None, temperature=policy_temperature,
                         rules=rules, key=base):  # fmt: skip
                how = Sampling(c.max_new_tokens, temperature, rules, *stops)
                return sampler.generate(
                    params, tokens, how, key=key, step=step, samples=samples, prompt_ids=prompt_ids
                )

            how = Sampling(c.max_new_tokens, policy_temperature, rules, *stops)
            stepper = Stepper(sampler, params, how, base, step, text.encode, text.decode)
            return Tools(
                generate, self.encode, text.decode, score, draw, n, stepper, canonical, seed, teacher
            )

        text, seed = self.tokenizer, (c.seed, step, int(held_out))
        task, judge = (self.eval_task, self.eval_scorer) if held_out else (c.task, self.scorer)
        score, canonical = distributed.scoring(judge.score), canonical_of(task) or same_text
        # A teacher numbers its prompts from 0 too; with the same key an equal model would write the student's text.
        return of(
            self.sampler, params, base, None if taught is None else of(*taught, jax.random.fold_in(base, 1))
        )

    def encode(self, example: Example) -> list[int]:
        """The prompt's token ids, as the model reads them in rollouts, evaluations and the warm start."""
        return encode_prompt(self.config, self.tokenizer, example.prompt)


def config_of(workdir: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run directory that is looked at, with key=value changes. A mesh of the run that does not fit these devices
    is left out, and told; one that is asked for must fit."""
    changes = parse_overrides(list(overrides))
    as_run = load_config(workdir / "config.py")
    config, kept = as_run.override(changes), kept_back(as_run)
    if kept is not None and config.eval_prompts > kept:
        raise ConfigError(
            f"The run kept {kept} examples of {config.task.name} for its evaluation and trained on the others: "
            f"eval_prompts may be {kept} at most, got {config.eval_prompts}."
        )
    try:
        make_layout(config)
    except MeshError as error:
        if "mesh" in changes:
            raise
        print(f"Going on without a mesh, on one device: {error}", file=sys.stderr)
        config = dataclasses.replace(config, mesh={})
    return config if config.mesh else dataclasses.replace(config, sampler_sharding=None)


def build(config: Config) -> Parts:
    """All parts of a run."""
    tokenizer = make_tokenizer(config)
    split_stops(config, tokenizer)  # refuses what could never match
    objective = make_objective(config)
    check_objective(config, objective)
    layout = make_layout(config)
    model = make_model(config, tokenizer, layout)
    encode = lambda example: encode_prompt(config, tokenizer, example.prompt)
    given, config = config, with_room(config, encode, model.config.context)
    sampling = {
        "eos_ids": tokenizer.stop_ids or (tokenizer.eos_id,),
        "pad_id": tokenizer.pad_id,
        "text": tokenizer.decode,
        "rows_sharding": layout and layout.rows,
        "shapes": Shapes(at_once=config.sampler_rows, rows=batches(config)),
    }
    teacher = None
    if config.teacher:
        check_teacher(config, objective)
        loaded = load_checkpoint(config, layout, config.teacher)
        teacher = make_teacher(loaded, model, objective, sampling)
        objective = objective.replace(teacher=teacher.model)
    optimizer = make_optimizer(config)
    examples = eval_examples(config)
    say_what_is_shared(given, examples)
    return Parts(
        config=config,
        model=model,
        tokenizer=tokenizer,
        objective=objective,
        optimizer=optimizer,
        sampler=make_sampler(model, **sampling),
        score=placed(layout, make_scoring(config, model, objective, layout)),
        step=placed(layout, make_step(config, model, objective, optimizer, layout)),
        plan=make_planner(config, model, layout),
        strategy=config.sampled_by,
        stream=make_stream(config),
        eval_examples=examples,
        layout=layout,
        for_sampler=make_for_sampler(config, layout, model),
        teacher=teacher,
        **make_scorers(config),  # last: they start processes
    )  # fmt: skip


def batches(config: Config) -> Bucket:
    """Numbers of prompts and rows that are compiled: those of every batch as they are; others, of groups that are drawn again or
    of branches, as a power of two or half more."""
    c = config
    whole = {
        c.prompts,
        c.prompts * c.samples,
        c.eval_prompts,
        c.eval_prompts * c.eval_samples,
        c.sampler_rows,
    }

    def bucket(size: int) -> int:
        power = 1 << max(size - 1, 0).bit_length()
        return size if size in whole else 3 * power // 4 if power >= 4 and size <= 3 * power // 4 else power

    return bucket


def check_objective(config: Config, objective: Objective) -> None:
    """Refuse an objective that cannot run, or without the strategy or the teacher that makes it what it is."""
    # What a plain function provides only its author knows.
    if config.strategy is None or isinstance(config.strategy, Strategy):
        provided = config.sampled_by.provides
        try:
            check_inputs(objective.needs, provided)
            if config.objective is not None or config.recipe_options:
                rehearse(objective, config.rows, config.max_new_tokens, provided)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if config.objective is None and config.recipe in DISTILLATION and not config.teacher:
        raise ConfigError(
            f"recipe={config.recipe} learns from a teacher, and without one from its own start, which is nothing: set "
            "teacher=FOLDER."
        )


def check_teacher(config: Config, objective: Objective) -> None:
    """Refuse a teacher that nothing of the run would ask; a strategy may, which only its author knows."""
    supervised = config.sft_loss is not None and config.sft_loss.teacher
    if not (objective.needs_reference or supervised or config.strategy):
        raise ConfigError(
            f"teacher={config.teacher}, but nothing looks at it: choose an objective with a reference policy (recipe=distill), "
            "an sft_loss with a teacher, or a strategy that lets it write; or leave teacher out."
        )


def make_scorers(config: Config) -> dict[str, Scorer]:
    """What judges the answers of a run: of its training task, and of its evaluation."""
    task, held_out = config.task, evaluated_task(config)
    seconds = config.verifier_seconds
    limits = Limits(seconds=seconds, wall_seconds=max(Limits().wall_seconds, 6 * seconds))
    make = functools.partial(scorer, workers=config.verifier_workers, limits=limits)
    train = make(task)
    same = held_out is task or (task.verifier is not None and task.verifier == held_out.verifier)
    return {"scorer": train, "eval_scorer": train if same else make(held_out)}


def make_stream(config: Config) -> PromptStream:
    """This process's share of the prompts."""
    index, count = distributed.share()
    return prompts(
        training_task(config),
        seed=config.seed,
        batch=config.prompts,
        process_index=index,
        process_count=count,
    )


def chunk_of(config: Config, layout: Layout | None) -> Chunks:
    """Tokens whose logits exist at one time, over all devices: `chunk` counts those of one device."""
    return Chunks(config.chunk * layout.row_shards, head_pieces=1) if layout else Chunks(config.chunk)


def make_scoring_pass(
    config: Config, model: nnx.Module, objective: Objective, layout: Layout | None
) -> Callable[..., Rollout]:
    """The compiled scoring pass of a run."""
    pieces = config.microbatches * config.minibatches
    return make_score(model, objective, microbatches=pieces, chunk=chunk_of(config, layout), reads=True)


def scored(config: Config, objective: Objective, rollout: Rollout) -> bool:
    """Is this rollout scored before it is used? Its only update can do without if nothing asks for what the pass finds."""
    return config.minibatches > 1 or config.lag > 0 or needs_scoring(objective, rollout)


def make_scoring(config: Config, model: nnx.Module, objective: Objective, layout: Layout | None) -> Any:
    """The scoring of a run: the compiled pass, or nothing where it is not needed."""
    compiled = make_scoring_pass(config, model, objective, layout)
    needed: dict[frozenset, bool] = {}

    def score(state: TrainState, rollout: Rollout, pack: Pack | None = None) -> Rollout:
        inputs = frozenset(rollout.extra)
        if inputs not in needed:
            needed[inputs] = scored(config, objective, rollout)
        return compiled(state, rollout, pack) if needed[inputs] else rollout.replace(old_logp=None)

    return score


def make_planner(config: Config, model: nnx.Module, layout: Layout | None) -> Planner:
    """What finds the packs of a run. Plain rows for a model with dynamic rope, whose frequencies may depend on the length of a
    row, and for one of a kind that has no families."""
    packed = isinstance(model, Decoder) and model.config.rope.kind != "dynamic"
    spread = layout is not None and layout.row_shards > 1
    return Planner(
        Cost.of(model.config) if packed else None,
        minibatches=config.minibatches,
        microbatches=config.microbatches,
        rows=layout.rows if spread else None,
    )


def make_step(
    config: Config,
    model: nnx.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    layout: Layout | None,
) -> Any:
    """The compiled update of a run."""
    shardings = None
    if layout is not None:
        state = abstract_state(model, objective, optimizer, layout)
        shardings = jax.tree.map(lambda x: x.sharding, state).replace(
            signal_state=layout.whole, knobs=layout.whole
        )
    return make_train_step(
        model, objective, optimizer,
        microbatches=config.microbatches, minibatches=config.minibatches, chunk=chunk_of(config, layout),
        shardings=shardings,
    )  # fmt: skip


def abstract_state(
    model: nnx.Module, objective: Objective, optimizer: optax.GradientTransformation, layout: Layout | None
) -> TrainState:
    """Shapes, types and (on a mesh) shardings of the state of a run; `model` may hold shapes instead of arrays."""
    params = nnx.split(model)[1]
    state = jax.eval_shape(lambda params: state_of(params, objective, optimizer, jax.random.key(0)), params)
    if layout is None:
        return state
    shardings = mirror(state, params, layout.weights(params))
    if objective.teacher is not None:
        shardings = shardings.replace(reference=layout.weights(nnx.state(objective.teacher, nnx.Param)))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def placed(layout: Layout | None, f: Callable) -> Callable:
    """f(state, rollout, pack) with the rows and families of a batch from the host put on the devices that own them."""
    if layout is None:
        return f
    return lambda state, rollout, pack=None: f(state, layout.rollout(rollout), layout.pack(pack))
