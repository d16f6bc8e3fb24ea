"""From a config to the parts of a run: which task trains, which one is evaluated, and by whom each is judged."""

import contextlib
import dataclasses
import functools
import inspect
import json
import sys
from pathlib import Path

import pytest
from flax import nnx

import entjax as ej
from entjax import room, setup
from entjax.config import ConfigError, parse_overrides
from entjax.describe import plain
from entjax.models import Decoder, save_hf
from entjax.policy import encode_prompt, make_tokenizer, split_stops
from entjax.rundir import RunDirectory, RunDirectoryError
from entjax.tasks import Example, Task
from entjax.warmup import solutions
from tests.rollouts import world
from tests.words import IDS, TEMPLATE, write_words


def numbered(name, size, right):
    """Prompts 1+0 .. 1+9; `right` says which reward every answer gets."""
    return Task(name, lambda i: Example(f"1+{i % 10}", str(i), {"n": i}), size, lambda example, text: right,
                alphabet="0123456789+", canonical=lambda example, text: name)  # fmt: skip


def config(**changes):
    model = ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=96)
    return world.config(**{"model": model, "task": numbered("train", 10, 0.0), "eval_prompts": 3, **changes})


def test_the_evaluation_is_judged_by_its_own_task():
    parts = setup.build(config(eval_task=numbered("held out", 4, 1.0)))
    texts = ["x"] * 3
    for held_out, reward, name in ((False, 0.0, "train"), (True, 1.0, "held out")):
        tools = parts.tools(None, 0, held_out=held_out)
        assert tools.score(parts.eval_examples, texts)[0].tolist() == [reward] * 3
        assert tools.canonical(parts.eval_examples[0], "x") == name
    parts.close()


@pytest.mark.parametrize(("size", "trained"), [(10, 7), (4, 2), (2, 1)])
def test_the_last_examples_of_a_finite_task_are_not_trained_on(size, trained):
    c = config(task=numbered("train", size, 0.0), prompts=2)
    held_out = {e.meta["n"] for e in setup.eval_examples(c)}
    stream = setup.make_stream(c)
    seen = {e.meta["n"] for _ in range(size) for e in stream.next()}
    assert seen == set(range(trained)) and held_out == set(range(trained, size))


def test_workers_and_seconds_of_the_verifiers_are_the_configs(monkeypatch):
    made = []
    monkeypatch.setattr(setup, "scorer", lambda task, **how: made.append((task.name, how)))
    setup.make_scorers(config(eval_task=numbered("held out", 4, 1.0)))
    setup.make_scorers(config(verifier_workers=3, verifier_seconds=10.0))
    of = lambda workers, *limits: {"workers": workers, "limits": ej.tasks.Limits(*limits)}
    assert made == [("train", of(2)), ("held out", of(2)), ("train", of(3, 10.0, 60.0))]
    assert config(verifier_workers=3, verifier_seconds=10.0).identity() == config().identity()
    for key, value in (("verifier_workers", 0), ("verifier_workers", 10**9), ("verifier_seconds", 1e9)):
        with pytest.raises(ValueError, match=key):
            config(**{key: value})


CONFIG = '''"""A config with a verifier of its own."""

from __future__ import annotations

import my_own_verifier
from tests.test_setup import config, numbered


def get_config():
    task = numbered("own", 4, 0.0)._replace(verify=None, verifier=my_own_verifier.SPEC)
    return config(task=task, eval_prompts=2)
'''
VERIFIER = """from entjax.tasks.task import Spec

SPEC = Spec("my_own_verifier:half")

def half():
    return lambda example, text: 0.5
"""


def test_modules_beside_a_config_are_found_by_it_by_its_workers_and_by_a_run_that_goes_on(
    tmp_path, monkeypatch
):
    own, workdir = tmp_path / "own", tmp_path / "run"
    own.mkdir()
    workdir.mkdir()
    (own / "cfg.py").write_text(CONFIG)
    (own / "my_own_verifier.py").write_text(VERIFIER)

    def rewards(path):
        monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(own)])
        monkeypatch.delitem(sys.modules, "my_own_verifier", raising=False)
        task = ej.config.load_config(path).task
        with ej.tasks.scorer(task, workers=1) as scorer:
            return scorer.score([task.example(0)], ["x"])[0].tolist()

    assert rewards(own / "cfg.py") == [0.5] and sys.path[-1] == str(own)
    (workdir / "config.py").write_text(ej.config.source_as_run(own / "cfg.py", {"steps": "3"}))
    assert rewards(workdir / "config.py") == [0.5]
    assert ej.config.load_config(workdir / "config.py").steps == 3
    assert ej.config.source_as_run(Path("quickstart.py"), {}).startswith('"""')  # a shipped one, by its name


