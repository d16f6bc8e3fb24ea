"""A run directory in a bucket: what goes there and comes back, with a folder in the bucket's place."""

import pytest
from etils import epath
from fsspec.implementations.local import LocalFileSystem

from entjax import bucket
from entjax.log import read_lines
from entjax.train import train
from tests.sharding.runs import config


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """gs://BUCKET/... is the folder tmp_path/cloud/BUCKET/...; what is kept locally goes to tmp_path/here."""

    class Cloud(LocalFileSystem):
        protocol = ("gs",)
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            path = str(path)
            return str(tmp_path / "cloud" / path.removeprefix("gs://")) if path.startswith("gs://") else path

    monkeypatch.setattr(epath.backend.fsspec_backend, "fs", lambda path: Cloud())
    monkeypatch.setattr(bucket.tempfile, "gettempdir", lambda: str(tmp_path / "here"))
    (tmp_path / "cloud").mkdir()
    return tmp_path / "cloud"


def test_files_go_and_come_back(cloud):
    place = bucket.place_of("gs://b/runs/one")
    place.pull()
    assert not place.local.exists()
    (place.local / "plots").mkdir(parents=True)
    (place.local / "metrics.jsonl").write_text("{}\n")
    (place.local / "plots" / "dashboard.png").write_bytes(b"\x89PNG")
    place.push()
    assert (cloud / "b/runs/one/plots/dashboard.png").read_bytes() == b"\x89PNG"
    (place.local / "samples.jsonl").write_text("of another life")
    (place.local / ".lock").write_text("held by the caller")
    place.pull()
    assert (place.local / ".lock").exists()
    assert (place.local / "metrics.jsonl").read_text() == "{}\n"
    assert not (place.local / "samples.jsonl").exists()
    assert str(place.checkpoints) == "gs://b/runs/one/checkpoints"


def test_traces_are_sent_and_stay_in_the_bucket(cloud):
    place = bucket.place_of("gs://b/runs/one")
    trace, events = place.local / "profile/plugins/x.trace", place.local / "tensorboard/events.1"
    for path in (trace, events):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
    place.push()
    trace.write_bytes(b"2")  # as long as before
    events.write_bytes(b"12")
    place.push()
    assert (cloud / "b/runs/one/profile/plugins/x.trace").read_bytes() == b"1"
    place.pull()
    assert not events.exists()
    place.push()
    assert (cloud / "b/runs/one/tensorboard/events.1").read_bytes() == b"12"


@pytest.mark.parametrize("address", ["gs://bucket", "s3://bucket/run", "gs://"])
def test_addresses_that_are_refused(address):
    with pytest.raises(ValueError, match="gs://BUCKET/FOLDER"):
        bucket.place_of(address)


def test_a_run_goes_on_from_the_logs_in_the_bucket(cloud, tmp_path, monkeypatch):
    """Checkpoints of this test lie in a folder, as the cloud's own storage driver cannot be replaced; the logs come from it."""
    monkeypatch.setattr(bucket.Place, "checkpoints", property(lambda self: tmp_path / "checkpoints"))
    train(config(steps=1), "gs://b/run")
    first = (cloud / "b/run/metrics.jsonl").read_text()
    for path in (tmp_path / "here").rglob("*.jsonl"):
        path.unlink()  # another machine
    train(config(steps=2), "gs://b/run", resume=True)
    assert (cloud / "b/run/metrics.jsonl").read_text().startswith(first.splitlines()[0])
    assert [r["step"] for r in read_lines(cloud / "b/run/metrics.jsonl") if "reward/mean" in r] == [1, 2]
