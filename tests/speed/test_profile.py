"""profile="FIRST:LAST" leaves a trace whose parts can be told apart."""

import entjax as ej
from entjax.train import train


def test_a_trace_names_its_parts(tmp_path):
    config = ej.Config(
        task=ej.tasks.countdown(numbers=2),
        model=ej.models.tiny(vocab=19, width=16, layers=1, heads=2, context=64),
        steps=2, prompts=2, samples=2, max_new_tokens=9, eval_prompts=2, eval_samples=2, eval_k=(1,), profile="1:2",
    )  # fmt: skip
    train(config, tmp_path / "run")
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    text = traces[0].read_bytes()
    for scope in (b"rollout", b"backbone", b"vocabulary_sweep", b"per_step_chain", b"optimizer", b"sample"):
        assert scope in text, scope