def test_a_verify_that_the_pool_would_pass_over_is_refused():
    pooled = ej.tasks.math_words([Example("?", "1")] * 4)
    other = pooled._replace(verify=lambda example, text: 1.0)
    for where in ("task", "eval_task"):
        with pytest.raises(
            ValueError, match="math-words has a verify= beside the verifier that it came with"
        ):
            config(**{where: other})
    assert config(eval_task=pooled).eval_task is pooled
    assert config(eval_task=other._replace(verifier=None)).eval_task.verifier is None


def test_a_single_example_cannot_be_both():
    with pytest.raises(ValueError, match="give eval_task"):
        setup.eval_examples(config(task=numbered("train", 1, 0.0)))


def test_a_recipe_on_the_command_line_takes_the_place_of_an_own_objective():
    own = dataclasses.replace(config(), objective=ej.recipes.steer())
    assert own.override({"recipe": "grpo"}).objective is None
    assert own.override({"lr": "1e-3"}).objective is own.objective


def test_what_a_function_took_along_belongs_to_the_identity_of_a_run():
    def of(target, clip, steps=100):
        line = ej.control.linear(target, 0.1, steps)
        bonus = ej.regularizers.entropy(ej.control.pi(target=line, kp=0.1, ki=0.01))
        return config(objective=ej.Objective(None, bonus, ej.surrogates.dual_clip(clip))).identity()

    assert of(0.5, 3.0) == of(0.5, 3.0)
    assert len({of(0.5, 3.0), of(0.8, 3.0), of(0.5, 10.0), of(0.5, 3.0, 50)}) == 4


def test_every_number_of_every_rule_belongs_to_the_identity():
    """Each factory of the algebra with each of its numbers changed a little, where it allows that, is another rule."""
    rooms = (ej.advantages, ej.weights, ej.clips, ej.regularizers, ej.averages, ej.rewards, ej.decoding)
    tried, same = 0, []
    factories = (getattr(where, name) for where in rooms for name in where.__all__)
    for factory in filter(inspect.isfunction, factories):
        about = inspect.signature(factory).parameters
        needed = {"target": 0.3} if "target" in about else {}
        if not about or any(p.default is p.empty and name not in needed for name, p in about.items()):
            continue
        rule = functools.partial(factory, **needed)
        if not isinstance(rule(), ej.Transform):
            continue
        for name, parameter in about.items():
            value = parameter.default
            if type(value) not in (int, float):
                continue
            for other in (value + 1, 0.9 * value if type(value) is float else value - 1):
                if other == value:  # inf
                    continue
                with contextlib.suppress(ValueError):  # not allowed
                    tried += 1
                    if plain(rule(**{name: other})) == plain(rule()):
                        same.append((factory.__name__, name))
    assert set(same) == {("ear", "beta")}  # of its other variant
    assert tried > 150
    assert plain(ej.Objective(rules=ej.decoding.top_k(2))) != plain(ej.Objective(rules=ej.decoding.top_k(3)))
    json.dumps([plain(recipe()) for recipe in (ej.recipes.steer, ej.recipes.aepo, ej.recipes.hapo)])


def test_what_decides_how_a_run_goes_on_belongs_to_its_identity():
    endless = config(task=ej.tasks.countdown(numbers=2))
    more = lambda c, **changes: dataclasses.replace(c, **changes).identity() == c.identity()
    assert more(endless, steps=9) and not more(dataclasses.replace(endless, lr_decay="cosine"), steps=9)
    assert more(endless, eval_prompts=9) and not more(config(), eval_prompts=4)  # the others are trained on
    assert config().override({"recipe_options": {"low": 0.1}}).recipe_options == {"low": 0.1}


