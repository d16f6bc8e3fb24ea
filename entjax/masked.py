"""The only masked and grouped reductions: padding never reaches a statistic, and an empty mask gives a finite number.

Masks are True where valid. Everything is computed in at least float32. Group statistics compare ids pairwise ([B, B]), so
any integers serve as group ids, rows may be permuted, and a row with a negative id belongs to no group.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, Shaped

from entjax.types import wide_dtype


def wide(x: Array) -> Array:
    """x in at least float32; booleans and integers become float32."""
    return x.astype(wide_dtype(x.dtype))


def keep(x: Array, mask: Array) -> Array:
    """x where the mask is True, else 0: NaN and inf on padding disappear here."""
    return jnp.where(mask, wide(x), 0)


def gap(a: Array, b: Array, mask: Array) -> Array:
    """a - b where the mask is True, else 0; both in at least float32 before they are subtracted."""
    return keep(a, mask) - keep(b, mask)


def count(mask: Array, axis=None, keepdims: bool = False, dtype=jnp.float32) -> Array:
    """Number of valid entries as a float."""
    return jnp.sum(mask.astype(dtype), axis=axis, keepdims=keepdims)


def total(x: Array, mask: Array, axis=None, keepdims: bool = False) -> Array:
    """Sum over valid entries."""
    return jnp.sum(keep(x, mask), axis=axis, keepdims=keepdims)


def mean(x: Array, mask: Array, axis=None, keepdims: bool = False) -> Array:
    """Mean over valid entries; 0 where there is none."""
    s = total(x, mask, axis, keepdims)
    return s / jnp.maximum(count(mask, axis, keepdims, s.dtype), 1)


def var(x: Array, mask: Array, axis=None, ddof: int = 0, keepdims: bool = False) -> Array:
    """Variance over valid entries, 0 where there are not more than `ddof`."""
    off = centred(x, mask, axis)
    n = count(mask, axis, keepdims, off.dtype)
    return jnp.sum(off**2, axis=axis, keepdims=keepdims) / jnp.maximum(n - ddof, 1)


def std(x: Array, mask: Array, axis=None, ddof: int = 0, keepdims: bool = False) -> Array:
    """Standard deviation over valid entries."""
    return jnp.sqrt(var(x, mask, axis, ddof, keepdims))


def minimum(x: Array, mask: Array, axis=None, keepdims: bool = False, empty: float = 0.0) -> Array:
    """Smallest valid entry, `empty` where there is none."""
    smallest = jnp.min(jnp.where(mask, wide(x), jnp.inf), axis=axis, keepdims=keepdims)
    return jnp.where(jnp.any(mask, axis=axis, keepdims=keepdims), smallest, empty)


def maximum(x: Array, mask: Array, axis=None, keepdims: bool = False, empty: float = 0.0) -> Array:
    """Largest valid entry, `empty` where there is none."""
    largest = jnp.max(jnp.where(mask, wide(x), -jnp.inf), axis=axis, keepdims=keepdims)
    return jnp.where(jnp.any(mask, axis=axis, keepdims=keepdims), largest, empty)


def rank(x: Array, mask: Array) -> Int[Array, ...]:
    """Position of every entry among all valid ones, 0 the smallest; ties by index; padding comes last. Over all axes."""
    flat = jnp.where(mask, wide(x), jnp.inf).ravel()
    padding_last = jnp.lexsort((flat, ~mask.ravel()))
    return (
        jnp.zeros(flat.shape, jnp.int32)
        .at[padding_last]
        .set(jnp.arange(flat.size, dtype=jnp.int32))
        .reshape(x.shape)
    )


def lowest(x: Array, mask: Array, k: Array | int) -> Bool[Array, ...]:
    """True at the k smallest valid entries over all axes; k may be traced."""
    return mask & (rank(x, mask) < k)


def highest(x: Array, mask: Array, k: Array | int) -> Bool[Array, ...]:
    """True at the k largest valid entries over all axes; k may be traced."""
    return lowest(-wide(x), mask, k)


def quantile(x: Array, mask: Array, q: Array | float, axis=None, keepdims: bool = False) -> Array:
    """Linearly interpolated quantile of the valid entries (NumPy's default); 0 where there is none."""
    x, mask, axis, shape = _one_axis(x, mask, axis, keepdims)
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf), axis=-1)
    n = mask.sum(-1)
    position = jnp.asarray(q, x.dtype) * jnp.maximum(n - 1, 0).astype(x.dtype)
    below = jnp.floor(position).astype(jnp.int32)
    above = jnp.minimum(below + 1, jnp.maximum(n - 1, 0))
    take = lambda i: jnp.take_along_axis(ordered, i[..., None], -1)[..., 0]
    fraction = position - below.astype(x.dtype)
    low, high = take(below), take(above)
    value = jnp.where(n > 0, low + (jnp.where(n > 0, high, 0) - jnp.where(n > 0, low, 0)) * fraction, 0)
    return value.reshape(shape)


