"""See whether a layout can be written before the work that is to fill it is done."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mr_bundler.image.image import index_entries
from mr_core.durable import host_errors
from mr_core.errors import HostError, InvalidInputError
from mr_core.layout import LayoutStore
from mr_core.layout_index import INDEX_FILE, LAYOUT_FILE

_UNFINISHED = frozenset({".index.lock", ".ingest", "blobs", INDEX_FILE})
"""What a layout that was not made whole may hold: making it begins with these."""


def check_destination(layout: Path, name: str) -> None:
    """Refuse a directory that cannot become, or get more of, a layout; nothing is left that was not there.

    Args:
        layout: A layout, an empty directory, or a place where a directory can be made.
        name: Of the index that is to be written.

    Raises:
        InvalidInputError: it holds something else, its own files are damaged, or ``name`` belongs to a single image.
        HostError: it cannot be written.
    """
    with host_errors("use layout", layout):
        if (layout / LAYOUT_FILE).exists():
            store = LayoutStore(layout)
            store.names()  # the index itself may be missing or damaged
            index_entries(store, name)
        elif os.path.lexists(layout):
            strangers = sorted({place.name for place in layout.iterdir()} - _UNFINISHED)
            if strangers:
                raise InvalidInputError(
                    f"Cannot create layout `{layout}`: the directory holds `{strangers[0]}`",
                    hint="name an empty or a new directory",
                )
        else:
            _check_creation(layout)
            return
    if not os.access(layout, os.W_OK | os.X_OK):
        raise HostError(
            f"Cannot write to layout `{layout}`: it may only be read",
            hint="check the owner and the permissions of that directory, or name another one",
        )


def _check_creation(layout: Path) -> None:
    """Make and remove a directory beside the first one that is missing: only that tells for ``/proc`` and the like."""
    missing = Path(os.path.abspath(layout))  # noqa: PTH100 - links stay, `..` goes: it may follow what is missing
    above = next(place for place in missing.parents if os.path.lexists(place))
    with host_errors("create layout", layout), tempfile.TemporaryDirectory(dir=above, prefix=".mr-layout-"):
        pass
