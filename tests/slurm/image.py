"""A Charliecloud image made from this machine's own files: an interpreter, its library, and shared objects."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")  # the distribution's
PACKAGES = "/mnt/0"  # where the packages of this environment are mounted


def make_image(image: Path) -> str:
    """Write the image into a new directory. Returns the path of its Python, inside.

    It finds the packages that are mounted at `PACKAGES`.
    """
    for name in ("dev", "proc", "sys", "tmp", "home", "etc", "root", "mnt/0", "usr/bin", "env/bin"):
        (image / name).mkdir(parents=True)
    for name in ("passwd", "group", "hosts", "resolv.conf"):  # which are mounted over
        (image / "etc" / name).touch()
    library = Path("/usr/lib") / PYTHON.name
    shutil.copy(PYTHON, image / PYTHON.relative_to("/"))
    shutil.copytree(
        library,
        image / library.relative_to("/"),
        ignore_dangling_symlinks=True,
        ignore=shutil.ignore_patterns("__pycache__", "test", "sitecustomize.py"),
    )
    packages = Path(site_packages())
    programs = [PYTHON, *library.glob("lib-dynload/*.so"), *packages.glob("torch/lib/*.so")]
    programs += packages.glob("numpy/**/_multiarray_umath*.so")
    for path in shared_objects(programs):
        if path.is_relative_to(packages):
            continue
        copy = image / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    environment = image / "env"
    (environment / "bin/python").symlink_to(PYTHON)
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\n")
    ours = environment / "lib" / PYTHON.name / "site-packages"
    ours.mkdir(parents=True)
    (ours / "packages.pth").write_text(f"{PACKAGES}\n")
    return "/env/bin/python"


def site_packages() -> str:
    """Directory of the packages of this environment."""
    return next(path for path in sys.path if path.endswith("site-packages"))


def shared_objects(programs: list[Path]) -> set[Path]:
    """What the dynamic linker loads for these programs and libraries."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)}