def nearest_quantile(x: Array, mask: Array, q: float) -> Array:
    """The entry at sorted position round_half_even(q (n - 1)), over all axes; 0 where there is none."""
    flat = jnp.sort(jnp.where(mask, wide(x), jnp.inf).ravel())
    n = mask.sum()
    position = jnp.round(q * jnp.maximum(n - 1, 0).astype(jnp.float32)).astype(jnp.int32)
    return jnp.where(n > 0, flat[position], 0)


def standardize(x: Array, mask: Array, axis=None, ddof: int = 0, eps: float = 0.0) -> Array:
    """(x - mean) / (std + eps) on valid entries, 0 elsewhere; 0 where all valid entries are equal."""
    spread = std(x, mask, axis, ddof, keepdims=True) + eps
    return centred(x, mask, axis) / jnp.where(spread > 0, spread, 1)


def centred(x: Array, mask: Array, axis=None) -> Array:
    """x - mean on valid entries, 0 elsewhere. Counted from the smallest, so that the mean of equal entries does not round."""
    above = keep(wide(x) - minimum(x, mask, axis, keepdims=True), mask)
    return keep(above - mean(above, mask, axis, keepdims=True), mask)


def softmax(x: Array, mask: Array, axis: int = -1) -> Array:
    """Softmax over the valid entries of an axis, 0 elsewhere (all zero where there is none)."""
    x = wide(x)
    shifted = jnp.where(mask, x - maximum(x, mask, axis, keepdims=True), 0)
    weights = jnp.where(mask, jnp.exp(shifted), 0)
    denominator = weights.sum(axis, keepdims=True)
    return weights / jnp.where(denominator > 0, denominator, 1)


# Groups: rows [B] with equal, non-negative ids.


def same_group(group: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """True where two rows belong to one group."""
    return (group[:, None] == group[None, :]) & (group >= 0)[None, :] & (group >= 0)[:, None]


def group_total(x: Shaped[Array, " B"], group: Int[Array, " B"]) -> Float[Array, " B"]:
    """Sum over the rows of the group, at every row of it."""
    return jnp.sum(jnp.where(same_group(group), wide(x)[None, :], 0), axis=1)


def group_count(group: Int[Array, " B"], dtype=jnp.float32) -> Num[Array, " B"]:
    """Number of rows in the row's group (0 for filler rows)."""
    return same_group(group).astype(dtype).sum(1)


def group_mean(x: Shaped[Array, " B"], group: Int[Array, " B"]) -> Float[Array, " B"]:
    """Mean over the rows of the group, at every row of it. Counted from the largest: the mean of equal values is that value."""
    top = group_max(x, group)
    below = group_total(wide(x) - top, group)
    return top + below / jnp.maximum(group_count(group, below.dtype), 1)


def group_std(x: Shaped[Array, " B"], group: Int[Array, " B"], ddof: int = 0) -> Float[Array, " B"]:
    """Standard deviation over the rows of the group; 0 for a group of not more than `ddof` rows."""
    squared = group_total((wide(x) - group_mean(x, group)) ** 2, group)
    return jnp.sqrt(squared / jnp.maximum(group_count(group, squared.dtype) - ddof, 1))


def group_max(x: Shaped[Array, " B"], group: Int[Array, " B"]) -> Float[Array, " B"]:
    """Largest value in the group, at every row of it."""
    return maximum(jnp.broadcast_to(wide(x)[None, :], (x.shape[0],) * 2), same_group(group), axis=1)


def group_rank(x: Shaped[Array, " B"], group: Int[Array, " B"]) -> Int[Array, " B"]:
    """Position of the row in its group when sorted ascending by x, ties by row index (a stable sort)."""
    index = jnp.arange(x.shape[0])
    before = (x[None, :] < x[:, None]) | ((x[None, :] == x[:, None]) & (index[None, :] < index[:, None]))
    return jnp.sum(same_group(group) & before, axis=1)


def group_quantile(x: Shaped[Array, " B"], group: Int[Array, " B"], q: float) -> Float[Array, " B"]:
    """Linearly interpolated quantile of the group, at every row of it."""
    rows = jnp.broadcast_to(wide(x)[None, :], (x.shape[0],) * 2)
    return quantile(rows, same_group(group), q, axis=1)


def _one_axis(x, mask, axis, keepdims):
    """x and mask with the reduced axis last (all axes flattened for None), and the shape of the result."""
    x = wide(x)
    if axis is None:
        return x.ravel(), mask.ravel(), -1, (1,) * x.ndim if keepdims else ()
    shape = list(x.shape)
    shape[axis] = 1
    shape = tuple(shape) if keepdims else tuple(n for i, n in enumerate(x.shape) if i != axis % x.ndim)
    return jnp.moveaxis(x, axis, -1), jnp.moveaxis(mask, axis, -1), -1, shape
