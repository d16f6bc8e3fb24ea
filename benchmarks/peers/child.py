"""The far side: what every driver does to be told when to work. Imports nothing that a peer's environment may lack."""

import json
import os
import random
import sys
import time


def start():
    """(the job, say, wait): the real standard output is kept for answers, whatever else is printed goes to the log."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    began = [0.0]

    def say(**answer):
        print(json.dumps({**answer, "processor": time.process_time() - began[0]}), file=out, flush=True)

    def wait():
        """Until the next "go"; the process ends with its parent."""
        if sys.stdin.readline().strip() != "go":
            os._exit(0)
        began[0] = time.process_time()

    return json.loads(sys.argv[1]), say, wait


def tokenizer(vocab, eos, pad):
    """Token 17 is the word "w17": a text of n words has n tokens, whoever counts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {eos: "<eos>", pad: "<pad>"}  # names that are not the beginning of another word's
    words = {special.get(i, f"w{i}"): i for i in range(vocab)}
    inner = Tokenizer(models.WordLevel(words, unk_token=f"w{vocab - 1}"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    assert made.encode("w17 w2") == [17, 2]
    return made


def texts(job):
    """The prompts of a step."""
    return [" ".join(f"w{i}" for i in tokens) for tokens in job["prompts"]]


def rewards(completions, seen):
    """The share of odd tokens of every completion; their number goes to `seen`."""
    numbers = [[int(word[1:]) for word in text.split() if word[0] == "w"] for text in completions]
    seen["tokens"] = sum(map(len, numbers))
    return [sum(n % 2 for n in one) / max(len(one), 1) + 1e-6 * random.random() for one in numbers]
