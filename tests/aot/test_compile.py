"""The real programs compiled for a slice that is not there; needs libtpu, so it runs where `pip install entjax[tpu]` was done."""

import json

import pytest

from entjax import cli

CONFIG = """
import entjax as ej
from entjax.sharding import ShardingRules

def get_config():
    return ej.Config(
        task=ej.tasks.countdown(numbers=2), model=ej.models.tiny(
            vocab=128, width=256, layers=4, heads=4, kv_heads=2, context=512, scan_layers=True, dtype="bfloat16", remat="full"),
        prompts=8, samples=4, max_new_tokens=64, microbatches=2, minibatches=2, recipe="steer", mesh={"fsdp": 2, "tensor": 2},
        sampler_sharding=ShardingRules().without("fsdp"))
"""


@pytest.fixture
def config(tmp_path):
    pytest.importorskip("libtpu")
    (tmp_path / "small.py").write_text(CONFIG)
    return tmp_path / "small.py"


def test_all_programs_of_a_small_run(config, tmp_path, capsys):
    out = tmp_path / "table.json"
    words = ["compile", str(config), "--topology", "v5e:2x2", "--prompt-tokens", "64", "--json", str(out)]
    assert cli.main(words) == 0
    table = json.loads(out.read_text())
    assert [p["program"] for p in table["programs"]] == ["update", "score", "reshard", "prefill", "decode"]
    update = table["programs"][0]
    weights = 4 * (256 * 64 * 12 + 3 * 256 * 688) + 128 * 256
    assert update["arguments"] > 3 * 4 * weights / 4  # weights and two moments, a quarter on each chip
    assert sum(update["collectives"].values()) > 0 and 0 < update["mfu"] < 1
    copied = table["programs"][2]["collectives"]["all-gather"]
    assert copied == pytest.approx(
        2 * weights / 4, rel=0.1
    )  # bfloat16: half of a half is fetched from the other fsdp piece
    assert "fits on 4 v5e chips" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_cannot_fit_is_refused(config, capsys):
    """A quarter of a million rows in one microbatch: the attention of a layer alone is larger than a chip."""
    words = ["compile", str(config), "--topology", "v5e:2x2", "--programs", "update", "--prompt-tokens", "64"]
    assert cli.main([*words, "prompts=65536", "microbatches=1"]) == 2
    said = capsys.readouterr().err
    assert "refused" in said and ("does not fit" in said or "needs" in said)


@pytest.mark.slow
def test_a_sweep_recommends_the_lowest_bound(config, capsys):
    words = ["compile", str(config), "--topology", "v5e:2x2", "--sweep", "--prompt-tokens", "64"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    tried = {line.split()[0] for line in lines if line.startswith("fsdp:")}
    assert tried == {"fsdp:4", "fsdp:2,tensor:2"}
    assert lines[-1].startswith("recommended: mesh=fsdp:")