def test_a_later_evaluation_takes_no_example_that_was_trained_on(tmp_path):
    (tmp_path / "config.py").write_text("from tests.test_setup import config\nget_config = config\n")
    assert setup.config_of(tmp_path, ["eval_prompts=2"]).eval_prompts == 2
    with pytest.raises(ConfigError, match=r"kept 3 examples of train .* 3 at most, got 4"):
        setup.config_of(tmp_path, ["eval_prompts=4"])


@pytest.mark.parametrize(("field", "value"), [("strategy", ej.rollouts.cure), ("rules", ej.decoding.top_p)])
def test_a_factory_that_nobody_called_is_told(field, value):
    with pytest.raises(ValueError, match=rf"call it, {field}=ej\.\w+\.{value.__name__}\(\)"):
        config(**{field: value})


def test_a_teacher_keeps_the_rules_of_an_objective():
    objective = ej.recipes.hapo()
    assert objective.rules is not None and objective.replace(teacher=None).rules is objective.rules


def test_files_are_fetched_by_the_one_who_holds_the_lock(tmp_path):
    fetched = []
    first, second = (RunDirectory(tmp_path, resume=False, fill=lambda n=n: fetched.append(n)) for n in (1, 2))
    with first, pytest.raises(RunDirectoryError, match="Another run"):
        second.__enter__()
    assert fetched == [1]


def test_a_recipe_brings_what_makes_it_itself():
    aepo = config(recipe="aepo", prompts=8, samples=4)
    assert aepo.sampled_by.name == "tempered" and aepo.rows == 8 * 4 + 2 * 4
    assert aepo.override({"recipe": "grpo"}).sampled_by.name == "groups"
    assert config(recipe="spear", prompts=8, samples=4).rows == 32 + 4
    with pytest.raises(ConfigError, match=r"'tempered'.*strategy=tempered"):
        setup.build(config(objective=ej.recipes.aepo()))
    with pytest.raises(ConfigError, match="strategy=replay"):
        setup.build(config(recipe="spear", strategy=ej.rollouts.groups()))
    for recipe in ("distill", "opd"):
        with pytest.raises(ConfigError, match="set teacher=FOLDER"):
            setup.build(config(recipe=recipe))
    with pytest.raises(ConfigError, match="belongs to plain groups"):
        config(recipe="aepo", dynamic_sampling=1)


def test_the_tokenizer_of_the_folder_goes_before_characters(tmp_path):
    own = make_tokenizer(config(model=str(write_words(tmp_path / "own"))))
    assert own.vocab_size == len(IDS) and own.encode("1 + 2") == [IDS["1"], IDS["+"], IDS["2"]]
    (tmp_path / "none").mkdir()
    assert make_tokenizer(config(model=str(tmp_path / "none"))).vocab_size == len("0123456789+") + 2


def test_a_model_of_other_characters_is_refused(tmp_path):
    """The same number of them in another order would load, and every token would mean another one."""
    task = ej.tasks.countdown()
    assert task.alphabet is not None
    folder = str(ej.config.shipped_configs() / "countdown3")
    assert make_tokenizer(config(model=folder, task=task)).vocab_size == len(task.alphabet) + 2
    turned = task._replace(alphabet=task.alphabet[::-1])
    with pytest.raises(ConfigError, match=r"was trained on the characters '0123456789\+-\*=,>:'"):
        make_tokenizer(config(model=folder, task=turned))


@pytest.mark.parametrize(
    "recipe, options, said",
    [
        ("entropy_pi", {"target": None}, "recipe.target=None: the recipe 'entropy_pi' expects a number"),
        ("entropy_pi", {"target": True}, "recipe.target=True"),
        ("siren", {"coef": None}, "recipe.coef=None"),
        ("dapo", {"max_length": [8]}, "The objective cannot run|recipe=dapo"),
    ],
)
def test_options_that_are_no_numbers_are_told_before_a_run(recipe, options, said):
    with pytest.raises(ConfigError, match=said):
        setup.build(config(recipe=recipe, recipe_options=options))


def test_no_teacher_can_be_said_on_the_command_line():
    c = config(teacher="somewhere", recipe="distill")
    for word in ("none", "None", ""):
        assert c.override(parse_overrides([f"teacher={word}"])).teacher is None


