"""The wheel holds every package and data file, and what is installed from it works away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "compiler").is_dir(), reason="needs the checkout")
MAPPING = {"compiler": "tilewright", "backends": "tilewright.backends", "passes": "tilewright.passes"}
#: What imports every package, reads every kind of data file, compiles, loads and runs; and all of the same folders.
SUBSET = ("test_house_imports.py", "runtime/test_session.py", "kernel/test_text.py", "cli/test_commands.py")
FOLDERS = ("test_house_imports.py", "runtime", "kernel", "cli")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def folders() -> set[str]:
    """Importable names of the folders on disk that hold Python files."""
    names = set()
    for top, name in MAPPING.items():
        for path in (ROOT / top).rglob("*.py"):
            names.add(".".join([name, *path.parent.relative_to(ROOT / top).parts]))
    return names


def test_packages_are_the_folders_on_disk() -> None:
    listed = project()["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == folders()


def test_every_folder_is_a_package() -> None:
    for top in MAPPING:
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_requirements_agree_with_the_extras() -> None:
    """The scripts pin versions that the extras allow, and what both name exactly is the same."""
    extras = project()["project"]["optional-dependencies"]
    pins = {}
    for path in (ROOT / "scripts").glob("requirements-*.txt"):
        for name, version in re.findall(r"^([\w-]+)==([\w.+]+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            pins[name.replace("-", "_").lower()] = version
    for requirement in (r for extra in extras.values() for r in extra):
        name, first = re.fullmatch(r"([\w-]+)((?:==|>=).*)", requirement).groups()
        pin = pins[name.replace("-", "_").lower()]
        for operator, version in re.findall(r"(==|>=|<)([\d.]+)", first):
            have, want = ([int(p) for p in v.split(".")[:3]] for v in (pin, version))
            holds = {"==": have == want, ">=": have >= want, "<": have < want}[operator]
            assert holds, f"{requirement} does not allow {pin}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for top in MAPPING:
        shutil.copytree(ROOT / top, source / top, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_every_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for top, name in MAPPING.items():
        for path in (ROOT / top).rglob("*"):
            relative = path.relative_to(ROOT / top)
            if path.is_file() and "__pycache__" not in relative.parts and path.suffix != ".md":
                assert "/".join([*name.split("."), *relative.parts]) in names, f"{path} is not in the wheel"


def test_base_dependency_is_numpy_alone() -> None:
    assert [re.split(r"[<>=]", d)[0] for d in project()["project"]["dependencies"]] == ["numpy"]


@pytest.mark.parametrize("subset", [SUBSET, pytest.param(FOLDERS, marks=pytest.mark.slow)], ids=["some", "folders"])
def test_tests_pass_from_the_wheel(subset: tuple[str, ...], wheel: Path, tmp_path: Path) -> None:
    """A part of the suite, outside the checkout, against the installed wheel."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    away = tmp_path / "away"
    shutil.copytree(ROOT / "tests", away / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models", away / "models", ignore=shutil.ignore_patterns("__pycache__"))
    config = project()["tool"]["pytest"]["ini_options"]
    lines = [
        "[pytest]",
        f"addopts = {config['addopts']}",
        "pythonpath = .",
        "markers =",
        *(f"  {m}" for m in config["markers"]),
    ]
    (away / "pytest.ini").write_text("\n".join(lines) + "\n")
    (away / "tests" / "test_where.py").write_text(
        f"import tilewright\ndef test_where():\n    assert tilewright.__file__.startswith({str(site)!r})\n"
    )
    chosen = [f"tests/{name}" for name in (*subset, "test_where.py")]
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-m",
        "not slow and not device and not emulated",
        *chosen,
    ]
    done = subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout)
