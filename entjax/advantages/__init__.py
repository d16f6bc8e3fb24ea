"""Advantages: how good a sequence or a token was, written into signal.advantage."""

from entjax.advantages.agentic_advantage import agentic_advantage
from entjax.advantages.canon import canon, canon_cosine
from entjax.advantages.dcpo import dcpo
from entjax.advantages.dgpo import dgpo
from entjax.advantages.divergence_weights import divergence_weights
from entjax.advantages.ear import ear
from entjax.advantages.echo_shaping import echo_shaping
from entjax.advantages.empg import empg
from entjax.advantages.entrocraft import entrocraft
from entjax.advantages.entropic_balance import entropic_balance
from entjax.advantages.entropy_bonus import entropy_bonus
from entjax.advantages.erpo import erpo
from entjax.advantages.explore_perplexity import explore_perplexity
from entjax.advantages.explore_position import explore_position
from entjax.advantages.gae import gae
from entjax.advantages.gpg import gpg
from entjax.advantages.group_normalize import group_normalize
from entjax.advantages.hapo import hapo_redistribution
from entjax.advantages.hapo_average import hapo_average
from entjax.advantages.hapo_statistics import hapo_statistics
from entjax.advantages.hardness import hardness
from entjax.advantages.hicra import hicra
from entjax.advantages.leave_one_out import leave_one_out
from entjax.advantages.opo import opo
from entjax.advantages.otb import otb
from entjax.advantages.pass_at_k import pass_at_k
from entjax.advantages.quantile import quantile
from entjax.advantages.raw import raw
from entjax.advantages.reinforce_pp import reinforce_pp, reinforce_pp_baseline
from entjax.advantages.remax import remax
from entjax.advantages.replay_baseline import replay_baseline, replay_weight
from entjax.advantages.seed import seed
from entjax.advantages.signed_scale import signed_scale
from entjax.advantages.teacher import teacher_advantage

__all__ = [
    "agentic_advantage",
    "canon",
    "canon_cosine",
    "dcpo",
    "dgpo",
    "divergence_weights",
    "ear",
    "echo_shaping",
    "empg",
    "entrocraft",
    "entropic_balance",
    "entropy_bonus",
    "erpo",
    "explore_perplexity",
    "explore_position",
    "gae",
    "gpg",
    "group_normalize",
    "hapo_average",
    "hapo_redistribution",
    "hapo_statistics",
    "hardness",
    "hicra",
    "leave_one_out",
    "opo",
    "otb",
    "pass_at_k",
    "quantile",
    "raw",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "remax",
    "replay_baseline",
    "replay_weight",
    "seed",
    "signed_scale",
    "teacher_advantage",
]
