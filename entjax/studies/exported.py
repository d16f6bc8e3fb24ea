"""Does transformers give an exported run the accuracy that entjax gives it? Greedy answers to the held-out prompts, in both.

entjax export WORKDIR FOLDER && python -m entjax.studies.exported WORKDIR FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from entjax import decoding
from entjax.commands import restored
from entjax.setup import Parts


def own_answers(parts: Parts, params) -> list[str]:
    """Greedy completions of the held-out prompts by entjax's sampler."""
    tools = parts.tools(params, 0, samples=1, temperature=1.0, held_out=True)
    done = tools.generate([parts.encode(e) for e in parts.eval_examples], rules=decoding.greedy())
    return [tools.decode(done.completion(row)) for row in range(len(done.length))]


def their_answers(parts: Parts, folder: Path) -> list[str]:
    """The same by transformers and torch from the folder alone, one prompt after another: no padding to agree about."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = []
    for example in parts.eval_examples:
        message = [{"role": "user", "content": example.prompt}]
        given = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**given, do_sample=False, max_new_tokens=parts.config.max_new_tokens)
        texts.append(tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


def compare(parts: Parts, ours: Sequence[str], theirs: Sequence[str]) -> dict[str, float]:
    """Accuracy of both, and how many texts are the same to the letter."""
    score = lambda texts: float(np.mean(parts.eval_scorer.score(parts.eval_examples, texts)[0] >= 1.0))
    same = float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)]))
    return {"entjax": score(ours), "transformers": score(theirs), "same text": same}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("workdir", type=Path)
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    with restored(given.workdir) as (parts, state):
        found = compare(parts, own_answers(parts, state.params), their_answers(parts, given.folder))
    print(f"greedy accuracy on {len(parts.eval_examples)} held-out prompts, step {int(state.step)}")
    for name, value in found.items():
        print(f"{name:16}{value:8.4f}")


if __name__ == "__main__":
    main()
