"""Files that lie: a sentence, nothing written, nothing run, no memory taken by what a header promises."""

import base64
import contextlib
import io
import json
import os
import pickle  # the attacker's tool: what it writes must never be opened
import resource
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from entjax import faults
from entjax.checkpoint import CheckpointFault
from entjax.config import ConfigError, load_config
from entjax.models import CheckpointError, load_hf, load_tokenizer
from entjax.models.files import INDEX, read_json, tensors_of
from entjax.rollouts.memory import unpack
from tests.models.families import FAMILIES, write_checkpoint

RAW = FAMILIES["llama"]


class Marker:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "model", RAW)


@pytest.fixture(autouse=True)
def little_memory():
    """What a file promises must not be allocated: 3 GB beyond what is in use is all there is."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 3 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def header_of(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def rewrite(folder, edit, *, length=None):
    """The weights with an edited header; `length` lies about the header's own size."""
    path = folder / "model.safetensors"
    header, rest = header_of(path)
    text = edit(header)
    text = (json.dumps(header) if text is None else text).encode("utf-8", "surrogateescape")
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + rest)


def entry(header, **changes):
    header["model.norm.weight"] |= changes


NORM = "model.norm.weight"
LIES = {
    "length beyond the file": (lambda h: None, {"length": 10**6}),
    "length of 2^63": (lambda h: None, {"length": 2**63}),
    "length zero": (lambda h: None, {"length": 0}),
    "offsets beyond the file": (lambda h: entry(h, data_offsets=[10**9, 10**9 + 128]), {}),
    "offsets the wrong way round": (lambda h: entry(h, data_offsets=[128, 0]), {}),
    "negative offsets": (lambda h: entry(h, data_offsets=[-128, 0]), {}),
    "overlapping tensors": (lambda h: entry(h, data_offsets=[0, 128]), {}),
    "offsets that do not fit the shape": (lambda h: entry(h, shape=[10**6]), {}),
    "a shape that overflows": (lambda h: entry(h, shape=[2**62, 2**62]), {}),
    "an unknown type": (lambda h: entry(h, dtype="F999"), {}),
    "another type": (lambda h: entry(h, dtype="F16"), {}),
    "shape as a word": (lambda h: entry(h, shape="big"), {}),
    "not JSON": (lambda h: "{{{{", {}),
    "a list": (lambda h: "[1, 2]", {}),
    "a deep list": (lambda h: "[" * 100_000, {}),
    "not UTF-8": (lambda h: '{"\udcff": 1}', {}),
    "no entries": (lambda h: "{}", {}),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(folder, lie):
    edit, how = LIES[lie]
    rewrite(folder, edit, **how)
    before = files_of(folder)
    with pytest.raises(CheckpointError) as caught:
        load_hf(folder)
    assert len(str(caught.value)) < 2000 and "\n" not in str(caught.value).strip()
    assert files_of(folder) == before


def test_random_bytes_in_the_header_are_never_a_traceback(folder):
    """200 headers with one to three bytes changed: a sentence, or the very same weights."""
    path, draw = folder / "model.safetensors", np.random.default_rng(0)
    good = path.read_bytes()
    size = struct.unpack("<Q", good[:8])[0] + 8
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        for _ in range(draw.integers(1, 4)):
            data[draw.integers(0, size)] = draw.integers(0, 256)
        path.write_bytes(bytes(data))
        try:
            found = tensors_of(folder)
        except CheckpointError:
            refused += 1
        else:
            assert all(np.prod(t.shape, dtype=float) < 1e6 for t in found.values())
    assert refused > 150


def index_of(folder, file):
    (folder / INDEX).write_text(json.dumps({"weight_map": {NORM: file}}))


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "/etc/passwd", "a/../../b.safetensors", "..", "", ".", "C:\\x.safetensors", None, 7,
     ["model.safetensors"], "model.safetensors\0", "~/x.safetensors", "con.bin"],
)  # fmt: skip
def test_an_index_never_leads_out_of_its_folder(folder, file):
    (folder.parent / "secret.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    index_of(folder, file)
    with pytest.raises(CheckpointError):
        load_hf(folder)


def test_special_files_are_not_opened(folder):
    """A pipe would hang for ever, a device would never end."""
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    index_of(folder, "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        load_hf(folder)
    (folder / INDEX).unlink()
    with pytest.raises(CheckpointError):
        load_hf(folder)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 50_000, '{"hidden_size": ' + "9" * 5000 + "}", "\ud800", "nan", "", "\0" * 100, "[]"],
    ids=range(8),
)  # fmt: skip
def test_json_that_is_too_much(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(CheckpointError):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 10**9), ("num_hidden_layers", 10**30), ("vocab_size", 10**15), ("hidden_size", 2**40),
     ("num_attention_heads", 0), ("vocab_size", -1), ("head_dim", 10**12), ("rms_norm_eps", "x"), ("rope_theta", "nan"),
     ("max_position_embeddings", 0), ("intermediate_size", [8]), ("vocab_size", 37.5), ("hidden_size", True),
     ("torch_dtype", {"a": 1})],
)  # fmt: skip
def test_absurd_numbers_in_config_json(folder, key, value):
    raw = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(raw))
    if key == "torch_dtype":
        load_hf(folder)  # not read: the types are ours to choose
        return
    with pytest.raises(CheckpointError) as caught:
        load_hf(folder)
    assert len(str(caught.value)) < 1000


