"""Hundreds of small programs run once each: compile them without optimisations, which is quicker."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_to_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
