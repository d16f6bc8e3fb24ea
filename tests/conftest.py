"""Strict numerics for every test: 8 forced CPU devices, no silent dtype or rank promotion."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Thousands of small programs are compiled once and run once: without fusion emitters that takes a third of the time. What is
# trained in a process of its own gets the programs that users get; XLA_FLAGS=--xla_cpu_use_fusion_emitters=true: so do all.
DEVICES, QUICK = "--xla_force_host_platform_device_count=8", "--xla_cpu_use_fusion_emitters=false"
flags = os.environ.get("XLA_FLAGS", "").split()
known = {flag.split("=")[0] for flag in flags}
flags += [flag for flag in (DEVICES, QUICK) if flag.split("=")[0] not in known]
os.environ["XLA_FLAGS"] = " ".join(flags)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

import tests.shapes  # noqa: E402, F401

jax.devices()  # reads the flags
os.environ["XLA_FLAGS"] = " ".join(flag for flag in flags if flag != QUICK)

ROOMS = "advantages weights clips regularizers averages rewards masked vocab head_products features loss surrogates kl"
ROOMS += " entropy_change passes"
jaxtyping.install_import_hook([f"entjax.{room}" for room in ROOMS.split()], "tests.shapes.checked")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiled programs are kept between test runs (the folder is ignored by git and may be deleted at any time).
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(config, items):
    """Leave slow tests to `pytest -m slow`."""
    if "slow" in (config.option.markexpr or ""):
        return
    skip = pytest.mark.skip(reason="slow: run with `pytest -m slow`")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_do_not_pile_up():
    """Thousands of small programs would fill the memory: forget them after each file."""
    yield
    jax.clear_caches()
