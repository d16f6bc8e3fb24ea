"""Rollout strategies: host functions that decide which prompts and prefixes are sampled."""

from entjax.rollouts.agentic import agentic
from entjax.rollouts.arpo import arpo
from entjax.rollouts.augmentation import Template, augmentation
from entjax.rollouts.back_off import back_off
from entjax.rollouts.cure import cure
from entjax.rollouts.echo import echo
from entjax.rollouts.echo_rules import EchoRules
from entjax.rollouts.environment import Environment, Turn, silent
from entjax.rollouts.groups import groups
from entjax.rollouts.harvest import Harvest, Strategy, Tools, as_strategy, stateless, to_rollout
from entjax.rollouts.multi_turn import multi_turn
from entjax.rollouts.particles import particle_filter
from entjax.rollouts.recent_samples import recent_samples
from entjax.rollouts.replay import replay
from entjax.rollouts.switching import switching
from entjax.rollouts.taught import taught
from entjax.rollouts.tempered import tempered
from entjax.rollouts.tool_light import tool_light
from entjax.rollouts.tree import tree
from entjax.rollouts.votes import votes

__all__ = [
    "EchoRules",
    "Environment",
    "Harvest",
    "Strategy",
    "Template",
    "Tools",
    "Turn",
    "agentic",
    "arpo",
    "as_strategy",
    "augmentation",
    "back_off",
    "cure",
    "echo",
    "groups",
    "multi_turn",
    "particle_filter",
    "recent_samples",
    "replay",
    "silent",
    "stateless",
    "switching",
    "taught",
    "tempered",
    "to_rollout",
    "tool_light",
    "tree",
    "votes",
]
