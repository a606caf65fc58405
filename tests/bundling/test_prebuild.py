"""Native steps of a recipe: what they write is part of the bundle, and what they must not do is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mr_bundler.build import build_bundle
from mr_bundler.result import BuildOptions
from mr_core.errors import BuildError, CancelledError, HostError, UnsupportedError
from mr_core.events import Cancel, Event, Notice, Output, PhaseStarted
from mr_core.platform import Platform, Target
from support.building import HERE, SERVER, Builder

SITE = "lib/python3.12/site-packages"
MAC = Target(Platform("darwin", "arm64"), "metal")


def step(code: str, *writes: str, name: str = "generate") -> str:
    command = ["{python}", "-c", code, "{tree}"]  # JSON's lists of texts are TOML's
    return f'[[prebuild]]\nname = "{name}"\ncommand = {json.dumps(command)}\nwrites = {json.dumps(writes)}\n'


GENERATE = """
import os, pathlib, sys, tiny_server
tree = pathlib.Path(sys.argv[1])
place = tree / 'lib/python3.12/site-packages/generated'
place.mkdir()
(place / '__init__.py').write_text('made_with = %r' % sys.version_info[:2].__repr__())
(place / 'data.bin').write_bytes(b'x' * 1000)
(place / 'notes.txt').write_text('slimmed away')
print('environment', *sorted(name for name in os.environ if name not in ('LC_CTYPE', '__CF_USER_TEXT_ENCODING')))
print('epoch', os.environ['SOURCE_DATE_EPOCH'], tiny_server.__name__)
"""


def test_what_a_step_writes_is_in_the_bundle(builder: Builder, tmp_path: Path) -> None:
    events: list[Event] = []
    extra = step(GENERATE, "generated/**")
    result = builder.build(extra=extra, remove=["generated/*.txt"], report=events.append)
    lines = [event.line for event in events if isinstance(event, Output) and event.source == "prebuild generate"]
    assert lines[1] == "epoch 1795132800 tiny_server"
    assert set(lines[0].split()[1:]) == {
        *("HOME", "LC_ALL", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONNOUSERSITE"),
        "PYTHONUNBUFFERED",
        *("SOURCE_DATE_EPOCH", "TMPDIR", "TZ"),
    }
    built = builder.open(result)
    paths = built.listing()
    own = {path for path, owner in paths.items() if owner == "(prebuild generate)"}
    assert own == {
        f"{SITE}/generated/{name}" for name in ("__init__.py", "data.bin", "__pycache__/__init__.cpython-312.pyc")
    }
    layer = next(layer for layer in result.layers if layer.name == "prebuild generate")
    assert layer.distributions == ()
    assert [step.name for step in result.steps][:4] == ["interpreter", "wheels", "prebuild", "slim"]
    prefix = built.unpack(tmp_path / "tree")
    assert (prefix / SITE / "generated/__init__.py").read_text() == "made_with = '(3, 12)'"
    again = builder.build(extra=extra, remove=["generated/*.txt"], use_cache=False, layout=tmp_path / "again")
    assert again.digest == result.digest
    # all but what the step wrote and the bundle's own files are the layers of the bundle without it
    plain = builder.build(layout=tmp_path / "plain")
    assert {layer.digest for layer in plain.layers[:-1]} < {layer.digest for layer in result.layers}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; open(sys.argv[1] + '/stray', 'w')", "it wrote `stray`, which its `writes` do not name"),
        ("import sys; open(sys.argv[1] + '/bin/tiny-server', 'a').write('x')", "it changed `bin/tiny-server`"),
        ("import os, sys; os.unlink(sys.argv[1] + '/bin/tiny-server')", "it removed `bin/tiny-server`"),
        ("import sys; print('line one'); sys.exit('it hurts')", "ended with status 1: it hurts"),
    ],
)
def test_what_a_step_must_not_do(builder: Builder, code: str, reason: str) -> None:
    with pytest.raises(BuildError) as caught:
        builder.build(extra=step(code, "generated/**"))
    assert reason in caught.value.message
    assert "step `generate` of the recipe" in caught.value.message
    if "hurts" in reason:
        assert caught.value.fields["log"] == "line one\nit hurts"
    assert not builder.layout.exists()
    assert not list((builder.cache / "tmp").iterdir())


def test_a_step_that_does_nothing_and_one_that_does_not_exist(builder: Builder) -> None:
    events: list[Event] = []
    builder.build(extra=step("pass", "generated/**"), report=events.append)
    assert "prebuild-empty" in {event.code for event in events if isinstance(event, Notice)}
    extra = '[[prebuild]]\nname = "x"\ncommand = ["no-such-program-anywhere"]\nwrites = ["x/**"]\n'
    with pytest.raises(HostError, match="Cannot run `no-such-program-anywhere`"):
        builder.build(extra=extra)


def test_cancelling_a_step_kills_what_it_started(builder: Builder, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, time; open('{note}', 'w').write(str(os.getpid())); time.sleep(600)"
    cancel = Cancel()

    def report(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "prebuild generate":
            signal.signal(signal.SIGALRM, lambda *_: cancel.set())
            signal.setitimer(signal.ITIMER_REAL, 1.0)

    begin = time.monotonic()
    with pytest.raises(CancelledError):
        builder.build(extra=step(code, "generated/**"), report=report, cancel=cancel)
    assert time.monotonic() - begin < 60
    if note.exists() and (pid := note.read_text()):
        assert not Path("/proc", pid).exists()


def test_another_platform_is_refused_at_once(builder: Builder) -> None:
    builder = replace(builder, targets=(f"{HERE}", f"{MAC}"))
    recipe = builder.recipe(extra=step("pass", "generated/**"))
    lock = builder.lock(recipe, [SERVER], MAC)
    options = BuildOptions(layout=builder.layout, cache=builder.cache)
    with pytest.raises(UnsupportedError, match=r"step `generate` of the recipe must run on darwin/arm64"):
        build_bundle(recipe, MAC, lock, options=options)


LEAVES = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    open(sys.argv[1] + '/../left', 'w').write(str(os.getpid()))
    {work}
    os._exit(0)
while not os.path.exists(sys.argv[1] + '/../left'):
    time.sleep(0.01)
"""


