"""The C++ loops build without a warning, and a cache never gives what is broken or another's."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from naslab.kernels import _build, _cache, _native, negative_cosine
from naslab.kernels._dispatch import switched

SOURCES = sorted(path.name for path in _build.SOURCES.glob("*.cpp"))
SOURCE = "negative_cosine.cpp"
STRANGER = 54321

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own, and a process that has loaded nothing."""
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("NASLAB_CXXFLAGS", "-O0")  # comes last; what is compiled quickly is cached alike
    for remembered in (_native.library, _native._warn_once):
        monkeypatch.setattr(_native, remembered.__name__, _native.cache(remembered.__wrapped__))
    monkeypatch.setattr("naslab.kernels._dispatch.library", _native.library)
    return tmp_path / "native"


@pytest.fixture
def compilations(monkeypatch):
    """The sources compiled so far."""
    made, compiled = [], _build._compile
    monkeypatch.setattr(
        _build, "_compile", lambda compiler, source: made.append(source.name) or compiled(compiler, source)
    )
    return made


def own(cache: Path) -> Path:
    (path,) = cache.glob("*.so")
    return path


def assert_works():
    """Through the loops, the cosine of vectors with themselves is 1."""
    with switched("fused"):
        assert float(negative_cosine(torch.eye(3), torch.eye(3))) == pytest.approx(-1, abs=1e-6)


@needs_compiler
@pytest.mark.parametrize(
    "openmp", [("-fopenmp",), ("-Wno-unknown-pragmas", "-Wno-unused-parameter")], ids=["with", "without"]
)
@pytest.mark.parametrize("source", SOURCES)
def test_each_source_builds_without_a_warning(source, openmp, monkeypatch):
    monkeypatch.setattr(_build, "OPTIONAL_FLAGS", (openmp,))
    monkeypatch.setenv("NASLAB_CXXFLAGS", "-Wall -Wextra -Werror")
    assert _build.build(source) is not None


@needs_compiler
def test_a_library_is_compiled_once_for_all_users(cache, compilations):
    _build.build(SOURCE)
    _build.build(SOURCE)
    assert compilations == [SOURCE]
    assert own(cache).stat().st_mode & 0o777 == 0o644


@needs_compiler
@pytest.mark.parametrize("kept", [0, 1, 4096, -1], ids=["empty", "a byte", "a page", "all but a byte"])
def test_a_library_that_is_not_whole_is_made_again(cache, compilations, kept):
    _build.build(SOURCE)
    whole = own(cache).read_bytes()
    _replace(own(cache), whole[:kept])
    assert_works()
    assert compilations == [SOURCE] * 2


@needs_compiler
def test_a_library_that_changed_is_made_again(cache, compilations):
    _build.build(SOURCE)
    changed = bytearray(own(cache).read_bytes())
    changed[len(changed) // 2] ^= 1
    _replace(own(cache), bytes(changed))
    assert_works()
    assert compilations == [SOURCE] * 2


@needs_compiler
def test_a_whole_library_that_does_not_load_here_is_made_again(cache, compilations):
    foreign = b"of a newer system"
    cache.mkdir()
    key = _build._key(SOURCE, _build._compiler())
    (cache / f"{key}-{_cache.user_id()}-{_build._digest(foreign)}.so").write_bytes(foreign)
    assert_works()
    assert compilations == [SOURCE]


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_another_users_library_in_a_folder_that_others_write_is_not_loaded(cache, compilations, monkeypatch, mode):
    _build.build(SOURCE)
    _give_away(own(cache), monkeypatch)
    cache.chmod(mode)
    assert_works()
    assert compilations == [SOURCE] * 2


@needs_compiler
def test_the_library_of_who_owns_a_folder_that_others_only_read_is_loaded(cache, compilations, monkeypatch):
    _build.build(SOURCE)
    _give_away(own(cache), monkeypatch)
    cache.chmod(0o755)
    assert_works()
    assert compilations == [SOURCE]


@needs_compiler
@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_a_library_that_others_can_write_is_not_loaded(cache, compilations, mode):
    _build.build(SOURCE)
    own(cache).chmod(mode)
    _build.build(SOURCE)
    assert compilations == [SOURCE] * 2


@needs_compiler
def test_a_link_is_not_loaded(cache, compilations, tmp_path):
    _build.build(SOURCE)
    elsewhere = own(cache).rename(tmp_path / "elsewhere.so")
    (cache / "link").symlink_to(elsewhere)
    key = _build._key(SOURCE, _build._compiler())
    (cache / "link").rename(cache / f"{key}-{_cache.user_id()}-{_build._digest(elsewhere.read_bytes())}.so")
    _build.build(SOURCE)
    assert compilations == [SOURCE] * 2


@needs_compiler
def test_a_cache_that_cannot_be_written_is_no_obstacle(monkeypatch):
    monkeypatch.setenv("NASLAB_CACHE", "/dev/null/cache")
    assert_works()
    assert _native.library(SOURCE) is not None


@needs_compiler
def test_a_compiler_behind_a_wrapper(monkeypatch, compilations):
    monkeypatch.setenv("CXX", f"env 'NASLAB_UNUSED=a b' {shutil.which('c++')}")
    assert _native.library(SOURCE) is not None
    assert compilations == [SOURCE]


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false", "env 'unfinished"])
def test_without_a_compiler_the_references_run_after_one_warning(monkeypatch, caplog, compiler):
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.INFO):
        assert [_native.library(source) for source in SOURCES] == [None] * len(SOURCES)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "plain PyTorch" in record.message
    assert_works()


def test_a_machine_without_any_compiler_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    assert [_native.library(source) for source in SOURCES] == [None] * len(SOURCES)
    (record,) = caplog.records
    assert "no C++ compiler" in record.message


def test_a_user_without_an_entry_in_passwd_has_a_cache(monkeypatch):
    pwd = pytest.importorskip("pwd")

    def no_entry(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("NASLAB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert str(_cache.user_id()) in _cache.cache_folder().name


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    _cache.replace_file(path, b"before")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        _cache.replace_file(path, b"after")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def _replace(path: Path, content: bytes) -> None:
    """A new file: the old one may be mapped into this process."""
    path.unlink()
    path.write_bytes(content)


def _give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file and its folder another user's."""
    if os.getuid() == 0:
        os.chown(path, STRANGER, -1)
        os.chown(path.parent, STRANGER, -1)
    else:  # who we are is easier to change than whose it is
        monkeypatch.setattr(_build, "user_id", lambda: STRANGER)
