"""How to sample: the settings of one request, checked when they are put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from entjax.transform import Transform


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of `Sampler.generate`; none but the sizes and the kinds of rules lead to another compiled program.

    temperature: of the policy, a number or one for each of the N sequences. rules: a chain on the policy's logits that
    decides what is really sampled, e.g. `chain(decoding.top_k(50), decoding.top_p(0.9))`; None samples from the policy.
    stop_ids end a sequence as EOS does; stop_strings end it after the token that completes the first of them.
    """

    max_new_tokens: int = 256
    temperature: float | Sequence[float] = 1.0
    rules: Transform | None = None
    stop_ids: Sequence[int] = ()
    stop_strings: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if not np.all(np.asarray(self.temperature) > 0):
            raise ValueError(
                f"temperature must be positive, got {self.temperature}: for the limit 0 keep temperature=1.0 and pass "
                "rules=decoding.greedy()."
            )
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise ValueError(f"stop_strings must be a list of non-empty strings, got {self.stop_strings!r}.")
        if any(i < 0 for i in self.stop_ids):
            raise ValueError(f"stop_ids are token ids from 0, got {list(self.stop_ids)}.")
