"""Rollout strategies: host functions that decide which prompts and prefixes are sampled."""

from entjax.rollouts.groups import groups
from entjax.rollouts.harvest import Harvest, Strategy, Tools, to_rollout

__all__ = ["Harvest", "Strategy", "Tools", "groups", "to_rollout"]
