"""The annotated shapes and dtypes of entjax's functions, checked at every call of the tests (jaxtyping with beartype).

Only annotations like Float[Array, "B T"] are checked, and NumPy's arrays pass too: host code calls the same functions. What else
a function takes it checks itself, with a sentence.
"""

import beartype
import jax
import numpy as np
from jaxtyping import AbstractArray


def checked(f):
    """`f` under beartype, if it annotates an array; what is not an array goes unchecked."""
    arrays = {name: _either(hint) for name, hint in f.__annotations__.items() if _is_array(hint)}
    if not arrays:
        return f
    f.__annotations__ = arrays
    return beartype.beartype(f)


def _is_array(hint) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _either(hint):
    return hint.dtype[jax.Array | np.ndarray, hint.dim_str]
