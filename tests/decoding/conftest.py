"""The sampler tests' tiny decoder, for rules that need the loop."""

from tests.sampler.conftest import world

__all__ = ["world"]
