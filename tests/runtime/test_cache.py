"""The kernel cache: used when it is sound, healed when it is not, never in the way."""

import numba
import numpy as np
import pytest

from fastbn._runtime import cache


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """As if no warning had been given in this process."""
    monkeypatch.setattr(cache, "_warned", False)


def warned(message="kernels cannot be kept in .*NUMBA_CACHE_DIR"):
    return pytest.warns(RuntimeWarning, match=message)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "directory", lambda: tmp_path / "kernels")
    return tmp_path / "kernels"


def compiled(name="twice", factor=2.0):
    """A small kernel with a cache, fresh as after a start of Python."""

    @numba.njit
    def kernel(x):
        return factor * x.sum()

    kernel._cache = cache.DiskCache(name)
    return kernel


def hits(kernel, dtype=np.float64):
    """Signatures that came from the cache, after a call whose result is right."""
    assert kernel(np.ones(3, dtype)) == 6.0
    return sum(kernel.stats.cache_hits.values())


def test_the_second_start_loads(directory):
    assert hits(compiled()) == 0
    assert hits(compiled()) == 1
    (file,) = directory.iterdir()
    assert file.suffix == ".kernel"


def test_each_name_and_signature_has_its_own_file(directory):
    kernel = compiled()
    hits(kernel)
    hits(kernel, np.float32)
    assert hits(compiled("another name")) == 0
    assert len(list(directory.iterdir())) == 3
    assert hits(compiled(), np.float32) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: b"\0" * len(data),
        lambda data: data + b"\0",
    ],
)
def test_a_damaged_file_is_a_miss_that_heals(directory, damage):
    hits(compiled())
    (file,) = directory.iterdir()
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    assert hits(compiled()) == 0
    assert hits(compiled()) == 1
    assert list(directory.iterdir()) == [file]


def test_where_nothing_can_be_written_kernels_still_compile(tmp_path, monkeypatch):
    (tmp_path / "kernels").write_text("a file where the directory should be")
    monkeypatch.setattr(cache, "directory", lambda: tmp_path / "kernels")
    with warned():
        assert hits(compiled()) == 0
    assert hits(compiled()) == 0  # of which nothing is said any more


def test_a_directory_that_cannot_be_named_costs_no_call(monkeypatch):
    def directory():
        raise FileNotFoundError("the working directory is gone")

    monkeypatch.setattr(cache, "directory", directory)
    with warned("kernels cannot be kept .the working directory is gone"):
        assert compiled()(np.ones(3)) == 6.0


def test_other_source_is_another_kernel(directory, monkeypatch):
    hits(compiled())
    monkeypatch.setattr(cache, "_source_digest", lambda: "another version of fastbn")
    assert hits(compiled()) == 0
    assert len(list(directory.iterdir())) == 2


def test_without_source_nothing_is_kept(directory, monkeypatch):
    monkeypatch.setattr(cache, "_source_digest", lambda: "")
    with warned("kernels cannot be kept .no source.*: each process compiles them anew$"):
        assert hits(compiled()) == 0
    assert not directory.exists()


@pytest.mark.parametrize("option", ["BOUNDSCHECK", "LOOP_VECTORIZE"])
def test_other_options_are_another_kernel(directory, monkeypatch, option):
    hits(compiled())
    monkeypatch.setattr(numba.config, option, 1 - int(getattr(numba.config, option) or 0))
    assert hits(compiled()) == 0


def test_a_user_without_a_home_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda *_, **__: "~/.cache/fastbn")
    monkeypatch.chdir(tmp_path)
    cache.directory.cache_clear()
    try:
        with warned():
            assert hits(compiled()) == 0
        assert not list(tmp_path.iterdir())
    finally:
        cache.directory.cache_clear()


def test_numbas_cache_directory_is_respected(tmp_path, monkeypatch):
    cache.directory.cache_clear()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    try:
        assert cache.directory() == tmp_path / "fastbn"
    finally:
        cache.directory.cache_clear()
