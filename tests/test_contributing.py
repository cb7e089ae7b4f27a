"""CONTRIBUTING.md, followed to the letter in a copy of the project."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)(?: (\S+))?\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


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
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    commands = [line for kind, _, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    assert len(commands) == 4
    for command in commands:
        result = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert result.returncode == 0, (command, result.stdout[-2000:], result.stderr[-2000:])


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
