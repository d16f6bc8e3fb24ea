"""What is read from a compiled program's text, against programs whose movements are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from entjax.aot import hlo

TPU = """
HloModule jit_f

%cond (p: (f32[8,128], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(8)
  %p = (f32[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%slice_one (a: f32[28,8,128], n: s32[]) -> f32[8,128] {
  %a = f32[28,8,128]{2,1,0:T(8,128)} parameter(0)
  %n = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %ds = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%a, %n, %zero, %zero), dynamic_slice_sizes={1,8,128}
}

%body (p: (f32[8,128], u32[])) -> (f32[8,128], u32[]) {
  %p.1 = (f32[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %i.1 = u32[]{:T(128)} get-tuple-element(%p.1), index=1
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p.1), index=0
  %start = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[], u32[]) collective-permute-start(%x), channel_id=1, metadata={op_name="jit(f)/ring"}
  %done = f32[8,128]{1,0:T(8,128)} collective-permute-done(%start)
  %fast = f32[8,128]{1,0:T(8,128)S(1)} negate(%done)
  %next = u32[]{:T(128)} add(%i.1, %two)
  ROOT %out = (f32[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) tuple(%done, %next)
}

ENTRY %main (x.1: f32[8,128], w: f32[28,8,128], n.1: s32[]) -> f32[8,128] {
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %w = f32[28,8,128]{2,1,0:T(8,128)} parameter(1)
  %n.1 = s32[]{:T(128)} parameter(2)
  %one = f32[8,128]{1,0:T(8,128)} fusion(%w, %n.1), kind=kLoop, calls=%slice_one
  %none = u32[]{:T(128)} constant(0)
  %both = (f32[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) tuple(%one, %none)
  %loop = (f32[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) while(%both), condition=%cond, body=%body
  %y = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=0
  %g = f32[64,128]{1,0:T(8,128)} all-gather(%y), channel_id=2, replica_groups=mesh['a'=8,'b'=4] {'a'}, dimensions={0}
  ROOT %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%y), channel_id=3, replica_groups=[4,8]<=[32], to_apply=%add
}
"""
ROW = 8 * 128 * 4


def test_loops_count_by_their_steps():
    """From 0 to 8 by 2: four runs of the body."""
    program = hlo.parse(TPU)
    assert program.times["body"] == 4 and program.times["main"] == 1


def test_collectives_of_a_ring_a_gather_and_a_sum():
    ring, gather, total = (
        next(c for c in hlo.collectives(hlo.parse(TPU), 32) if c.kind == kind)
        for kind in ("collective-permute", "all-gather", "all-reduce")
    )
    assert (ring.times, ring.bytes, ring.where) == (4, ROW, "jit(f)/ring")
    assert (gather.group, gather.bytes) == (8, 8 * ROW * 7 / 8)
    assert (total.group, total.bytes) == (8, 2 * ROW * 7 / 8)


def test_a_sum_of_which_a_piece_is_kept_goes_around_once():
    """A TPU program writes its reduce-scatter as a fusion of a sum and a slice."""
    fused = "%all-reduce-scatter.3 (a: f32[28,8,128], n: s32[]) -> f32[8,128] {"
    text = TPU.replace("%slice_one (a: f32[28,8,128], n: s32[]) -> f32[8,128] {", fused)
    text = text.replace("calls=%slice_one", "calls=%all-reduce-scatter.3")
    summed = "%ar = f32[28,8,128] all-reduce(%a), channel_id=9, replica_groups=[8,4]<=[32], to_apply=%add"
    text = text.replace("  %zero = s32[] constant(0)", f"  {summed}\n  %zero = s32[] constant(0)", 1)
    found = next(c for c in hlo.collectives(hlo.parse(text), 32) if c.kind == "reduce-scatter")
    assert (found.group, found.bytes) == (4, 28 * ROW * 3 / 4)


def test_traffic_counts_slices_at_their_size_and_nothing_on_the_chip():
    """Main: one slice of w read and written, the scalar n, gather and sum in and out; the loop: start in and out, negate in."""
    main = (ROW + ROW + 4) + (ROW + 8 * ROW) + (ROW + ROW)
    body = 4 * ((ROW + ROW + 8) + ROW + (4 + 4 + 4))
    assert hlo.traffic(hlo.parse(TPU)) == main + body


VIEWED = """
%turned (all.1: s8[28,8,128]) -> s8[28,8,128] {
  %all.1 = s8[28,8,128]{2,1,0:T(32,128)} parameter(0)
  ROOT %c = s8[28,8,128]{2,1,0:T(8,128)} copy(%all.1)
}

%use (a: s8[28,8,128], n: s32[]) -> f32[8,128] {
  %a = s8[28,8,128]{2,1,0:T(32,128)} parameter(0)
  %n = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  %view = s8[28,8,128]{2,1,0:T(8,128)} fusion(%a), kind=kLoop, calls=%turned
  %wide = f32[28,8,128]{2,1,0:T(8,128)} convert(%view)
  ROOT %ds = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%wide, %n, %zero, %zero), dynamic_slice_sizes={1,8,128}
}

ENTRY %main (w: s8[28,8,128], n.1: s32[]) -> f32[8,128] {
  %w = s8[28,8,128]{2,1,0:T(32,128)} parameter(0)
  %n.1 = s32[]{:T(128)} parameter(1)
  ROOT %one = f32[8,128]{1,0:T(8,128)} fusion(%w, %n.1), kind=kLoop, calls=%use
}
"""


@pytest.mark.parametrize("end", ["slice", "whole"])
def test_a_copy_or_another_type_inside_of_a_fusion_moves_what_is_looked_at(end):
    """One row of 28 in a byte each, where only it is looked at; all of them where the fusion's result is the view itself."""
    text = VIEWED if end == "slice" else VIEWED.replace("dynamic-slice(", "bitcast(")
    moved = {"slice": 8 * 128, "whole": 28 * 8 * 128}[end]
    assert hlo.traffic(hlo.parse(text)) == moved + 4 + 8 * 128 * 4


UPDATED = """
%write (a: f32[28,8,128], b: f32[1,8,128], n: s32[]) -> f32[28,8,128] {
  %a = f32[28,8,128]{2,1,0} parameter(0)
  %b = f32[1,8,128]{2,1,0} parameter(1)
  %n = s32[] parameter(2)
  %zero = s32[] constant(0)
  %mine = f32[28,8,128]{2,1,0} bitcast(%a)
  ROOT %dus = f32[28,8,128]{2,1,0} dynamic-update-slice(%mine, %b, %n, %zero, %zero)
}

ENTRY %main (w: f32[28,8,128], x: f32[1,8,128], n.1: s32[]) -> f32[28,8,128] {
  %w = f32[28,8,128]{2,1,0} parameter(0)
  %x = f32[1,8,128]{2,1,0} parameter(1)
  %n.1 = s32[] parameter(2)
  ROOT %one = f32[28,8,128]{2,1,0} fusion(%w, %x, %n.1), kind=kLoop, calls=%write
}
"""


@pytest.mark.parametrize("view", ["bitcast", "copy", "convert"])
def test_an_update_of_a_copy_moves_the_whole_array(view):
    """A row read and written in place; of a copy all 28 read, and all 28 written."""
    moved = 2 * ROW if view == "bitcast" else ROW + 2 * 28 * ROW
    assert hlo.traffic(hlo.parse(UPDATED.replace("bitcast(", f"{view}("))) == moved + 4


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("mesh['a'=16,'b'=4] {'a'}", 16),
        ("mesh['a'=16,'b'=4] {'a','b'}", 64),
        ("mesh['a'=32,'b'=2], device_ids=([2,32]T(1,0)) {'a'}", 32),
        ("mesh['a'=32,'b'=2] {'a':(2)4,'b'}", 8),
        ("[2,32]<=[64]", 32),
        ("{{0,2,4},{1,3,5}}", 3),
    ],
)
def test_group_sizes(groups, size):
    text = TPU.replace("mesh['a'=8,'b'=4] {'a'}", groups)
    assert next(c.group for c in hlo.collectives(hlo.parse(text), 64) if c.kind == "all-gather") == size


def test_an_open_loop_counts_as_told():
    text = TPU.replace("direction=LT", "direction=NE")
    assert hlo.parse(text).times["body"] == 1 and hlo.parse(text, open_loops=100).times["body"] == 100


@pytest.mark.parametrize(
    "call",
    [
        "branch_computations={%body_once, %nothing}",
        "true_computation=%body_once, false_computation=%nothing",
    ],
)
def test_branches_count_as_told(call):
    """A ring step inside a loop of four, in a branch that is taken in three quarters of the runs."""
    branch = "%body_once (q: f32[8,128]) -> f32[8,128] {\n  ROOT %r = f32[8,128]{1,0} collective-permute(%q), channel_id=9\n}\n\n"
    body = "  %branched = f32[8,128]{1,0} conditional(%i.1, %x, %x), " + call + "\n  %next ="
    text = TPU.replace("%body (p:", branch + "%body (p:", 1).replace("  %next =", body, 1)
    one = next(
        c
        for c in hlo.collectives(hlo.parse(text, branches=0.75), 32)
        if c.kind == "collective-permute" and c.where == ""
    )
    assert one.times == 3 and one.total == 3 * ROW


@pytest.mark.parametrize("layers", [3, 7])
def test_a_scanned_program_of_this_machine(layers):
    """Weights cut over 8 devices and gathered in a scan over layers: layers times the bytes of one, as XLA does not say."""
    mesh = Mesh(np.asarray(jax.devices()), ("x",), axis_types=(AxisType.Auto,))
    put = lambda shape, *spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec))
    )

    def f(w, x):
        def one(x, w):
            whole = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P()))
            return jnp.tanh(x @ whole), None

        return jax.lax.scan(one, x, w)[0]

    text = jax.jit(f).lower(put((layers, 64, 64), None, None, "x"), put((8, 64), "x")).compile().as_text()
    found = [c for c in hlo.collectives(hlo.parse(text), 8) if c.kind == "all-gather"]
    assert sum(c.total for c in found) == layers * 64 * 64 * 4 * 7 / 8
