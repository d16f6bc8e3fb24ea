"""A run compiled ahead of time for a TPU slice that is not there: memory, collectives, and the time at best."""

from entjax.aot.chips import CHIPS, Chip
from entjax.aot.programs import Plan, Report, compile_program, plan

__all__ = ["CHIPS", "Chip", "Plan", "Report", "compile_program", "plan"]
