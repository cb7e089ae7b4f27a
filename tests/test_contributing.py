"""CONTRIBUTING.md, followed to the letter in a copy of the project."""

import shutil
import subprocess
import sys
from pathlib import Path

from pages import ROOT, blocks, commands, run

PAGE = ROOT / "CONTRIBUTING.md"
BLOCKS = blocks(PAGE)


def test_a_check_is_added_as_the_page_says(tmp_path):
    for folder in ("lib", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("runbooks", "notebooks", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for _, name, text in BLOCKS:
        if name:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text() if path.suffix == ".csv" else ""
            path.write_text(before + text)
    lines = commands(PAGE)
    assert len(lines) == 4
    for line in lines:
        result = run(line, tmp_path, PYTHONPATH=str(tmp_path / "lib"))
        assert result.returncode == 0, (line, result.stdout[-2000:], result.stderr[-2000:])


def test_the_example_is_written_as_the_house_is(tmp_path):
    for number, (kind, name, text) in enumerate(BLOCKS):
        if kind == "python":
            path = tmp_path / f"{number}_{Path(name).name}"
            path.write_text(text)
    for arguments in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        command += ["--ignore", "D,N999,I001"] if "check" in arguments else []
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
