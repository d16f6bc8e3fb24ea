"""What a run is: one frozen struct, filled by a Python file with `get_config()`, changed by key=value on the command line.

Everything that can be wrong with a config is found here, before anything is compiled, and said in a sentence.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import itertools
import json
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from entjax.config_checks import DECODER_FIELDS, ConfigError, check_kinds, check_values
from entjax.describe import plain
from entjax.loss import Objective
from entjax.models import DecoderConfig
from entjax.rollouts import Strategy, as_strategy, groups, replay, tempered
from entjax.rollouts.named import strategy_by_name
from entjax.sft import TextLoss
from entjax.sharding import ShardingRules
from entjax.tasks import Task
from entjax.transform import Transform


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. Sizes count prompts, samples, tokens and optimizer steps; the only time is the limit of a verifier."""

    task: Task  # prompts and verifier
    model: DecoderConfig | str  # a new model, or the folder of a Hugging Face checkpoint
    model_options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # of a checkpoint: fields of DecoderConfig, e.g. {"dtype": "bfloat16", "scan_layers": True, "remat": "full"}, and adapter
    recipe: str = "grpo"  # a name of `entjax methods`
    recipe_options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # arguments of the recipe: recipe.NAME=VALUE
    objective: Objective | None = None  # instead of a recipe: your own composition
    eval_task: Task | None = None  # held-out prompts with their verifier; default: of the task itself
    seed: int = 0

    steps: int = 100  # rollout batches
    prompts: int = 32  # per rollout batch, over all processes
    samples: int = 16  # completions per prompt: the group
    max_new_tokens: int = 256
    temperature: float = 1.0
    # Decoding chain of the rollouts, or a function of the knobs that gives one, e.g. decoding.hapo. None: the objective's
    # own, else the policy itself is sampled.
    rules: Transform | Callable[[Mapping[str, Any]], Transform] | None = None
    stop: tuple[str, ...] = ()  # strings, or special tokens, that end a completion
    drop_long_prompts: bool = (
        False  # leave out prompts without room for max_new_tokens instead of refusing them
    )
    verifier_workers: int = 2  # processes that judge answers, where the task has a `verifier` for them
    verifier_seconds: float = 5.0  # processor time per answer there; beyond it the reward is 0
    chat: bool = True  # wrap prompts with the tokenizer's chat template, if it has one
    system: str = ""  # message of the system for the chat template; "": the template's own, if any
    chat_options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # what else the chat template reads, e.g. {"enable_thinking": False} for Qwen3
    dynamic_sampling: int = 0  # how often groups with equal rewards may be drawn again (DAPO); 0: never
    strategy: Callable | None = (
        None  # e.g. ej.rollouts.cure(); None: the recipe's own (aepo, spear), else plain groups
    )

    lr: float = 1e-6
    lr_warmup: int = 0  # optimizer steps of linear warm-up
    lr_decay: str = "constant"  # or "linear", "cosine": to zero at the last step
    weight_decay: float = 0.0
    clip_gradient: float = 1.0  # global norm; 0 never clips
    minibatches: int = 1  # optimizer steps per rollout batch
    microbatches: int = 1  # one optimizer step is computed in at least so many pieces, to save memory
    chunk: int = 2048  # tokens whose logits exist at one time
    # 1: the next batch is sampled, verified and scored beside the update, by the policy before that update; its ratios are to
    # that policy. Not across a save, from which a run that was ended goes on.
    lag: int = 0

    teacher: str | None = (
        None  # folder of a checkpoint: the reference policy; None: the policy before the first step
    )
    sft_steps: int = 0  # supervised steps on worked solutions before the first rollout
    sft_loss: TextLoss | None = None  # e.g. ej.sft.entropy_sft(); None: likelihood
    sft_batch: int = 256
    sft_lr: float = 3e-3

    eval_every: int = 20  # 0: only before and after
    eval_prompts: int = 128
    eval_samples: int = 16
    eval_temperature: float = 1.0  # of the evaluation's samples; its entropy is of the same distribution
    eval_k: tuple[int, ...] = (1, 4, 16)

    save_every: int = 20
    keep: int = 2  # checkpoints kept
    log_samples: int = 4  # completions written per step
    stop_after_skips: int = 10  # give up after so many updates in a row that were not finite
    mesh: Mapping[str, int] = dataclasses.field(
        default_factory=dict
    )  # e.g. {"fsdp": 8}, -1: all that is left; empty: one device, or fsdp over the devices of several processes
    sharding: ShardingRules = dataclasses.field(default_factory=ShardingRules)  # which mesh axes cut what
    sampler_sharding: ShardingRules | None = None  # other rules for the weights while sampling
    sampler_rows: int = 1024  # sequences decoded at the same time: their cache must fit
    profile: str = (
        ""  # "10:12" writes a trace from step 10 to step 12, of the steps that metrics.jsonl calls 11 and 12
    )

    def __post_init__(self) -> None:
        _check_types(self)
        check_values(self)

    @property
    def rows(self) -> int:
        """Rows of a rollout batch, filler included: what the training step is compiled for."""
        return self.sampled_by.rows(self.prompts, self.samples)

    @property
    def sampled_by(self) -> Strategy:
        """The strategy: the config's own, else the one without which its recipe would be another, else plain groups."""
        if self.strategy is not None:
            return as_strategy(self.strategy)
        if self.objective is None and self.recipe == "aepo":
            return tempered()
        if self.objective is None and self.recipe == "spear":
            return replay(size=max(1, self.prompts * self.samples // 8))
        return groups(resample=self.dynamic_sampling)

    def override(self, changes: Mapping[str, Any]) -> Config:
        """The config with some fields replaced; strings are read as the field's type, `recipe.x` as an option of the recipe,
        `model.x` as one of the model, `strategy` as the name of one with options `strategy.x`."""
        options = dict(self.recipe_options)
        fields: dict[str, Any] = {}
        if "recipe" in changes and (changes["recipe"] != self.recipe or self.objective is not None):
            options, fields["objective"] = {}, None
        of_strategy, of_model = {}, {}
        for key, value in changes.items():
            if key.startswith("recipe."):
                options[key.removeprefix("recipe.")] = _literal(value)
            elif key.startswith("strategy."):
                of_strategy[key.removeprefix("strategy.")] = _literal(value)
            elif key.startswith("model."):
                of_model[key.removeprefix("model.")] = _literal(value)
            elif key == "recipe_options" and isinstance(value, Mapping):
                options |= value
            elif key != "strategy" or not isinstance(value, str):
                fields[key] = _read(key, value)
        if of_strategy or isinstance(changes.get("strategy"), str):
            fields["strategy"] = _strategy(changes.get("strategy"), of_strategy)
        if of_model:
            fields |= _of_model(
                fields.get("model", self.model), fields.get("model_options", self.model_options), of_model
            )
        return dataclasses.replace(self, **fields, recipe_options=options)

    def lasting(self) -> dict[str, Any]:
        """What a resumed run must share with its checkpoint, as JSON values."""
        free = {"steps", "eval_every", "eval_prompts", "eval_samples", "eval_temperature", "eval_k", "save_every", "keep",
                "log_samples", "profile", "mesh", "sharding", "sampler_sharding", "sampler_rows", "microbatches", "chunk",
                "stop_after_skips", "drop_long_prompts", "verifier_workers", "verifier_seconds"}  # fmt: skip
        free -= {"save_every"} if self.lag else set()  # there the batch after a save is not behind
        if self.eval_task is None and self.task.size is not None:
            free -= {"eval_prompts"}  # the others are trained on
        if self.lr_decay != "constant":
            free -= {"steps"}  # every step's rate follows from the last
        return {key: value for key, value in self.describe().items() if key not in free}

    def identity(self) -> str:
        """A short name of what lasts."""
        return hashlib.sha256(json.dumps(self.lasting(), sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """The config as JSON values, for logs and comparisons."""
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


FIELDS = {f.name: f for f in dataclasses.fields(Config)}
TYPES = typing.get_type_hints(Config)
SETTABLE = sorted(
    name for name, kind in TYPES.items() if kind in (int, float, str, bool, tuple[str, ...], tuple[int, ...])
)


def _compiled(path: Path) -> types.CodeType:
    """The file as code. Not by an import, which takes a file of equal size written in the same second for the one before.
    A SyntaxError for every file that is no Python; for null bytes Python before 3.11.4 has a ValueError."""
    try:
        return compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except ValueError as error:
        raise SyntaxError(str(error)) from error


def config_file(path: str | Path) -> Path:
    """The file that is meant: this one, or the config of its name that comes with entjax."""
    path, own = Path(path), shipped_configs() / Path(path).name
    if path.is_file() or own.is_file():
        return path if path.is_file() else own
    shipped = sorted(p.stem for p in shipped_configs().glob("*.py")) if shipped_configs().is_dir() else []
    raise ConfigError(f"There is no config file {path}. Shipped with entjax: {', '.join(shipped) or 'none'}.")


def load_config(path: str | Path) -> Config:
    """The config that a Python file's `get_config()` returns. The file's folder is put at the end of sys.path, so that the config
    and the workers of a verifier can import the modules beside it; no installed one is shadowed."""
    path = config_file(path)
    if path.suffix != ".py":
        raise ConfigError(
            f"{path} is not a Python file: a config is a .py file with a function get_config()."
        )
    module = types.ModuleType(f"entjax_config_{path.stem}")
    module.__file__ = str(path)
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    try:
        exec(_compiled(path), vars(module))
        if "get_config" not in vars(module):
            raise ConfigError(f"{path}: a config file defines get_config() and returns ej.Config(...).")
        config = module.get_config()
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{path} is not valid Python: {error}.") from error
    except (Exception, SystemExit) as error:  # whatever the file's own code may raise
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(
            f"get_config() in {path} returned {type(config).__name__}; it must return ej.Config(...)."
        )
    return config


def shipped_configs() -> Path:
    """The folder of configs that comes with entjax: beside the package in a checkout, inside it in a wheel."""
    beside = Path(__file__).parent.parent / "configs"
    return beside if beside.is_dir() else Path(__file__).parent / "configs"


def parse_overrides(items: list[str]) -> dict[str, str]:
    """["lr=3e-4", ...] as a dictionary."""
    changes = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{item}' is not key=value. Example: lr=3e-4.")
        if key in changes:
            raise ConfigError(f"'{key}' is given twice: keep one.")
        changes[key] = value
    return changes


PLACE = "# where the run began: for modules and data that lie beside its config"


def source_as_run(path: Path, changes: Mapping[str, str]) -> str:
    """The text of a config file that gives the config as it was run, overrides included, from whatever folder it is read."""
    path = config_file(path)
    text = _with_place(path.read_text(), path.resolve())
    if not changes:
        return text
    return (
        f"{text.rstrip()}\n\n\n# Overrides of the command line\n"
        f"def get_config(before=get_config):\n    return before().override({dict(changes)!r})\n"
    )


def _with_place(text: str, path: Path) -> str:
    """The text of a config file with a line, behind what must come first, after which modules and data beside it are found; a
    copy of such a text keeps the line it has."""
    if PLACE in text:
        return text
    first = lambda node: (
        isinstance(node, ast.Expr) or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    )
    head = list(itertools.takewhile(first, ast.parse(text).body))
    lines = text.split("\n")
    lines.insert(
        head[-1].end_lineno or 0 if head else 0,
        f"import sys; sys.path.append({str(path.parent)!r}); __file__ = {str(path)!r}  {PLACE}",
    )
    return "\n".join(lines)


def _read(key: str, value: Any) -> Any:
    """A string from the command line as the type of its field."""
    if key not in FIELDS:
        near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.4)
        raise ConfigError(f"There is no config key '{key}'" + (f"; did you mean '{near[0]}'?" if near else ".")
                          + f" Keys for the command line: {', '.join(SETTABLE)}, recipe.OPTION, model.OPTION, "
                            "strategy, strategy.OPTION.")  # fmt: skip
    kind = TYPES[key]
    if not isinstance(value, str) or kind is str:
        return value
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        if kind in (int, float):
            return kind(value)
        if kind == tuple[int, ...]:
            return tuple(int(part) for part in value.split(",") if part)
        if kind == tuple[str, ...]:
            return tuple(part for part in value.split(",") if part)
        if key == "mesh":
            return {name: int(size) for name, size in (part.split(":") for part in value.split(",") if part)}
        if key in ("model", "teacher"):
            return None if key == "teacher" and value.lower() in ("", "none") else value
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{key}={value}: expected {_name(kind)}.") from error
    raise ConfigError(
        f"'{key}' holds {_name(kind)} and can only be set in a config file. Settable: {', '.join(SETTABLE)}."
    )


def _strategy(name: Any, options: Mapping[str, Any]) -> Strategy:
    """strategy=NAME strategy.OPTION=VALUE of the command line."""
    if not isinstance(name, str):
        raise ConfigError(
            f"strategy.{next(iter(options))} is an option of a strategy that is named: add strategy=NAME."
        )
    try:
        return strategy_by_name(name, options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _of_model(
    model: DecoderConfig | str, options: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields that model.OPTION=VALUE of the command line changes: of a checkpoint, or of the decoder that a config makes."""
    if not isinstance(model, DecoderConfig):
        return {"model_options": {**options, **changes}}
    unknown = sorted(changes.keys() - DECODER_FIELDS)
    if unknown:
        why = (
            "adapters stand beside the model of a folder"
            if unknown == ["adapter"]
            else "a decoder has no such field"
        )
        raise ConfigError(
            f"model.{unknown[0]}={changes[unknown[0]]}: {why}, and the config makes a new decoder."
        )
    try:
        return {"model": model.replace(**changes)}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{' '.join(f'model.{k}={v}' for k, v in changes.items())}: {error}") from error


def _literal(value: Any) -> Any:
    """A command-line value as a number, truth value or word."""
    if not isinstance(value, str):
        return value
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _check_types(config: Config) -> None:
    for name, kind in TYPES.items():
        value = getattr(config, name)
        if kind is float and type(value) is int:
            object.__setattr__(config, name, float(value))
            continue
        if kind in (int, float, bool, str) and type(value) is not kind:
            raise ConfigError(f"{name}={value!r}: expected {_name(kind)}, got {type(value).__name__}.")
        if kind in (tuple[int, ...], tuple[str, ...]):
            inner = typing.get_args(kind)[0]
            if not isinstance(value, (tuple, list)) or not all(type(x) is inner for x in value):
                raise ConfigError(f"{name}={value!r}: expected {_name(kind)}.")
            object.__setattr__(config, name, tuple(value))
    check_kinds(config)


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word",
             tuple[int, ...]: "whole numbers such as 1,4,16", tuple[str, ...]: "words separated by commas",
             Mapping[str, int]: "axes with their sizes such as fsdp:4,tensor:2"}  # fmt: skip
    if kind in names:
        return names[kind]
    if isinstance(kind, types.UnionType):
        return " or ".join(_name(k) for k in typing.get_args(kind))
    return getattr(kind, "__name__", str(kind))
