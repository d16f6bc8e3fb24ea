"""A tokenizer folder of a few words, in which a text is its words between blanks; made without torch."""

WORDS = ["<pad>", "<s>", "</s>", "<end>", "?", *"0123456789", "+", "[", "]", "quiet", "be"]
IDS = {word: i for i, word in enumerate(WORDS)}
TEMPLATE = (
    "{% for m in messages %}{{ '[ ' if m['role'] == 'user' else '' }}{{ m['content'] }} ] {% endfor %}"
    "{{ '' if thinking is not defined or thinking else 'quiet' }}"
)


def write_words(folder, *, begins=False, template=None):
    """<s> begins a text where `begins` is set; </s> ends it; <end> is a special token of its own; ? stands for other words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel(IDS, unk_token="?"))
    inner.pre_tokenizer = WhitespaceSplit()
    if begins:
        inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", IDS["<s>"])])
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "?"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **marks, additional_special_tokens=["<end>"])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(folder))
    return folder
