"""Run the native steps of a recipe in the assembled environment, and see that they write only what they said.

A step runs with the bundle's own Python, on a machine of the target's platform, with nothing of this process's
environment but a plain ``PATH``. What it reads from the network, the clock or this machine is not prevented: whoever
writes such a step must see to it that it gives the same bytes every time. A step runs in every build that does
anything, but not in one that finds its bundle up to date: the key of a build knows what the step is, not what it would
write now. `build_bundle` then says so, and ``--no-cache`` runs it.

What a step leaves running outside of its process group may write into the tree after it was examined. Nothing of that
is published: packing compares every file with what was examined (`mr_bundler.image.tar_writer`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mr_bundler.environment.examine_parts import Examination, is_note
from mr_bundler.environment.parts import Part
from mr_bundler.environment.tree import list_tree, remove_files
from mr_bundler.process import run_program
from mr_bundler.recipe.recipe import SlimRules
from mr_bundler.recipe.steps import PrebuildStep
from mr_core.errors import BuildError, UnsupportedError
from mr_core.events import Level, Notice, Phase
from mr_core.platform import Platform, Target

_TAIL_LINES = 30
_SHOWN = 5
Stamp = tuple[int, int, int, int, int]


def steps_for(steps: Sequence[PrebuildStep], target: Target) -> tuple[PrebuildStep, ...]:
    """Return the steps of ``target``.

    Raises:
        UnsupportedError: when there are any, and this machine has another platform.
    """
    chosen = tuple(step for step in steps if not step.targets or str(target) in step.targets)
    if chosen and target.platform != Platform.host():
        raise UnsupportedError(
            f"Cannot build for `{target}` here: step `{chosen[0].name}` of the recipe must run on {target.platform}, "
            f"and this machine is {Platform.host()}",
            hint=f"build this target on a machine with {target.platform}",
        )
    return chosen


def owner_of(step: PrebuildStep) -> str:
    """Return who owns what the step writes."""
    return f"(prebuild {step.name})"


def run_prebuild(
    step: PrebuildStep, root: Path, *, python: Path, epoch: str, scratch: Path, examination: Examination
) -> Part:
    """Run a step in the tree below ``root``, and return what it wrote as a part.

    Args:
        step: What to run.
        root: The tree, with all wheels and not slimmed yet.
        python: The bundle's own interpreter in it.
        epoch: Creation time of the bundle, in seconds since 1970, for ``SOURCE_DATE_EPOCH``.
        scratch: Directory for its home and temporary files.
        examination: How files are read; also says where its output goes, and what stops it.

    Raises:
        BuildError: it failed, wrote what it did not name, or changed what was there; ``log`` has its last lines.
        HostError: its program cannot be run.
        CancelledError: asked to stop.
    """
    name = f"prebuild {step.name}"
    before = _stamps(root)
    with Phase(examination.report, name) as phase:
        with tempfile.TemporaryDirectory(dir=scratch, prefix="prebuild-") as home:
            command = [text.replace("{python}", str(python)).replace("{tree}", str(root)) for text in step.command]
            _run(step, command, _environment(python, Path(home), epoch), Path(home), examination)
        after = _stamps(root)
        remove_files(root, [path for path in after.keys() - before.keys() if is_note(path)])
        written = sorted(path for path in after.keys() - before.keys() if not is_note(path))
        _refuse_changes(step, before, after, written)
        found = {path: item for path, item in list_tree(root).items() if path in set(written)}
        phase.detail = {"files": len(found), "bytes": sum(item.size for item in found.values())}
    if not found:
        text = f"Step `{step.name}` wrote no file"
        examination.report(Notice(code="prebuild-empty", message=text, level=Level.WARNING))
    return examination.part(root, found, examination.files(root, found), owner=owner_of(step))


def _environment(python: Path, home: Path, epoch: str) -> dict[str, str]:
    return {
        "PATH": f"{python.parent}{os.pathsep}{os.defpath}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": epoch,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",  # else what a failing step says last does not come last
    }


def _run(
    step: PrebuildStep, command: Sequence[str], environment: dict[str, str], home: Path, examination: Examination
) -> None:
    ran = run_program(
        command,
        what=f"`{step.command[0]}`, which step `{step.name}` of the recipe names",
        source=f"prebuild {step.name}",
        environ=environment,
        cwd=home,
        kept=_TAIL_LINES,
        hint="install it, or name the bundle's own Python with `{python}`",
        report=examination.report,
        cancel=examination.cancel,
    )
    if ran.status:
        last = ran.log[-1] if ran.log else "it wrote nothing"
        raise BuildError(
            f"Cannot build: step `{step.name}` of the recipe ended with status {ran.status}: {last}",
            hint="run it by hand with the command in the recipe",
            log="\n".join(ran.log),
        )


def _stamps(root: Path) -> dict[str, Stamp]:
    """Return what tells a changed file from an unchanged one without reading it; nobody can set the change time."""
    found = {}
    for path in list_tree(root):
        status = os.lstat(f"{root}/{path}")
        found[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode)
    return found


def _refuse_changes(
    step: PrebuildStep, before: dict[str, Stamp], after: dict[str, Stamp], written: Sequence[str]
) -> None:
    rules = SlimRules(remove=step.writes)
    changed = sorted(path for path, stamp in before.items() if after.get(path) != stamp)
    problems = [f"it changed `{path}`" if path in after else f"it removed `{path}`" for path in changed]
    problems += [f"it wrote `{path}`, which its `writes` do not name" for path in written if not rules.removes(path)]
    if problems:
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise BuildError(
            f"Cannot use what step `{step.name}` of the recipe did: {'; '.join(problems[:_SHOWN])}{more}",
            hint="a step may only write new files: name them in its `writes`",
            problems=problems,
        )
