"""Wheels by address: fetched over real TLS, resumed, kept by content, and installed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mr_bundler.lock.lock import LockedWheel, check_locks, load_lock, lock_path
from mr_bundler.lock.resolve import lock_recipe
from mr_bundler.recipe.recipe import SITE_PACKAGES, Recipe, load_recipe
from mr_bundler.wheels import download
from mr_bundler.wheels.download import received
from mr_bundler.wheels.provide import acquire_wheel, cached_wheel, provide_wheels
from mr_bundler.wheels.uv import install_wheels
from mr_core.errors import (
    BundleError,
    CancelledError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from mr_core.events import BlobFinished, BlobProgress, Cancel, Event, Notice, Outcome, discard
from mr_core.platform import Target
from support.file_server import FileServer
from support.recipe_files import RECIPE, edit, write_recipe, write_wheel

LINUX = Target.parse("linux/amd64+cpu")
FILE = "tiny_extra-2.0+cpu-py3-none-any.whl"
WORD = "tiny_extra-2.0%2Bcpu-py3-none-any.whl"


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Release assets behind TLS that this process trusts."""
    write_wheel(
        tmp_path / "assets",
        "tiny-extra",
        "2.0+cpu",
        requires=("tiny-words>=3",),
        files={"tiny_extra/big": "x" * 300_000},
    )
    monkeypatch.setenv("MR_CACHE", str(tmp_path / "mr-cache"))
    with FileServer(tmp_path / "assets", tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        yield server


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel(server: FileServer, **changes: Any) -> LockedWheel:
    found = LockedWheel(
        name="tiny-extra",
        version="2.0+cpu",
        file=FILE,
        sha256=sha256(server.directory / FILE),
        url=f"{server.url}/{WORD}",
    )
    return replace(found, **changes)


def acquire(item: LockedWheel, cache: Path, report: Callable[[Event], None] = discard) -> Path:
    return acquire_wheel(item, cache=cache, exclude_newer="2026-11-20T00:00:00Z", report=report).path


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".ingest-*"))


def test_a_wheel_is_fetched_once(assets: FileServer, tmp_path: Path) -> None:
    events: list[Event] = []
    item = wheel(assets)
    place = acquire(item, tmp_path / "c", events.append)
    assert place == tmp_path / "c/wheels/sha256" / item.sha256 / FILE
    assert place.read_bytes() == (assets.directory / FILE).read_bytes()
    size = place.stat().st_size
    assert [event.offset for event in events if isinstance(event, BlobProgress)][-1] == size
    assert events[-1] == BlobFinished(digest=f"sha256:{item.sha256}", total=size, label=FILE)
    assert acquire(item, tmp_path / "c", events.append) == place
    assert isinstance(events[-1], BlobFinished)
    assert events[-1].outcome is Outcome.SKIPPED
    assert len(assets.asked) == 1
    assert leftovers(tmp_path / "c") == []


def test_a_damaged_file_in_the_cache_is_fetched_again(assets: FileServer, tmp_path: Path) -> None:
    item = wheel(assets)
    place = acquire(item, tmp_path / "c")
    for damaged in (b"", place.read_bytes()[:-1] + b"?"):
        place.write_bytes(damaged)
        assert cached_wheel(FILE, item.sha256, cache=tmp_path / "c") is None
        assert sha256(acquire(item, tmp_path / "c")) == item.sha256
    assert len(assets.asked) == 3


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on(assets: FileServer, tmp_path: Path, ranges: bool, fast_retries: None) -> None:
    assets.ranges = ranges
    assets.plan.steps = ["cut 100000", "cut 50000", "503"]
    assert sha256(acquire(wheel(assets), tmp_path / "c")) == wheel(assets).sha256
    second = "bytes=150000-" if ranges else "bytes=50000-"
    assert [asked for _, asked in assets.asked] == ["", "bytes=100000-", second, second]


