"""Golden numbers of losses on given text: values, selections and gradients in the logits."""

import jax
import jax.numpy as jnp
import numpy as np

from entjax import masked, sft, vocab
from entjax.sft.distil import later, teacher_cross_entropy
from entjax.sft.distill import teacher_logp
from tests.golden.harness import golden


def run(loss, x):
    """(loss, gradient in the logits, the decision) on the arrays of a case, whose logits already lie beside their tokens."""
    logits, mask = jnp.asarray(x["logits"]), jnp.asarray(x["mask"]) > 0
    tokens = jnp.asarray(x["tokens"], jnp.int32)
    side = {"ref_logits": jnp.asarray(x["teacher_logits"])} if "teacher_logits" in x else {}
    row = vocab.Row(logits, tokens, side)
    decision = loss.weigh(mask, {name: feature(row) for name, feature in loss.reads.items()})

    def total(logits):
        row = vocab.Row(logits, tokens, {**side, **decision})
        return jnp.where(mask, loss.per_token(row), 0).sum()

    return *jax.value_and_grad(total)(logits), decision


def beside_teacher(x):
    side = {"ref_logits": jnp.asarray(x["teacher_logits"])}
    return vocab.Row(jnp.asarray(x["logits"]), jnp.asarray(x["tokens"], jnp.int32), side)


@golden("lightif_entropy_sft")
def test_entropy_sft(case):
    x = case.x
    loss, grads, decision = run(sft.entropy_sft(float(x["hp_ratio"]), float(x["hp_coef"])), x)
    kept = np.asarray(decision["weight"]) > 0
    np.testing.assert_array_equal(kept, x["out_mask"] > 0)
    assert kept.sum() == x["out_k"]
    case.close(loss, "out_loss")
    case.close(grads, "out_grad_logits")


@golden("mixce")
def test_mixce(case):
    loss, grads, _ = run(sft.mixce(float(case.x["eta"])), case.x)
    case.close(loss, "out_loss")
    case.close(grads, "out_grad_logits")


@golden("distill")
def test_mixtures_of_both_directions(case):
    names = [name.removeprefix("out_loss_lam") for name in case.x if name.startswith("out_loss_lam")]
    assert len(names) > 1
    for name in names:
        loss, grads, _ = run(sft.distill(float(name)), case.x)
        case.close(loss, f"out_loss_lam{name}")
        case.close(grads, f"out_grad_logits_lam{name}")


@golden("distill")
def test_opd(case):
    x = case.x
    row = beside_teacher(x)
    case.close(teacher_logp(row) - vocab.logp(row), "out_opd_reward")
    case.close(masked.mean(vocab.entropy(row), jnp.asarray(x["mask"]) > 0), "out_student_entropy")
    loss, grads, _ = run(sft.opd(), x)
    case.close(loss, "out_opd_loss")
    case.close(grads, "out_opd_grad_logits")


@golden("distill")
def test_distil(case):
    x = case.x
    mask = jnp.asarray(x["mask"]) > 0
    row = beside_teacher(x)
    cost = teacher_cross_entropy(row)
    case.close(masked.keep(cost, mask), "out_distil_ce")
    case.close(later(cost, mask), "out_distil_future")
    loss, grads, _ = run(sft.distil(), x)
    case.close(loss, "out_distil_surrogate")
    case.close(grads, "out_distil_grad_logits")