def test_what_left_the_group_does_not_make_cancelling_wait(builder: Builder) -> None:
    cancel = Cancel()
    pids: list[int] = []

    def report(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "prebuild generate":
            signal.signal(signal.SIGALRM, lambda *_: cancel.set())
            signal.setitimer(signal.ITIMER_REAL, 1.5)
        if isinstance(event, Output) and event.line.isdecimal():
            pids.append(int(event.line))

    code = LEAVES.format(work="print(os.getpid(), flush=True); time.sleep(120)")
    begin = time.monotonic()
    try:
        with pytest.raises(CancelledError):
            builder.build(extra=step(code, "generated/**"), report=report, cancel=cancel)
        assert time.monotonic() - begin < 60
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert pids


def test_what_is_written_after_the_step_is_not_packed(builder: Builder) -> None:
    """A file of a wheel gets other bytes of the same size while the bundle is being put together."""
    place: list[Path] = []

    def report(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "pack":
            (changed,) = (builder.cache / "tmp").glob(f"*/backend/{SITE}/generated/data.bin")
            changed.write_bytes(b"y" * 1000)
            place.append(changed)

    with pytest.raises(BuildError, match=r"`lib/.*/generated/data\.bin`: it changed while the bundle was built"):
        builder.build(extra=step(GENERATE, "generated/**"), report=report, use_cache=False)
    assert place


def test_an_up_to_date_bundle_says_that_steps_did_not_run(builder: Builder) -> None:
    events: list[Event] = []
    builder.build(extra=step(GENERATE, "generated/**"))
    again = builder.build(extra=step(GENERATE, "generated/**"), report=events.append)
    assert again.skipped
    (notice,) = (event for event in events if isinstance(event, Notice) and event.code == "prebuild-not-run")
    assert "`generate`" in notice.message
    assert "`--no-cache`" in notice.message