@pytest.mark.parametrize(
    ("steps", "error", "reason"),
    [
        (["404"], NotFoundError, "404 Not Found"),
        (["410"], NotFoundError, "410 Gone"),
        (["403"], UnavailableError, "403 Forbidden"),
        (["503"] * 9, UnavailableError, "503 Service Unavailable"),
        (["cut 1"] * 9, UnavailableError, "it ended early"),
        (["to http://127.0.0.1:9/x"], UnavailableError, "it redirects to `http://127.0.0.1:9/x`, which is not https"),
        (["to file:///etc/passwd"], UnavailableError, "Redirection to url 'file:///etc/passwd' is not allowed"),
    ],
)
def test_what_cannot_be_had(
    assets: FileServer, tmp_path: Path, steps: list[str], error: type[BundleError], reason: str, fast_retries: None
) -> None:
    assets.plan.steps = steps
    with pytest.raises(error) as caught:
        acquire(wheel(assets), tmp_path / "c")
    assert caught.value.message.startswith(f"Cannot fetch `{assets.url}/{WORD}`: ")
    assert caught.value.message.endswith(reason)
    assert caught.value.hint
    assert leftovers(tmp_path / "c") == []


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: -1.0)  # the jitter that makes every wait nothing


def test_a_server_that_is_not_trusted(assets: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UnavailableError, match="certificate verify failed"):
        acquire(wheel(assets), tmp_path / "c")
    assert assets.asked == []


def test_other_bytes_are_refused(assets: FileServer, tmp_path: Path) -> None:
    with pytest.raises(
        IntegrityError, match=r"its digest is sha256:[0-9a-f]{64}, and sha256:0{64} is expected"
    ) as caught:
        acquire(wheel(assets, sha256="0" * 64), tmp_path / "c")
    assert caught.value.exit_code == 6
    assert [path for path in (tmp_path / "c").rglob("*") if path.is_file()] == []


