"""Assemble an environment from parts: recall those that are known, make the others, and put on disk what is needed.

The bytes of a wheel are needed only when its part is new or the layer it belongs to must be packed; all decisions are
made from parts.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mr_bundler.cache import BuildCache, touch_entry
from mr_bundler.environment.compose import Composition
from mr_bundler.environment.examine_parts import Examination, examine_tree, finish_wheels, remove_sharers
from mr_bundler.environment.parts import INTERPRETER, KIND, Part
from mr_bundler.environment.tree import move_files, write_file
from mr_bundler.interpreter import Interpreter
from mr_bundler.interpreter.tree import write_tree
from mr_bundler.lock.lock import Lock
from mr_bundler.recipe.recipe import SITE_PACKAGES
from mr_bundler.wheels.provide import provide_wheels
from mr_bundler.wheels.uv import install_wheels
from mr_core.errors import BundleError, IntegrityError
from mr_core.events import Event, Phase, PhaseFinished, PhaseProgress, PhaseStarted, Reporter

_PHASE = "wheels"  # of `install_wheels`
_WATCH_SECONDS = 0.5


@dataclass(slots=True, kw_only=True)
class Assembly:
    """An environment on its way.

    Attributes:
        lock: Which wheels it is made of.
        interpreter: Its base interpreter.
        python: A CPython 3.12 that runs here, for uv.
        root: Where its files come together.
        scratch: Directory on the same filesystem for trees that are not merged yet.
        examination: How files are read.
        keys: Key of the part of every owner in the cache.
        cache: Keeps parts.
        wheels: Cache directory for wheels that no index serves.
        parts: Those that are known by now, by owner.
    """

    lock: Lock
    interpreter: Interpreter
    python: Path
    root: Path
    scratch: Path
    examination: Examination
    keys: Mapping[str, str]
    cache: BuildCache
    wheels: Path
    parts: dict[str, Part] = field(default_factory=dict)
    _places: dict[str, Path] = field(default_factory=dict)
    _trees: int = 0

    def recall(self) -> None:
        """Take from the cache the parts that earlier builds made."""
        with Phase(self.examination.report, "recall", total=len(self.keys)) as phase:
            for number, (owner, key) in enumerate(self.keys.items()):
                self.examination.cancel.check()
                part = self._recalled(key)
                if part is not None:
                    self.parts[owner] = part
                phase.progress(number + 1)
            phase.detail = {"known": len(self.parts), "new": len(self.keys) - len(self.parts)}

    def complete(self) -> None:
        """Make the parts that are not known yet.

        Raises:
            BuildError: a wheel cannot be used; no part of those that were installed with it is kept then.
            BundleError: as `install_wheels` and `provide_wheels` say.
        """
        if INTERPRETER not in self.parts:
            part = examine_tree(self.interpreter.prefix, INTERPRETER, self.examination)
            self._keep({INTERPRETER: part})
        self._keep(self._install({owner for owner in self.keys if owner not in self.parts}))

    def bring(self, owners: Collection[str], composition: Composition) -> None:
        """Put the files of ``owners`` below `root`, as ``composition`` has them.

        Raises:
            IntegrityError: when a wheel that is installed again is not what it was.
            BundleError: as `install_wheels` and `provide_wheels` say.
        """
        absent = {owner for owner in owners if owner not in self._places}
        for owner, part in self._install(absent - {INTERPRETER}).items():
            if part != self.parts[owner]:
                raise IntegrityError(
                    f"Cannot use the wheel of `{owner}`: uv installs other files than it did before",
                    hint="uv's cache is damaged: clean it with `uv cache clean`, and build again",
                )
        if INTERPRETER in absent:
            place = self._new_place()
            write_tree(self.interpreter.tree, place, cancel=self.examination.cancel)
            self._places[INTERPRETER] = place
        for owner in owners:
            entries = composition.owned[owner]
            place = self._places[owner]
            records = [entry.path for entry in entries if entry.path in composition.records]
            if place != self.root:
                move_files(place, self.root, [entry.path for entry in entries if entry.path not in composition.records])
                self._places[owner] = self.root
            for path in records:
                write_file(self.root, path, composition.records[path])

    def add(self, part: Part) -> None:
        """Take a part whose files lie below `root` already."""
        self.parts[part.owner] = part
        self._places[part.owner] = self.root

    def _recalled(self, key: str) -> Part | None:
        record = self.cache.load_record(KIND, key)
        if record is None:
            return None
        try:
            return Part.from_json(record)
        except (KeyError, TypeError, ValueError, BundleError):
            return None

    def _keep(self, parts: Mapping[str, Part]) -> None:
        for owner, part in parts.items():
            self.parts[owner] = part
            self.cache.save_record(KIND, self.keys[owner], part.to_json())

    def _install(self, names: Collection[str]) -> dict[str, Part]:
        """Install wheels and return their parts; those that share a path get a tree of their own each."""
        if not names:
            return {}
        local = provide_wheels(
            self.lock,
            cache=self.wheels,
            only=names,
            report=self.examination.report,
            cancel=self.examination.cancel,
        )
        for wheel in local.values():
            touch_entry(wheel)
        place = self._new_place()
        self._run_installer(place, names, local)
        apart = remove_sharers(place)
        parts = self._finished(place)
        for name in sorted(apart):
            place = self._new_place()
            self._run_installer(place, {name}, local)
            parts |= self._finished(place)
        return parts

    def _run_installer(self, place: Path, names: Collection[str], local: Mapping[str, Path]) -> None:
        with _watched(place, len(names), self.examination.report) as report:
            install_wheels(
                self.lock,
                prefix=place,
                python=self.python,
                only=names,
                local={name: wheel for name, wheel in local.items() if name in names},
                report=report,
                cancel=self.examination.cancel,
            )

    def _finished(self, place: Path) -> dict[str, Part]:
        parts = finish_wheels(place, self.examination)
        self._places |= dict.fromkeys(parts, place)
        return parts

    def _new_place(self) -> Path:
        """Return where the next tree goes: the first to where all will come together, so that it need not be moved."""
        if not os.path.lexists(self.root):
            return self.root
        self._trees += 1
        return self.scratch / f"tree-{self._trees}"


@contextlib.contextmanager
def _watched(place: Path, total: int, report: Reporter) -> Iterator[Reporter]:
    """Yield a reporter that adds progress to the phase ``wheels``: uv tells none, but what it installed lies there."""
    ended = threading.Event()

    def watch() -> None:
        seen = 0
        while not ended.wait(_WATCH_SECONDS):
            done = sum(1 for _ in (place / SITE_PACKAGES).glob("*.dist-info/INSTALLER"))  # of a wheel's files the last
            if done > seen:
                seen = done
                report(PhaseProgress(phase=_PHASE, done=min(done, total), total=total))

    def pass_on(event: Event) -> None:
        match event:
            case PhaseStarted(phase=phase) if phase == _PHASE:
                report(replace(event, total=total))
            case PhaseFinished(phase=phase) if phase == _PHASE:
                stop()
                report(event)
            case _:
                report(event)

    def stop() -> None:
        ended.set()
        watcher.join()

    watcher = threading.Thread(target=watch, name="mr-wheels", daemon=True)
    watcher.start()
    try:
        yield pass_on
    finally:
        stop()