def test_a_special_token_stops_by_its_id(tmp_path):
    """Completions are decoded without special tokens: as a string it could never match."""
    c = config(model=str(write_words(tmp_path)), stop=("<end>", "be quiet"))
    assert split_stops(c, make_tokenizer(c)) == ((IDS["<end>"],), ("be quiet",))
    c = dataclasses.replace(c, stop=("] <end>",))
    with pytest.raises(ConfigError, match=r"decoded without '<end>'.* Name it alone"):
        split_stops(c, make_tokenizer(c))
    parts = setup.build(config(stop=("$", "7")))
    how = parts.tools(None, 0).stepper.how
    assert (how.stop_ids, how.stop_strings) == ((1,), ("7",))
    parts.close()


def ids(text):
    return [IDS[word] for word in text.split()]


@pytest.mark.parametrize(
    ("folder", "changes", "prompt"),
    [
        ({}, {}, "1 + 2"),
        ({"begins": True}, {}, "<s> 1 + 2"),
        ({"begins": True, "template": TEMPLATE}, {}, "[ 1 + 2 ]"),
        ({"begins": True, "template": TEMPLATE}, {"chat": False}, "<s> 1 + 2"),
    ],
)
def test_a_plain_prompt_begins_as_its_model_expects(folder, changes, prompt, tmp_path):
    """The begin mark once, where the tokenizer would add it; a chat template writes its own; later pieces have none."""
    c = config(model=str(write_words(tmp_path, **folder)), **changes)
    tokenizer = make_tokenizer(c)
    assert encode_prompt(c, tokenizer, "1 + 2") == ids(prompt)
    assert encode_prompt(c, tokenizer, "<s> 1 + 2").count(IDS["<s>"]) == 1
    assert tokenizer.encode("1 + 2") == ids("1 + 2")


@pytest.fixture
def small_chat(tmp_path):
    """The folder of a tiny model with words and a chat template."""
    shape = ej.models.tiny(vocab=len(IDS), width=16, layers=1, heads=2, context=32)
    save_hf(tmp_path, Decoder(shape, rngs=nnx.Rngs(0)))
    return str(write_words(tmp_path, template=TEMPLATE))


def summing(prompts):
    """A finite task of these prompts, each solved by "9"."""
    examples = [Example(prompt, "9") for prompt in prompts]
    return Task("sums", examples.__getitem__, len(examples), lambda e, t: 0.0, solution=lambda e, rng: "9")


def test_the_warm_start_reads_prompts_as_rollouts_do(small_chat):
    parts = setup.build(config(model=small_chat, task=summing(["1 + 8"] * 4), eval_prompts=2, prompts=2))
    tokens, mask = solutions(parts.config.task, parts.tokenizer, parts.encode, seed=0, length=8)(0, 1)
    assert tokens[0].tolist() == ids("[ 1 + 8 ] 9 </s> <pad>")
    assert tokens[0, mask[0]].tolist() == ids("9 </s>")
    parts.close()
    half = parts.config.task._replace(solution=lambda e, rng: rng.choice(["9", None]))
    given = solutions(half, parts.tokenizer, parts.encode, seed=0, length=8)
    assert 0 < given(0, 32)[1].any(-1).sum() < 32  # of an example without a solution nothing is learned
    none = solutions(
        half._replace(solution=lambda e, rng: None), parts.tokenizer, parts.encode, seed=0, length=8
    )
    with pytest.raises(ValueError, match="have no worked solution"):
        none(0, 4)


@pytest.mark.parametrize(
    ("changes", "prompt"),
    [
        ({"system": "be"}, "be ] [ 1 + 2 ]"),
        ({"chat_options": {"thinking": False}}, "[ 1 + 2 ] quiet"),
        ({"system": "be", "chat_options": {"thinking": True}}, "be ] [ 1 + 2 ]"),
    ],
)
def test_the_chat_template_takes_a_system_message_and_options(changes, prompt, tmp_path):
    c = config(model=str(write_words(tmp_path, template=TEMPLATE)), **changes)
    assert encode_prompt(c, make_tokenizer(c), "1 + 2") == ids(prompt)
    assert (
        c.identity() != dataclasses.replace(c, system="quiet").identity() != config(model=c.model).identity()
    )