def test_cancel(assets: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = Cancel()
    monkeypatch.setattr(download, "CHUNK", 4096)
    with (
        pytest.raises(CancelledError),
        received(
            f"{assets.url}/{WORD}",
            tmp_path / "c",
            label="x",
            digest="x",
            report=lambda _event: cancel.set(),
            cancel=cancel,
        ),
    ):
        pass
    assert leftovers(tmp_path / "c") == []


def recipe_text(server: FileServer, *, sha: str = "pending", metadata: bool = True) -> str:
    given = f'[[lock.wheels]]\nurl = "{server.url}/{WORD}"\nsha256 = "{sha}"\ntargets = ["linux/amd64+cpu"]\n'
    if metadata:
        given += '[[lock.metadata]]\nname = "tiny-extra"\nversion = "2.0+cpu"\nrequires-dist = ["tiny-words>=3"]\n'
    return edit(RECIPE, "[slim]", f"{given}[slim]")


def lock_linux(recipe: Recipe, **options: Any) -> tuple[LockedWheel, ...]:
    (change,) = lock_recipe(recipe, targets=[LINUX], **options)
    return change.lock.packages


@pytest.mark.usefixtures("wheels_only")
@pytest.mark.parametrize("metadata", [True, False])
def test_locking_finds_out_what_is_pending(
    assets: FileServer, tmp_path: Path, mr_bundle: Callable[..., Any], metadata: bool
) -> None:
    directory = write_recipe(tmp_path / "tiny", recipe_text(assets, metadata=metadata))
    recipe = load_recipe(directory)
    ran = mr_bundle("lock", directory, "--json", "--require-complete")
    assert ran.status == 0, ran
    linux, darwin = ran.result["locks"]
    assert "tiny-extra 2.0+cpu" in linux["added"]
    assert linux["pending"] == []
    assert linux["bytes"] == (assets.directory / FILE).stat().st_size
    assert linux["unknown_sizes"] == linux["packages"] - 1
    assert "tiny-extra 2.0+cpu" not in darwin["added"]
    lock = check_locks(recipe)[LINUX]
    item = next(item for item in lock.packages if item.name == "tiny-extra")
    assert item == wheel(assets, size=linux["bytes"])
    assert [item.name for item in lock.packages] == ["tiny-extra", "tiny-kernels", "tiny-server", "tiny-words"]
    text = (directory / "recipe.toml").read_text()
    assert 'sha256 = "pending"' in text, "the recipe is people's"
    asked = len(assets.asked)
    assert [row["stale"] for row in mr_bundle("lock", directory, "--json").result["locks"]] == [False, False]
    assert len(assets.asked) == asked, "what was reviewed is not asked for again"


@pytest.mark.usefixtures("wheels_only")
def test_what_cannot_be_reached_stays_pending(
    assets: FileServer, tmp_path: Path, mr_bundle: Callable[..., Any], fast_retries: None, python312: Path
) -> None:
    directory = write_recipe(tmp_path / "tiny", recipe_text(assets))
    recipe = load_recipe(directory)
    assets.plan.steps = ["503"] * 4
    ran = mr_bundle("lock", directory, "--require-complete")
    assert ran.status == 7, ran
    assert "Cannot lock `tiny` completely: the sha256 of `tiny-extra` 2.0+cpu stays pending" in ran.err
    assert list(directory.glob("*.lock.toml")) == []
    assets.plan.steps = ["503"] * 4
    ran = mr_bundle("lock", directory)
    assert ran.status == 0, ran
    assert "warning: the sha256 of `tiny-extra` 2.0+cpu stays pending: Cannot fetch `https://127.0.0.1" in ran.err
    assert "503 Service Unavailable" in ran.err
    assert "4 distributions, 1 pending, written" in ran.out
    ran = mr_bundle("check", directory)
    assert ran.status == 0
    assert "the sha256 of 1 wheel is pending: tiny-extra 2.0+cpu" in ran.out
    lock = check_locks(recipe)[LINUX]
    assert [item.name for item in lock.packages] == ["tiny-extra", "tiny-kernels", "tiny-server", "tiny-words"]
    assert [item.name for item in lock.pending] == ["tiny-extra"]
    for use in (
        lambda: provide_wheels(lock, cache=tmp_path / "c"),
        lambda: install_wheels(lock, prefix=tmp_path / "t", python=python312),
    ):
        with pytest.raises(InvalidInputError, match=r"the sha256 of `tiny-extra` 2\.0\+cpu is pending") as caught:
            use()
        assert "mr-bundle lock" in caught.value.hint
    assert mr_bundle("export-lock", directory, "--target", LINUX).status == 3
    assert "tiny-extra 2.0+cpu: its sha256 is known now" in mr_bundle("lock", directory).out
    filled = check_locks(recipe)[LINUX]
    assert filled.pending == ()
    assets.plan.steps = ["503"] * 9
    (tmp_path / "mr-cache").rename(tmp_path / "lost")
    assert lock_linux(recipe) == filled.packages, "an address that is gone later does not undo it"


@pytest.mark.usefixtures("wheels_only")
def test_a_wheel_that_nobody_can_describe(assets: FileServer, tmp_path: Path, fast_retries: None) -> None:
    assets.plan.steps = ["503"] * 9
    recipe = load_recipe(write_recipe(tmp_path / "tiny", recipe_text(assets, metadata=False)))
    with pytest.raises(UnavailableError, match=r"Cannot lock `tiny-extra` 2\.0\+cpu: Cannot fetch") as caught:
        lock_recipe(recipe)
    assert "[[lock.metadata]]" in caught.value.hint


@pytest.mark.usefixtures("wheels_only")
def test_a_wheel_that_is_described_is_not_fetched(assets: FileServer, tmp_path: Path) -> None:
    text = recipe_text(assets, sha=sha256(assets.directory / FILE))
    found = lock_linux(load_recipe(write_recipe(tmp_path / "tiny", text)))
    assert found[0] == wheel(assets)
    assert assets.asked == []


@pytest.mark.usefixtures("wheels_only")
def test_a_wrong_sha256_in_the_recipe(assets: FileServer, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny", recipe_text(assets, sha="0" * 64, metadata=False)))
    with pytest.raises(IntegrityError, match="is expected"):
        lock_recipe(recipe)


@pytest.mark.usefixtures("wheels_only")
def test_an_address_that_never_existed(assets: FileServer, tmp_path: Path) -> None:
    text = recipe_text(assets).replace(WORD, f"typo/{WORD}")
    with pytest.raises(NotFoundError, match="404"):
        lock_recipe(load_recipe(write_recipe(tmp_path / "tiny", text)))


@pytest.mark.usefixtures("wheels_only")
def test_given_wheels_are_installed_from_their_files(
    assets: FileServer, tmp_path: Path, python312: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "tiny", recipe_text(assets)))
    lock_recipe(recipe)
    lock = load_lock(lock_path(recipe, LINUX))
    local = provide_wheels(lock, cache=tmp_path / "c")
    assert list(local) == ["tiny-extra"]
    assert provide_wheels(lock, cache=tmp_path / "c", only=["tiny-words"]) == {}
    asked = len(assets.asked)
    site = tmp_path / "tree" / SITE_PACKAGES
    install_wheels(lock, prefix=tmp_path / "tree", python=python312, only=["tiny-extra"], local=local)
    assert [path.name for path in site.glob("*.dist-info")] == ["tiny_extra-2.0+cpu.dist-info"]
    install_wheels(lock, prefix=tmp_path / "tree", python=python312, only=["tiny-words", "tiny-server"])
    assert len(list(site.glob("*.dist-info"))) == 3
    assert (site / "tiny_extra/big").stat().st_size == 300_000
    install_wheels(lock, prefix=tmp_path / "whole", python=python312, local=local)
    assert len(list((tmp_path / "whole" / SITE_PACKAGES).glob("*.dist-info"))) == 4
    assert len(assets.asked) == asked, "uv takes the file that is there"
    local["tiny-extra"].write_bytes(b"damaged since")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh"))
    with pytest.raises(BundleError):
        install_wheels(lock, prefix=tmp_path / "again", python=python312, local=local)


@pytest.mark.usefixtures("wheels_only")
def test_one_warning_for_each(assets: FileServer, tmp_path: Path, fast_retries: None) -> None:
    assets.plan.steps = ["503"] * 9
    text = recipe_text(assets).replace('targets = ["linux/amd64+cpu"]\n', "")
    events: list[Event] = []
    changes = lock_recipe(load_recipe(write_recipe(tmp_path / "tiny", text)), report=events.append)
    assert [len(change.lock.pending) for change in changes] == [1, 1]
    assert [event.code for event in events if isinstance(event, Notice)] == ["wheel-pending"]


@pytest.mark.usefixtures("wheels_only")
def test_metadata_that_do_not_hold_are_told(assets: FileServer, tmp_path: Path) -> None:
    """The recipe guessed what a wheel requires while nobody could see it."""
    text = edit(recipe_text(assets), '["tiny-words>=3"]', '["tiny-words>=2", "x; extra == \'a\'"]')
    events: list[Event] = []
    lock_linux(load_recipe(write_recipe(tmp_path / "tiny", text)), report=events.append)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.message == (
        "the recipe's metadata of `tiny-extra` 2.0+cpu differ from the wheel's: "
        "it requires `tiny-words>=3`; it does not require `tiny-words>=2`"
    )


@pytest.mark.usefixtures("wheels_only")
@pytest.mark.parametrize("content", [b"", b"PK", b"not a wheel at all"])
def test_an_address_that_serves_no_wheel(assets: FileServer, tmp_path: Path, content: bytes) -> None:
    (assets.directory / FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match="Cannot read wheel `tiny_extra") as caught:
        lock_recipe(load_recipe(write_recipe(tmp_path / "tiny", recipe_text(assets))))
    assert caught.value.hint
