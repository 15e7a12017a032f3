"""A directory as a store: what it must be able to do is tried before the first write."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from storage.files import LocalStore, MissingFile, StoreError


def test_a_file_system_whose_links_replace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", shutil.copyfile)
    with pytest.raises(StoreError, match=r"a second hard link replaced the first.*overwrite each other\. Keep the"):
        LocalStore(tmp_path / "store").create()
    assert list((tmp_path / "store" / "_tmp").iterdir()) == []


def test_a_file_system_whose_locks_keep_nobody_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda _descriptor, _operation: None)
    with pytest.raises(StoreError, match=r"locks \(flock\) keep nobody out.*swept away\. Keep the"):
        LocalStore(tmp_path / "store").create()
    assert list((tmp_path / "store" / "_tmp").iterdir()) == []


def test_a_directory_keeps_what_is_published_until_it_is_removed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.create()
    store.create()
    for key, content, first in (("b/x", b"one", True), ("b/x", b"two", False), ("a/y/z", b"three", True)):
        assert store.publish(key, lambda path, content=content: path.write_bytes(content) and None) is first
    assert (store.read("b/x"), store.read("a/y/z")) == (b"one", b"three")
    assert store.keys("a") == ["a/y/z"]
    assert store.folders("") == ["_tmp", "a", "b"]
    assert (store.keys("none"), store.folders("none")) == ([], [])
    for _ in range(2):
        store.remove("b/x")
        assert not store.exists("b/x")
    with pytest.raises(MissingFile, match="x is missing"):
        store.read("b/x")
