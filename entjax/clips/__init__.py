"""Clips: the range of the probability ratio, written into signal.clip_low and signal.clip_high."""

from entjax.clips.asymmetric import asymmetric
from entjax.clips.cap import cap
from entjax.clips.echo import echo
from entjax.clips.geometric import geometric
from entjax.clips.hapo import hapo
from entjax.clips.unclipped import unclipped

__all__ = ["asymmetric", "cap", "echo", "geometric", "hapo", "unclipped"]
