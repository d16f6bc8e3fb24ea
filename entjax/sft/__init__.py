"""Supervised fine-tuning and distillation: losses on given text, decided on the whole batch like everything else."""

from entjax.sft.distil import distil
from entjax.sft.distill import distill, opd
from entjax.sft.em_ft import em_ft
from entjax.sft.entropy_sft import entropy_sft
from entjax.sft.length_curriculum import first_tokens, length_at, length_curriculum
from entjax.sft.mixce import mixce
from entjax.sft.nll import nll
from entjax.sft.on_policy import on_policy, on_policy_reward
from entjax.sft.text_loss import Text, TextLoss, decide, loss_of_text, make_text_step

__all__ = [
    "Text",
    "TextLoss",
    "decide",
    "distil",
    "distill",
    "em_ft",
    "entropy_sft",
    "first_tokens",
    "length_at",
    "length_curriculum",
    "loss_of_text",
    "make_text_step",
    "mixce",
    "nll",
    "on_policy",
    "on_policy_reward",
    "opd",
]
