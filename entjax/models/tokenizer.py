"""The tokenizer of a checkpoint folder, opened by transformers, without torch and without its own code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from entjax.models.files import CheckpointError, read_json

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
)
# Stands for an image in Gemma 3's tokenizer; its text models have no embedding for it.
PLACEHOLDERS = frozenset({"<image_soft_token>"})


def has_tokenizer(folder: str | Path) -> bool:
    """Does the folder hold a tokenizer? A character-level model's holds none."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    return any((Path(folder) / name).is_file() for name in names)


def load_tokenizer(folder: str | Path, vocab: int | None = None) -> Any:
    """The folder's tokenizer, chat template included; `vocab` checks it against the rows of the embedding."""
    folder = Path(folder)
    if not has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} holds no tokenizer.json; copy the tokenizer files of the model it came from."
        )
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise a dozen kinds, bare Exception among them
        raise CheckpointError(f"The tokenizer in {folder} could not be opened: {error}") from error
    if vocab is not None:
        largest = max(
            (i for name, i in tokenizer.get_vocab().items() if name not in PLACEHOLDERS), default=-1
        )
        check_vocabulary(folder, largest + 1, vocab)
    return tokenizer


def end_ids(folder: str | Path) -> tuple[int, ...]:
    """The ids that end a text by the folder's generation_config.json and config.json, each of which may name none or several."""
    found: list[int] = []
    for path in (Path(folder) / "generation_config.json", Path(folder) / "config.json"):
        named = read_json(path).get("eos_token_id") if path.is_file() else None
        ids = named if isinstance(named, list) else [] if named is None else [named]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise CheckpointError(f"{path} has eos_token_id {named!r}: write a token id or a list of them.")
        found += ids
    return tuple(dict.fromkeys(found))


def check_vocabulary(folder: Path, tokens: int, vocab: int) -> None:
    """A token without an embedding is an error; an embedding padded beyond the tokens is fine."""
    if tokens > vocab:
        raise CheckpointError(
            f"The tokenizer in {folder} has {tokens} tokens and the embedding only {vocab} rows; "
            "they belong to different models, or tokens were added without growing the embedding."
        )


def count_tokens(folder: Path) -> int | None:
    """One more than the largest id in tokenizer.json, placeholders aside, or None where there is no such file."""
    if not (folder / "tokenizer.json").is_file():
        return None
    found = read_json(folder / "tokenizer.json")
    model, added = found.get("model"), found.get("added_tokens") or []
    vocab = model.get("vocab", {}) if isinstance(model, dict) else {}
    if not isinstance(vocab, (dict, list)) or not isinstance(added, list):
        raise CheckpointError(f"{folder / 'tokenizer.json'} has no list of tokens; copy it again.")
    ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
    ids += [
        token.get("id", -1) if isinstance(token, dict) else None
        for token in added
        if not (isinstance(token, dict) and token.get("content") in PLACEHOLDERS)
    ]
    if not all(isinstance(i, int) for i in ids):
        raise CheckpointError(f"{folder / 'tokenizer.json'} gives tokens ids that are not whole numbers.")
    return max(ids, default=-1) + 1


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the tokenizer files, the chat template and the generation defaults of one folder to another."""
    present = [source / name for name in FILES if (source / name).is_file()]
    if not present:
        raise CheckpointError(f"{source} holds no tokenizer files to copy.")
    for path in present:
        shutil.copyfile(path, folder / path.name)
