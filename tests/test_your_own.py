"""The config of docs/your_own.md runs as printed, and its tables speak of what is there."""

import re
from pathlib import Path

import entjax as ej
from entjax.config import Config, load_config
from entjax.log import read_lines
from entjax.train import train

PAGE = (Path(__file__).parent.parent / "docs" / "your_own.md").read_text()


def test_the_config_runs(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (tmp_path / "sums.py").write_text(source)
    config = load_config(tmp_path / "sums.py").override({"steps": "2", "sft_steps": "20", "eval_every": "2"})
    train(config, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    written = {name for line in lines for name in line}
    told = set(re.findall(r"`([a-z_]+/[a-z_]+)`", PAGE.split("## What a run writes")[1]))
    assert len(told) > 20 and told <= written
    assert "tokens/update_per_second" in written and "eval/pass@4" in written


def test_what_the_table_names_exists():
    for name in re.findall(r"`(?:task=|strategy=|objective=|rules=)?ej\.([a-z_.A-Z]+)", PAGE):
        found = ej
        for part in name.rstrip(".").split("."):
            found = getattr(found, part)
    keys = set(re.findall(r"`([a-z_]+)=", PAGE)) - {"task"}
    assert {"minibatches", "lag", "dynamic_sampling", "teacher", "mesh", "model_options"} <= keys
    assert all(hasattr(Config, key) or key in Config.__dataclass_fields__ for key in keys)
