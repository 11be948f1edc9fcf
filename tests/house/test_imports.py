"""The project has one import name, and what answers at once imports nothing heavy."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import naslab

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "efficiency", "search_spaces", "nas", "runs")
HEAVY = ("torch", "pandas", "optuna", "plotly", "transformers")


def run_python(*arguments, cwd, **environment):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True)


def loaded_modules(code, cwd):
    done = run_python("-c", f"import sys\n{code}\nprint(*sys.modules)", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("\n\n")[2].split())


def test_every_folder_is_a_link_and_no_name_of_its_own():
    for name in FOLDERS:
        assert (ROOT / "naslab" / name).is_symlink()
        assert os.readlink(ROOT / "naslab" / name) == f"../{name}"
    names = {path.parts[0] for path in metadata.files("naslab") or [] if path.suffix == ".py" and len(path.parts) > 1}
    assert names <= {"naslab"}


@pytest.mark.parametrize("name", naslab.__all__)
def test_public_names_come_when_asked_for(name):
    value = getattr(naslab, name)
    assert callable(value)
    assert value.__module__.startswith("naslab.")


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        naslab.nothing_like_it  # noqa: B018


def test_importing_naslab_loads_nothing_heavy(tmp_path):
    assert not loaded_modules("import naslab", tmp_path).intersection(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["run", "--help"], ["profile", "--help"], ["rnu"], ["rank", "--nothing"], ["run"]],
    ids=" ".join,
)
def test_usage_is_answered_without_torch(arguments, tmp_path):
    code = f"from naslab.runs.cli import run_command_line; run_command_line({arguments!r}); print(); print()"
    assert not loaded_modules(code, tmp_path).intersection(HEAVY)


def test_the_code_of_a_worker_imports_nothing_that_few_trials_need(tmp_path):
    found = loaded_modules("import naslab.runs.worker; print(); print()", tmp_path)
    assert "torch" in found
    assert not found.intersection(("torch.distributed.fsdp", "torch.distributed.tensor", "pandas", "scipy.stats"))


@pytest.mark.skipif(sys.platform != "linux", reason="workers are copies on Linux alone")
def test_what_workers_are_copies_of_has_one_thread_and_has_touched_no_device(tmp_path):
    code = (
        "import os, torch\n"
        "def touched(*_): raise AssertionError('a CUDA call before the copy, after which the copy has no device')\n"
        "for name in ('_cuda_getDeviceCount', '_cuda_init', '_cuda_setDevice'):\n"
        "    setattr(torch._C, name, touched)\n"
        "from naslab.runs.executors.process import IMPORTED\n"
        "for name in IMPORTED: __import__(name)\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
    )
    done = run_python("-c", code, cwd=tmp_path, OMP_NUM_THREADS="1")  # OpenBLAS has more, and makes them anew
    assert done.returncode == 0, done.stderr


def test_folders_of_the_same_names_beside_a_script_do_no_harm(tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} of the user')\n")
    (tmp_path / "script.py").write_text(
        "from naslab.runs.executors import LocalExecutor, Slot\n"
        "def where(slot=None):\n"
        "    import naslab.kernels, naslab.runs.worker\n"
        "    return naslab.kernels.__name__\n"
        "if __name__ == '__main__':\n"
        "    executor = LocalExecutor([Slot('cpu')])\n"
        "    print(where(), executor.submit(where).result())\n"
        "    executor.shutdown()\n"
    )
    done = run_python("script.py", cwd=tmp_path)
    assert done.stdout.split() == ["naslab.kernels"] * 2, done.stderr


def test_short_names_are_banned_by_lint(tmp_path):
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for name in FOLDERS:
        (tmp_path / "bad.py").write_text(
            f'"""Imports by the short name."""\n\nfrom {name} import x\n\n__all__ = ["x"]\n'
        )
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--no-cache", "bad.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert f"import naslab.{name}" in done.stdout


def test_short_names_are_imported_nowhere():
    for folder in (*FOLDERS, "naslab", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if len(words) > 1 and words[0] in ("import", "from"):
                    assert words[1].split(".")[0] not in FOLDERS, f"{path}: {line}"