TOKENIZERS = [
    "{}", "[]", "null", '{"model": null}', '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}',
    '{"model": {"vocab": {"a": -5}}}', '{"model": {"vocab": {"a": 1e300}}}', '{"added_tokens": [3]}',
    '{"added_tokens": {"id": 1}}', '{"added_tokens": [{"id": "x"}]}', '{"added_tokens": [{"id": 99999999999}]}',
    '{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}',
    '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "gone"}}', "[" * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("text", TOKENIZERS, ids=range(len(TOKENIZERS)))
def test_tokenizers_that_are_broken(folder, text):
    (folder / "tokenizer.json").write_text(text)
    for read in (load_hf, load_tokenizer):
        try:
            read(folder)
        except CheckpointError as error:
            assert len(str(error)) < 2000


def test_a_pickle_is_opened_nowhere(folder, tmp_path):
    """A pickled payload in every place that something is loaded from: none of them runs it."""
    marker = tmp_path / "ran"
    payload = pickle.dumps(Marker(marker))
    pickle.loads(payload).close()  # it works,
    assert marker.exists()
    marker.unlink()  # and nobody below may do so
    objects = io.BytesIO()
    np.savez(objects, tokens=np.array([Marker(marker)], dtype=object), allow_pickle=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        good = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(payload)
        for read in (load_hf, load_tokenizer):
            with contextlib.suppress(CheckpointError):  # load_hf does not look at every one of these files
                read(folder)
        (folder / name).unlink() if good is None else (folder / name).write_bytes(good)
    (folder / "model.safetensors").rename(folder / "model.pt")
    (folder / "model.pt").write_bytes(payload)
    with pytest.raises(CheckpointError, match="a pickle"):
        load_hf(folder)
    for data in (payload, objects.getvalue()):
        step = tmp_path / "faults" / "step_00000001"
        step.mkdir(parents=True, exist_ok=True)
        (step / "batch.npz").write_bytes(data)
        with pytest.raises(CheckpointFault, match="not a batch that a run has kept"):
            faults.load_batch(step)
        with pytest.raises(ValueError, match="strategy"):
            unpack(base64.b64encode(data).decode())
    (tmp_path / "config.py").write_bytes(payload)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "config.py")
    assert not marker.exists()


def bomb(shape, *, real=None):
    """An npz of a few kilobytes whose array unpacks to a thousand times that, or whose header says so."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("tokens.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(header.getvalue())
        left, block = (int(np.prod(shape)) * 4 if real is None else real), bytes(2**24)
        while left > 0:
            entry.write(block[:left])
            left -= len(block)
    return file.getvalue()


@pytest.mark.parametrize(
    "data", [lambda: bomb((2**25,)), lambda: bomb((10**13,), real=100)], ids=["bomb", "lie"]
)
def test_zip_bombs_are_refused(tmp_path, data, monkeypatch):
    monkeypatch.setattr("entjax.rollouts.memory.MOST_BYTES", 2**26)  # packing gigabytes would take a minute
    data = data()
    assert len(data) < 2**20
    step = tmp_path / "faults" / "step_00000001"
    step.mkdir(parents=True)
    (step / "batch.npz").write_bytes(data)
    with pytest.raises(CheckpointFault):
        faults.load_batch(step)
    with pytest.raises(ValueError, match="not what a run has written"):
        unpack(base64.b64encode(data).decode())


def test_a_config_written_again_in_the_same_second_is_the_new_one(tmp_path, monkeypatch):
    """Python's imports would take the code that they kept of the first: same size, same time."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "sweep.py"
    for seed in (1, 2):
        path.write_text(
            f"import entjax as ej\nfrom tests.test_setup import config\ndef get_config(): return config(seed={seed})\n"
        )
        os.utime(path, (1e9, 1e9))
        assert load_config(path).seed == seed
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "not valid Python"),
        ("x = 1", "defines get_config"),
        ("def get_config(): return 3", "returned int"),
        ("def get_config(): return 1 / 0", "line 1: ZeroDivisionError"),
        ("import nothing_of_that_name", "line 1: ModuleNotFoundError"),
        ("import entjax as ej\ndef get_config(): return ej.Config(promts=3)", "line 2: TypeError.*promts"),
        ("\0", "not valid Python"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_broken_config_files(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "broken.py")
