"""Whether what a recipe starts and imports is in the environment, told from the paths of its files. Pure."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Collection, Iterable, Iterator

from mr_bundler.recipe.recipe import SITE_PACKAGES
from mr_core.errors import BuildError
from mr_shim.spec import LaunchSpec, ProbeSpec

_STDLIB = posixpath.dirname(SITE_PACKAGES)
_ROOTS = (SITE_PACKAGES, _STDLIB, f"{_STDLIB}/lib-dynload")


def check_modules(paths: Collection[str], launch: LaunchSpec, probe: ProbeSpec, *, roots: Iterable[str] = ()) -> None:
    """Refuse an environment that lacks what ``launch`` starts or ``probe`` imports.

    Args:
        paths: All files and links, relative to the root of the tree.
        launch: Its module must be one ``python -m`` can run; its script must lie in ``bin/``.
        probe: Of each import, the top-level package is looked for.
        roots: Directories that ``.pth`` files add to the import path, relative to the root of the tree.

    Raises:
        BuildError: naming everything that is missing.
    """
    places = (*_ROOTS, *roots)
    directories = set(_directories(paths))
    missing = []
    if launch.module and not any(_runs(launch.module, root, paths) for root in places):
        missing.append(f"`{launch.module}`, which `launch.module` runs")
    if launch.script and f"bin/{launch.script}" not in paths:
        missing.append(f"`bin/{launch.script}`, which `launch.script` names")
    known = {*_importable(paths, directories, places), *sys.builtin_module_names}
    absent = [name for name in probe.imports if name.partition(".")[0] not in known]
    missing += [f"`{name}`, which `probe.imports` names" for name in absent]
    if missing:
        raise BuildError(
            f"Cannot use the environment: it does not hold {'; nor '.join(missing)}",
            hint="correct the name in the recipe, add what has it to `requirements`, or keep it with `slim.keep`",
            missing=missing,
        )


def path_roots(lines: str) -> Iterator[str]:
    """Yield the directories a ``.pth`` file in site-packages adds to the import path; see the module `site`."""
    for line in lines.splitlines():
        text = line.strip()
        if text and not text.startswith(("#", "/", "import ", "import\t")):
            yield posixpath.normpath(posixpath.join(SITE_PACKAGES, text))


def _runs(module: str, root: str, paths: Collection[str]) -> bool:
    path = f"{root}/{module.replace('.', '/')}"
    return f"{path}.py" in paths or f"{path}/__main__.py" in paths


def _importable(files: Iterable[str], directories: Iterable[str], roots: Collection[str]) -> Iterator[str]:
    for path in directories:  # one without `__init__.py` is a package as well
        directory, _, name = path.rpartition("/")
        if directory in roots:
            yield name
    for path in files:
        directory, _, name = path.rpartition("/")
        stem, _, rest = name.partition(".")
        if directory in roots and (rest in {"py", "pyc"} or rest.endswith("so")):
            yield stem


def _directories(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        while path := path.rpartition("/")[0]:
            yield path
