"""Sampling alone: against transformers.generate on the same weights, and with slot refill against without."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import jax

from benchmarks.harness import Row
from benchmarks.work import EOS, MODELS, PAD, WORK, Work, make_model
from entjax.sampler import Sampling, Shapes, make_sampler


def rows(models=("4.2M",), rounds=5):
    """transformers.generate is the base where torch is installed."""
    for name in models:
        for work_name in ("a", "b"):
            yield _against_generate(name, work_name, rounds)
        yield _refill(name, rounds)


def _against_generate(model: str, work_name: str, rounds: int) -> Row:
    work, config = WORK[work_name], MODELS[model]
    decoder = make_model(config)
    programs = {"entjax": _ours(decoder, work)}
    if importlib.util.find_spec("torch"):
        programs["transformers.generate"] = _theirs(decoder, work)
    tokens = work.rows * work.new
    flops = (
        2.0 * sum(x.size for x in jax.tree.leaves(_params(decoder))) * (tokens + work.prompts * work.prompt)
    )
    return Row(
        f"sampler {work_name}, {model}", "all completions of the batch, float32", {**work._asdict(), "model": model},
        programs, "transformers.generate" if len(programs) > 1 else None, flops, rounds, {"completion tokens": tokens},
    )  # fmt: skip


def _refill(model: str, rounds: int) -> Row:
    """256 sequences of very different lengths through 64 slots, or as four batches of 64."""
    work = Work(32, 8, 32, 256, eos_every=64)
    decoder = make_model(MODELS[model], work.eos_every)
    shapes = Shapes(at_once=64)
    lists = work.token_lists(decoder.config.vocab)
    sampler = make_sampler(decoder, eos_ids=[EOS], pad_id=PAD, shapes=shapes)
    params, how, key = _params(decoder), Sampling(work.new), jax.random.key(1)

    def refilled():
        return sampler.generate(params, lists, how, key=key, samples=work.samples).length

    def in_batches():
        return [
            sampler.generate(
                params, lists[i : i + 8], how, key=key, samples=8, prompt_ids=range(i, i + 8)
            ).length
            for i in range(0, 32, 8)
        ]

    lengths = refilled() - work.prompt
    return Row(
        f"refill, {model}", "256 completions of 1 to 256 tokens, 64 at a time", {**work._asdict(), "model": model},
        {"refilled": refilled, "batch after batch": in_batches}, "batch after batch", 0.0, rounds,
        {"mean length": float(lengths.mean()), "longest": int(lengths.max())},
    )  # fmt: skip


def _params(decoder):
    from flax import nnx

    return nnx.split(decoder)[1]


def _ours(decoder, work: Work):
    sampler = make_sampler(decoder, eos_ids=[EOS], pad_id=PAD)
    params, lists = _params(decoder), work.token_lists(decoder.config.vocab)
    how, key = Sampling(work.new), jax.random.key(1)
    return lambda: sampler.generate(params, lists, how, key=key, samples=work.samples).tokens


def _theirs(decoder, work: Work):
    import torch
    from transformers import AutoModelForCausalLM

    from entjax.models import save_hf

    folder = Path(tempfile.mkdtemp())
    save_hf(folder, decoder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(work.token_lists(decoder.config.vocab)).repeat_interleave(work.samples, 0)

    def run():
        with torch.no_grad():
            return model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=work.new,
                min_new_tokens=work.new, pad_token_id=PAD, eos_token_id=EOS,
            ).numpy()  # fmt: skip

    return run
