"""What a decoding rule may look at beside the logits.

A rule is a `Transform` whose payload is the logits [B, V] of the policy (tempered, float32, finite); a removed
token gets -inf, and at least one token of a row must stay. Three habits make a rule fit the jitted loop:

* `init(payload)` uses the payload's shape and dtype only. What it returns is traced, so hyperparameters belong there:
  a rule whose p sits in its state samples with another p without compiling again. A leaf of rank 0 is shared by all
  rows; the first axis of any other leaf is the rows, which the sampler forks, replaces and reorders.
* `update` is a function of a module, or a NamedTuple with `__call__` if something about it is static: then two rules
  made by two calls of a factory compare equal, and a chain that is built again finds its compiled loop. A closure
  works too, but must be built once and reused.
* a row never looks at another row.
"""

from __future__ import annotations

import zlib

import jax
from flax import struct
from jaxtyping import Array, Float, Int, Key

from entjax.decoding.select import entropy_of


@struct.dataclass
class DecodeContext:
    """The position about to be sampled, and the full policy there: softmax(model logits / temperature)."""

    position: Int[Array, " B"]  # index of the token in its row, prompt included
    index: Int[Array, " B"]  # its index in the completion: 0 for the first sampled token
    entropy: Float[Array, " B"]  # nats
    logp: Float[Array, "B V"]
    temperature: Float[Array, " B"]
    key: Key[Array, " B"]  # a function of sequence and position; not the key that draws the token
    name: str = struct.field(pytree_node=False, default="")

    @property
    def model_entropy(self) -> Float[Array, " B"]:
        """Entropy in nats of the model itself, at temperature 1 whatever the policy's temperature."""
        return entropy_of(jax.nn.softmax(self.logp * self.temperature[:, None], axis=-1))

    def enter(self, name: str) -> DecodeContext:
        """The context as the rule `name` sees it: keys that no other rule gets."""
        salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
        return self.replace(name=name, key=jax.vmap(lambda key: jax.random.fold_in(key, salt))(self.key))
