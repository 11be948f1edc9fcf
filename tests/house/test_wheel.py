"""What `pip install` of the project adds: one name, with everything that a study needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "efficiency", "search_spaces", "nas", "runs", "studies", "naslab")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files, unpacked, as an installation leaves them."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        built,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = built.glob("naslab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


def test_one_importable_name(installed):
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"naslab"}
    assert not any(path.is_symlink() for path in installed.rglob("*"))


def test_no_file_is_left_behind(installed):
    ignored = {"__pycache__"}
    for name in FOLDERS[:-1]:
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and not ignored.intersection(path.parts):
                assert (installed / "naslab" / name / path.relative_to(ROOT / name)).is_file(), path


def test_the_quick_start_is_planned_from_there(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = "import naslab; print(naslab.__file__)"
    done = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_relative_to(installed)
    command = [sys.executable, "-m", "naslab", "run", "quickstart", "--dry-run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"study": "quickstart"' in done.stdout
