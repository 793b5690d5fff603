"""Fetched files and decoded slices have one bound on a host, which can have them again: the least used go first."""

import os
import shutil
from pathlib import Path

import pytest

from liverseg_core.data.archive import pack_folder, read_archive
from liverseg_core.data.cache import SliceCache, open_built, open_cache
from liverseg_core.data.manifest import Manifest
from liverseg_core.phantom import draw_phantom
from store import artifacts, tidy
from store.fetched import Fetched
from store.settings import settings
from tests import factories
from tests.conftest import forget_caches

MIB = 1 << 20
SIDE = 64


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A phantom of 8 x 8 slices, which are 2 MiB of images and masks when they are decoded."""
    root = tmp_path_factory.mktemp("packed")
    draw_phantom(root / "phantom", subjects=8, slices=8, size=SIDE)
    pack_folder(root / "phantom", root / "phantom.zip")
    return root / "phantom.zip", read_archive(root / "phantom.zip")


def decode(packed: tuple[Path, Manifest], root: Path, used_at: float) -> Path:
    open_cache(*packed, SIDE, root)
    home = root / packed[1].content_hash
    os.utime(home / "used", (used_at, used_at))
    return home


def fetch(root: Path, name: str, used_at: float) -> Path:
    path = root / (name * 64)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(MIB))
    os.utime(path, (used_at, used_at))
    return path


@pytest.mark.parametrize(("decoded_at", "stays"), [(1000, ["a", "b"]), (2000, ["b"]), (3000, ["decoded"])])
def test_the_oldest_go_whatever_they_are(
    packed: tuple[Path, Manifest], tmp_path: Path, decoded_at: float, stays: list[str]
) -> None:
    """Two files of 1 MiB were used at 1500 and 2500 s; the bound holds both, or the slices alone."""
    cache = Fetched(tmp_path / "fetched", 5 * MIB // 2, decoded=tmp_path / "cache")
    home = decode(packed, tmp_path / "cache", decoded_at)
    files = {name: fetch(cache.root, name, at) for name, at in {"a": 1500, "b": 2500}.items()}
    before = cache.taken()
    assert before > 4 * MIB
    cache.shrink()
    left = [name for name, path in files.items() if path.exists()]
    left += ["decoded"] if list(home.glob("size-*")) else []
    assert left == stays
    assert 0 < cache.taken() <= cache.most


def test_what_a_training_uses_stays_however_long_ago_it_began(packed: tuple[Path, Manifest], tmp_path: Path) -> None:
    cache = Fetched(tmp_path / "fetched", MIB, decoded=tmp_path / "cache")
    home = decode(packed, tmp_path / "cache", 1000)
    used = open_built(packed[1], SIDE, tmp_path / "cache")
    assert isinstance(used, SliceCache)
    os.utime(home / "used", (1000, 1000))
    recent = fetch(cache.root, "a", 2000)
    cache.shrink()
    assert (recent.exists(), list(home.glob("size-*")) != []) == (False, True)
    del used
    cache.shrink()
    assert list(home.glob("size-*")) == []


def test_a_folder_of_a_host_s_own_forgets_data_sets_that_are_gone(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the shared home they go with the deletion, which may know more than this ledger."""
    dataset = factories.import_phantom(tmp_path)
    fast = tmp_path / "fast"
    for own in (False, True):
        if own:
            monkeypatch.setenv("LIVERSEG_DATA_CACHE", str(fast))
            forget_caches()
        assert settings().cache == (fast if own else database) / "cache"
        known, gone = (settings().cache / name for name in (dataset.content_hash, "c" * 64))
        for home in (known, gone):
            home.mkdir(parents=True, exist_ok=True)
        tidy.forget_deleted()
        assert (known.exists(), gone.exists()) == (True, not own)
    shutil.rmtree(database / "cache")
    monkeypatch.undo()
    forget_caches()


def test_the_bound_is_one_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVERSEG_DATA_CACHE", str(tmp_path / "fast"))
    monkeypatch.setenv("LIVERSEG_DATA_CACHE_MB", "7")
    forget_caches()
    assert artifacts.data_cache() == Fetched(tmp_path / "fast" / "fetched", 7 * MIB, tmp_path / "fast" / "cache")
    monkeypatch.undo()
    forget_caches()