@pytest.mark.parametrize(
    ("template", "changes", "words"),
    [
        (None, {"system": "be"}, "system='be': meant for the chat template, but the tokenizer has none"),
        (TEMPLATE, {"chat": False, "chat_options": {"thinking": 0}}, "chat=False leaves it out"),
        (TEMPLATE, {"chat_options": {"thinkin_": False}}, "does not read thinkin_"),
        ("{{ messages[-1]['content'] }}", {"system": "be"}, "leaves out system='be'"),
        ("{{ raise_exception('no system') }}", {"system": "be"}, "refuses system='be': no system"),
    ],
)
def test_what_no_chat_template_takes_is_refused(template, changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        make_tokenizer(config(model=str(write_words(tmp_path, template=template)), **changes))


def test_characters_have_no_chat_template():
    with pytest.raises(ConfigError, match="write it into the prompts"):
        make_tokenizer(config(system="be"))
    with pytest.raises(ConfigError, match="values by the name"):
        config(chat_options=["thinking"])


def lengths(size, long, width=90):
    """Prompts "11..1" whose index is in their answer; those that `long` says leave no room for 24 tokens in a context of 96."""
    return Task("lengths", lambda i: Example("1" * (width if long(i) else 5), str(i)), size, lambda e, t: 0.0,
                alphabet="0123456789+")  # fmt: skip


def numbers_of(parts, batches):
    return [int(e.answer) for _ in range(batches) for e in parts.stream.next()]


def test_every_prompt_of_a_finite_task_is_looked_at_before_a_run(capsys):
    c = config(task=lengths(40, lambda i: i in (23, 31)), prompts=2)
    with pytest.raises(
        ConfigError, match=r"Example 23 .* 90 tokens .*one of 2 too long among 40 .*drop_long_prompts=true"
    ):
        setup.build(c)
    parts = setup.build(c.override({"drop_long_prompts": "true"}))
    assert "2 of 40 prompts of lengths" in capsys.readouterr().err
    trained, held_out = numbers_of(parts, 35), [int(e.answer) for e in parts.eval_examples]
    assert sorted(trained)[::2] == sorted(set(range(37)) - {23, 31}) and held_out == [37, 38, 39]
    parts.close()
    with pytest.raises(ConfigError, match=r"one of 40 too long among 40 .*: lower max_new_tokens\.$"):
        setup.build(dataclasses.replace(c, task=lengths(40, lambda i: True), drop_long_prompts=True))
    with pytest.raises(ConfigError, match="is empty: every prompt needs at least one token"):
        setup.build(dataclasses.replace(c, task=lengths(40, lambda i: i == 9, width=0)))


@pytest.mark.parametrize("size", [None, 40])
def test_long_prompts_that_nobody_saw_do_not_end_a_run(size, monkeypatch):
    """A task of which a sample is looked at: refused when it is read, in a sentence; with the key another prompt stands in, on a
    resumed run too, and never one of the held-out."""
    for name, value in {"WHOLE": 10, "SAMPLE": 4, "ENDLESS": 4}.items():
        monkeypatch.setattr(room, name, value)
    c = config(task=lengths(size, lambda i: i % 5 == 3 and 10 < i < 37), prompts=10, eval_every=5)
    refused = setup.build(c)
    with pytest.raises(
        ConfigError, match=r"Example \d+ of lengths is a prompt of 90 tokens .*drop_long_prompts=true"
    ):
        numbers_of(refused, 4)
    c = c.override({"drop_long_prompts": "true"})
    parts, resumed = setup.build(c), setup.build(c)
    first = numbers_of(parts, 2)
    resumed.stream.restore(parts.stream.state())
    second = numbers_of(parts, 2)
    assert second == numbers_of(resumed, 2) and len(first + second) == 40
    assert not any(i % 5 == 3 and 10 < i < 37 for i in first + second)
    held_out = {int(e.answer) for e in parts.eval_examples}
    assert not held_out & set(first + second) and (size is None or held_out == {37, 38, 39})
    assert c.identity() == refused.config.identity()  # a run that met one goes on
    for made in (refused, parts, resumed):
        made.close()


def test_held_out_prompts_leave_room_too():
    c = config(eval_task=lengths(10, lambda i: i == 1))
    with pytest.raises(ConfigError, match="Example 1 of lengths"):
        setup.build(c)
    parts = setup.build(dataclasses.replace(c, drop_long_prompts=True))
    assert [int(e.answer) for e in parts.eval_examples] == [0, 2, 3]
    parts.close()
    setup.build(dataclasses.replace(c, eval_task=lengths(10, lambda i: i == 3))).close()  # never read
