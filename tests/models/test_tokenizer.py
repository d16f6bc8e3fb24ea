"""The tokenizer of a folder: opened with its chat template, copied by save_hf, refused when it does not fit."""

import json

import pytest

from entjax.models import CheckpointError, load_hf, load_tokenizer, save_hf
from entjax.tasks import hf_tokenizer
from tests.models.families import FAMILIES, write_checkpoint

WORDS = ["<pad>", "<eos>", "1", "2", "3", "+", "="]
TEMPLATE = "{% for m in messages %}{{ m['content'] }} ={% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with a word tokenizer, made without torch."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    where = tmp_path_factory.mktemp("words")
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    write_checkpoint(where, FAMILIES["llama"] | {"eos_token_id": 1, "pad_token_id": 0})
    tokenizer.save_pretrained(str(where))
    (where / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 6]}))
    return where


def test_it_encodes_and_applies_its_template(folder):
    tokenizer = load_tokenizer(folder, vocab=37)
    assert tokenizer.encode("1 + 2", add_special_tokens=False) == [2, 5, 3]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "3 + 1"}], tokenize=False)
    assert text == "3 + 1 ="


def test_save_hf_takes_it_along(folder, tmp_path):
    save_hf(tmp_path / "out", load_hf(folder), tokenizer_from=folder)
    assert load_tokenizer(tmp_path / "out").get_vocab() == load_tokenizer(folder).get_vocab()
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (raw["eos_token_id"], raw["pad_token_id"]) == (1, 0)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [1, 6]


def test_one_that_does_not_fit_is_refused(folder):
    with pytest.raises(CheckpointError, match="7 tokens and the embedding only 6 rows"):
        load_tokenizer(folder, vocab=6)


def test_a_placeholder_needs_no_embedding_but_no_text_may_hold_it(folder, tmp_path):
    """Gemma 3's tokenizer has <image_soft_token> behind the last row of the 1B model's embedding."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    write_checkpoint(tmp_path, FAMILIES["gemma3"] | {"vocab_size": 7})
    tokenizer.save_pretrained(str(tmp_path))
    assert load_hf(tmp_path).config.vocab == 7 and len(load_tokenizer(tmp_path, vocab=7)) == 8
    ours = hf_tokenizer(tmp_path)
    assert ours.vocab_size == 7 and ours.encode("1 + 2") == [2, 5, 3]
    with pytest.raises(ValueError, match=r"holds <image_soft_token>, for which .* has no embedding: '1 "):
        ours.encode("1 <image_soft_token>")


def test_folders_without_one_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="could not be opened"):
        load_tokenizer(tmp_path)
    write_checkpoint(tmp_path / "in", FAMILIES["llama"])
    with pytest.raises(CheckpointError, match="no tokenizer files to copy"):
        save_hf(tmp_path / "out", load_hf(tmp_path / "in"), tokenizer_from=tmp_path / "in")


def test_code_in_the_folder_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    custom = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(custom))
    with pytest.raises(CheckpointError):
        load_tokenizer(tmp_path)
    assert not marker.exists()
