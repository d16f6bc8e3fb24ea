"""Objectives inside other people's trainers: from plain logits in any JAX loop, and as a registered loss in Tunix."""

from entjax.adapters.arrays import decide, loss_from_logits, loss_with_state

__all__ = ["decide", "loss_from_logits", "loss_with_state"]
