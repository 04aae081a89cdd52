"""Another version of mempalace under a running broker, as pip would put it there."""

import os
import shutil
from importlib.metadata import PathDistribution, distribution
from pathlib import Path
from typing import cast

PREPARED = Path(__file__).with_name("prepared.py")


def private_metadata(directory: Path) -> Path:
    """Copy mempalace's metadata where it is found first; return the copy."""
    installed = Path(str(cast("PathDistribution", distribution("mempalace"))._path))
    copy = directory / installed.name
    shutil.copytree(installed, copy)
    return copy


def install_other_version(metadata: Path, version: str) -> Path:
    """Do what pip does: the old metadata goes, those of another version come; return those."""
    new = metadata.with_name(f"mempalace-{version}.dist-info")
    staged = metadata.with_name("staged")
    shutil.copytree(metadata, staged)
    old = metadata.name.removeprefix("mempalace-").removesuffix(".dist-info")
    text = (staged / "METADATA").read_text()
    (staged / "METADATA").write_text(text.replace(f"\nVersion: {old}", f"\nVersion: {version}"))
    shutil.rmtree(metadata)
    staged.rename(new)
    return new


def upgraded_path(directory: Path) -> str:
    prepare = f"import runpy\nrunpy.run_path({str(PREPARED)!r})\n"
    (directory / "sitecustomize.py").write_text(prepare)  # else no broker would look in there
    return os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH", "")]))
