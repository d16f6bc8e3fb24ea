"""Rewards: what is added to, or replaces, the verifier's number, written into signal.reward; `text` holds host functions."""

from entjax.rewards import text
from entjax.rewards.ares_kl import Law, ares_kl
from entjax.rewards.ares_reward import ares_reward
from entjax.rewards.clusters import answer_clusters
from entjax.rewards.dsdr import diversity, dsdr
from entjax.rewards.em_rl import em_rl
from entjax.rewards.empo import empo
from entjax.rewards.kl_reward import kl_reward
from entjax.rewards.majority_vote import majority_vote, vote
from entjax.rewards.overlong import overlong
from entjax.rewards.pear import pear
from entjax.rewards.tool_use import tool_use

__all__ = [
    "Law",
    "answer_clusters",
    "ares_kl",
    "ares_reward",
    "diversity",
    "dsdr",
    "em_rl",
    "empo",
    "kl_reward",
    "majority_vote",
    "overlong",
    "pear",
    "text",
    "tool_use",
    "vote",
]
