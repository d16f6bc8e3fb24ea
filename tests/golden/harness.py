"""Golden numbers: which cases exist, how to load one, how a test declares that it consumes a family.

The vendored numbers lie packed in tests/golden/data (one npz a family, arrays named "<case>|<array>"). The environment
variable ENTJAX_GOLDEN points the same tests at a folder of loose files, `<family>.json` and `<family>__<case>.npz`.

    @golden("steer")
    def test_steer(case): ...          # case.x: arrays by name (float64 where stored so), case.name, case.meta, case.rtol
"""

import functools
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

PACKED = Path(__file__).parent / "data"
LOOSE = os.environ.get("ENTJAX_GOLDEN")


class Case(NamedTuple):
    family: str
    name: str

    @property
    def x(self):
        return arrays(self.family)[self.name]

    @property
    def meta(self):
        return metas(self.family)

    @property
    def rtol(self):
        """The tolerance of the family: 1e-5, or looser where the official code only runs in float32."""
        stated = re.match(
            r"[\d.]+(e-\d+)?", str(self.meta.get("rtol", 1e-5))
        )  # of "1e-9; adv_* 1e-7" the first
        return max(1e-5, float(stated[0]))

    def __str__(self):
        return f"{self.family}-{self.name}"

    def close(self, ours, name, **kwargs):
        """Compare with the stored array: max|x - ref| <= rtol max|ref| + atol; `rtol` for arrays that the json excepts."""
        ref = np.asarray(self.x[name], np.float64)
        ours = np.asarray(ours, np.float64)
        assert ours.shape == ref.shape, f"{self}: {name} has shape {ours.shape}, expected {ref.shape}"
        scale = max(float(np.max(np.abs(ref), initial=0.0)), 1e-8)
        worst = float(np.max(np.abs(ours - ref), initial=0.0))
        assert worst <= kwargs.get("rtol", self.rtol) * scale + kwargs.get("atol", 0.0), (
            f"{self}: {name} differs by {worst} of {scale}"
        )


@functools.lru_cache(None)
def metas(family):
    folder = Path(LOOSE) if LOOSE else PACKED
    return json.loads((folder / f"{family}.json").read_text())


@functools.lru_cache(None)
def arrays(family):
    """{case: {array: value}} of a family."""
    out = {}
    if LOOSE:
        for path in sorted(Path(LOOSE).glob(f"{family}__*.npz")):
            with np.load(path, allow_pickle=False) as file:
                out[path.stem.split("__", 1)[1]] = {key: file[key] for key in file.files}
        return out
    with np.load(PACKED / f"{family}.npz", allow_pickle=False) as file:
        for key in file.files:
            case, name = key.split("|", 1)
            out.setdefault(case, {})[name] = file[key]
    return out


def families():
    """Every family that has a description."""
    folder = Path(LOOSE) if LOOSE else PACKED
    return sorted(path.stem for path in folder.glob("*.json"))


def golden(*names):
    """Parametrize a test over all cases of some families, in float64 with NumPy-like promotion."""
    absent = LOOSE and not set(names) <= set(families())  # a folder of one's own may hold a few of them
    cases = [] if absent else [Case(family, case) for family in names for case in arrays(family)]

    def decorate(test):
        @pytest.mark.parametrize("case", cases, ids=str)
        def wrapped(case):
            with (
                jax.enable_x64(True),
                jax.numpy_dtype_promotion("standard"),
                jax.numpy_rank_promotion("allow"),
            ):
                test(case)

        wrapped.__name__ = test.__name__
        wrapped.__doc__ = test.__doc__
        return wrapped

    return decorate
