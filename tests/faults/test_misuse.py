"""Mistakes that careless users make, each told in a sentence where it can be known."""

import shutil

import jax.numpy as jnp
import pytest

import entjax as ej
from entjax.adapters import decide
from entjax.config import ConfigError, load_config, source_as_run
from entjax.rehearsal import rehearse
from entjax.rundir import RunDirectory, RunDirectoryError
from entjax.tasks import Example, Task
from entjax.tasks.scoring import canonical_of
from tests import tiny
from tests.test_setup import config


def test_factories_that_nobody_called_and_surrogates_that_are_none():
    with pytest.raises(TypeError, match=r"call it, group_normalize\(\)"):
        ej.chain(ej.advantages.group_normalize)
    with pytest.raises(TypeError, match="chain takes transforms"):
        ej.Objective("grpo")
    for wrong in ("ppo_clip", ej.clips.asymmetric()):
        with pytest.raises(TypeError, match="per_token takes a surrogate"):
            ej.Objective(per_token=wrong)


def test_an_own_objective_fails_before_the_run_and_says_where():
    def weigh(signal, context):
        return signal.replace(weight=signal.weight * context.stats["prob_sq"])

    def misshapen(signal, context):
        return signal.replace(advantage=signal.advantage * jnp.ones(5))

    def objective(rule, **about):
        return ej.Objective(
            per_step=ej.transform.stateless("mine", rule, writes={"weight", "advantage"}, **about)
        )

    with pytest.raises(
        ConfigError, match=r"test_misuse.py, line \d+, in weigh: nothing gives 'prob_sq'.*reads="
    ):
        ej.setup.build(config(objective=objective(weigh)))
    with pytest.raises(ConfigError, match=r"in misshapen: .*shapes"):
        ej.setup.build(config(objective=objective(misshapen)))
    ej.setup.build(config(objective=objective(weigh, reads={"prob_sq": ej.vocab.prob_sq}))).close()


@pytest.mark.parametrize("name", ej.learning.recipe_names())
def test_every_recipe_passes_its_rehearsal(name):
    rehearse(getattr(ej.recipes, name)(), rows=8, tokens=6, provided=frozenset())


def test_a_mask_of_numbers_and_a_chain_with_a_state_are_refused_on_plain_arrays():
    r = tiny.rollout()
    with pytest.raises(TypeError, match="mask must be boolean"):
        ej.Signal.start(r.replace(mask=r.mask.astype(jnp.int32)))
    controlled = ej.regularizers.entropy(ej.control.pi(target=0.5, kp=0.1, ki=0.01))
    with pytest.raises(ValueError, match="entropy would have to remember"):
        decide(ej.chain(controlled), ej.Signal.start(r), r)


@pytest.mark.parametrize("wrong", [SystemExit(3), RuntimeError("no")])
def test_no_verifier_ends_a_run(wrong):
    class Odd:
        def __float__(self):
            raise wrong

    def raises(example, text):
        raise wrong

    for verify in (raises, lambda example, text: Odd(), lambda example, text: 10**400):
        with ej.tasks.scorer(Task("odd", lambda i: Example("1", "1"), None, verify)) as scorer:
            assert scorer.score([Example("1", "1")], ["x"])[0].tolist() == [0.0]


def test_answers_that_cannot_be_compared_count_as_none_and_are_told_once(capsys):
    for odd in (lambda example, text: [text], lambda example, text: 1 / 0):
        answer = canonical_of(
            Task("odd", lambda i: Example("1", "1"), None, lambda example, text: 0.0, canonical=odd)
        )
        assert answer is not None and [answer(None, t) for t in "ab"] == [None, None]
        assert capsys.readouterr().err.count("canonical of odd raised") == 1


@pytest.mark.parametrize("example", [("1+1", "2"), Example(7, "7", {})])
def test_an_example_that_is_none_is_told(example):
    task = Task("odd", lambda i: example, 5, lambda example, text: 0.0, alphabet="0123456789+")
    with pytest.raises(ConfigError, match=r"must be an ej\.tasks\.Example whose prompt is a text"):
        ej.setup.build(config(task=task))


def test_data_beside_a_config_is_found_from_the_run(tmp_path):
    (tmp_path / "own").mkdir()
    own = tmp_path / "own" / "cfg.py"
    own.write_text("from pathlib import Path\nfrom tests.test_setup import config\nHERE = Path(__file__).parent\n\n\n"
                   "def get_config():\n    return config(seed=int((HERE / 'seed.txt').read_text()))\n")  # fmt: skip
    (tmp_path / "own" / "seed.txt").write_text("5")
    first = tmp_path / "config.py"
    first.write_text(source_as_run(own, {"steps": "3"}))
    assert load_config(first).seed == 5
    again = tmp_path / "again.py"
    again.write_text(source_as_run(first, {"steps": "4"}))  # a resumed run writes its own again
    assert (load_config(again).seed, load_config(again).steps) == (5, 4)


def test_checkpoints_alone_are_a_run(tmp_path):
    (tmp_path / "checkpoints" / "step_00000003").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="already holds a run"), RunDirectory(tmp_path, resume=False):
        pass
    shutil.rmtree(tmp_path / "checkpoints")
    with RunDirectory(tmp_path, resume=False):
        pass


def test_pictures_need_a_label_a_run(tmp_path):
    from entjax.plots import dashboard

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    with pytest.raises(ValueError, match="2 run directories need as many labels, got 1: one"):
        dashboard([tmp_path / "a", tmp_path / "b"], tmp_path / "x.png", ["one"])
