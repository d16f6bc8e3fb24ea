"""Data sets: rows of files or of tensorflow-datasets as examples, and the stream of prompts that a run reads
from them.
"""

from entjax.data.prompts import PromptStream, prompts
from entjax.data.sources import Rows, jsonl, parquet, tfds

__all__ = ["PromptStream", "Rows", "jsonl", "parquet", "prompts", "tfds"]
