"""A checkpoint is what was written, or it is refused: fingerprints, changed bytes, and what stands in the way of a new one."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from entjax.checkpoint import SET_ASIDE, CheckpointFault, Checkpoints, flatten
from entjax.fingerprint import digest, fingerprints
from entjax.log import Lines, read_lines
from tests.faults.configs import everything
from tests.faults.test_disks import make_state, same


def reference(x):
    """The formula in exact whole numbers."""
    data = (
        np.ascontiguousarray(x).view({1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32)).reshape(-1)
    )
    total = 0
    for i, bits in enumerate(data.tolist()):
        h = bits ^ (i * 2654435761 % 2**32)
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        total += h ^ (h >> 16)
    return total % 2**32


@pytest.mark.parametrize(
    "dtype", [np.float32, jnp.bfloat16, np.float16, np.int32, np.uint32, np.uint8, np.bool_]
)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0, 3)])
def test_fingerprints_are_the_formula(dtype, shape):
    x = (np.random.default_rng(0).normal(size=shape) * 100).astype(dtype)
    assert fingerprints({"x": jnp.asarray(x)}) == {"x": reference(np.asarray(x))}


def test_fingerprints_are_the_same_on_a_mesh_and_differ_for_any_bit():
    x = np.random.default_rng(0).normal(size=(16, 12)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("a", "b"))
    cut = jax.device_put(x, NamedSharding(mesh, PartitionSpec("a", "b")))
    whole = fingerprints({"x": x})
    assert fingerprints({"x": cut}) == whole
    draw = np.random.default_rng(1)
    for _ in range(50):
        other = x.copy()
        other.view(np.uint32)[draw.integers(16), draw.integers(12)] ^= np.uint32(1 << draw.integers(32))
        assert fingerprints({"x": other}) != whole
    assert fingerprints({"x": x[::-1].copy()}) != whole
    nan = np.array([np.nan, -np.nan, -0.0], np.float32)
    assert fingerprints({"x": nan}) != fingerprints({"x": np.abs(nan)})


def test_digests_ignore_the_order_of_keys_only():
    a = {"x": [1, 2.5, None], "y": {"z": float("nan"), "w": "é"}}
    assert digest(a) == digest({"y": {"w": "é", "z": float("nan")}, "x": (1, 2.5, None)})
    assert digest(a) != digest({**a, "x": [1, 2.5000000000000004, None]})


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # threads of Orbax outlive its errors
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_changed_byte_is_read_as_if_nothing_were(tmp_path):
    """60 checkpoints with one bit changed or a file cut short: refused with a sentence, or what was written all the same."""
    good, host = make_state(3), {"step": 3, "stream": {"position": 12}, "memory": "YWJj" * 50}
    checkpoints = Checkpoints(tmp_path / "good", keep=2)
    checkpoints.save(3, good, host, wait=True)
    checkpoints.close()
    files = [
        p.relative_to(tmp_path / "good")
        for p in (tmp_path / "good").rglob("*")
        if p.is_file() and p.stat().st_size
    ]
    biggest = sorted(files, key=lambda p: (tmp_path / "good" / p).stat().st_size)[-3:]
    draw, refused = random.Random(0), 0
    for trial in range(60):
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        path = tmp_path / "bad" / draw.choice(files if trial % 2 else biggest)
        data = bytearray(path.read_bytes())
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data[:place] if trial % 5 == 0 else data)
        checkpoints = Checkpoints(tmp_path / "bad")
        try:
            assert checkpoints.steps() == [3]
            found = checkpoints.host(3)
            state = checkpoints.restore(3, make_state(0))
        except CheckpointFault:
            refused += 1
        else:
            assert same(state, good) and {k: found[k] for k in host} == host
        checkpoints.close()
        shutil.rmtree(tmp_path / "bad")
    assert refused >= 20


def test_a_damaged_checkpoint_does_not_stand_in_the_way(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), {"step": step}, wait=True)
    checkpoints.set_aside(3)
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(3, make_state(30).replace(step=make_state(3).step), {"step": 3}, wait=True)
    assert checkpoints.steps() == [1, 2, 3]
    assert not same(checkpoints.restore(3, make_state(0)), make_state(3))
    assert any(p.name.startswith(SET_ASIDE) for p in (tmp_path / "c").iterdir())
    checkpoints.close()
    assert len(flatten(make_state(1))) > 5


def test_a_config_is_the_same_in_every_process():
    """Sets have another order in every process: printed as they are they made every second resume a run of another config."""
    provides = everything(3).describe()["strategy"][4]
    assert isinstance(provides, list) and provides == sorted(provides) and len(provides) > 1


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"called 'a/count' in a checkpoint.*rename one"):
        flatten({"a": {"value": {"count": 1}, "count": 2}})


def test_a_line_holds_any_text(tmp_path):
    texts = ["a\u2028b", "c\u0085d", "e\rf", "g"]
    lines = Lines(tmp_path / "samples.jsonl", 0)
    for text in texts:
        lines.write({"text": text})
    lines.close()
    assert [line["text"] for line in read_lines(tmp_path / "samples.jsonl")] == texts
