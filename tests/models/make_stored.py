"""Writes data/logits.npz, the logits that transformers gives for the checkpoints of families.py; needs torch.

Run `python -m tests.models.make_stored` in the repository. Every fifth position of two rows shows any error.
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.models.families import FAMILIES, tokens_of, write_checkpoint

STORED = Path(__file__).parent / "data" / "logits.npz"
EVERY = 5


def logits_of_transformers(folder, tokens):
    """Logits [B, T, V] in float32 from transformers' own code."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


if __name__ == "__main__":
    found = {}
    for name, raw in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = logits_of_transformers(write_checkpoint(folder, raw), tokens_of(raw))[:, ::EVERY]
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **found)
    print(f"{STORED.name}: {STORED.stat().st_size} bytes")
