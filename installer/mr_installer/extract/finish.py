"""Join the layers to one tree: check what only shows across layers, then create the symbolic links."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mr_core.file_manifest import Entry, FileEntry, LinkEntry
from mr_installer.extract.job import LayerResult, Limits
from mr_installer.extract.links import check_links
from mr_installer.extract.member_path import fold
from mr_installer.extract.rules import Rule, refusal
from mr_installer.extract.tree_writer import TreeWriter, open_directory

_NO_LIMITS = Limits()


def finish_tree(stage: Path, results: Sequence[LayerResult], *, limits: Limits = _NO_LIMITS) -> dict[str, Entry]:
    """Check the layers against each other, create their links below ``stage``, and return all entries by path.

    Raises:
        IntegrityError: a path in two layers, a file where a directory is needed, paths that some filesystem takes for
            the same one, a link that is not safe, or more than ``limits`` allows.
        HostError: a link cannot be created.
    """
    tree = join_layers(results, limits)
    links = {entry.path: entry.link for entry in tree.values() if isinstance(entry, LinkEntry)}
    descriptor = open_directory(stage)
    try:
        with TreeWriter(descriptor) as writer:
            for path in sorted(links):
                writer.make_link(path, links[path])
    finally:
        os.close(descriptor)
    return tree


def join_layers(results: Sequence[LayerResult], limits: Limits = _NO_LIMITS) -> dict[str, Entry]:
    """Return the entries of all layers by path, or raise `IntegrityError`; touches no disk."""
    tree: dict[str, Entry] = {}
    directories: set[str] = set()
    for result in results:
        directories |= result.directories
        for entry in result.entries:
            if tree.setdefault(entry.path, entry) is not entry:
                raise refusal(Rule.DUPLICATE, "it stands in two layers", member=entry.path)
    if both := directories & tree.keys():
        reason = "it is a directory in one layer and a file or a link in another"
        raise refusal(Rule.NOT_A_DIRECTORY, reason, member=min(both))
    if len(tree) + len(directories) > limits.entries:
        raise refusal(Rule.LIMIT_ENTRIES, f"the layers have more than {limits.entries} entries")
    if sum(entry.size for entry in tree.values() if isinstance(entry, FileEntry)) > limits.bytes:
        raise refusal(Rule.LIMIT_BYTES, f"the files of the layers have more than {limits.bytes} bytes")
    folded: dict[str, str] = {}
    for names in (tree, directories):
        for path in names:
            other = folded.setdefault(fold(path), path)
            if other != path:
                raise refusal(Rule.COLLISION, f"some filesystems take it for `{other}`", member=path)
    links = {entry.path: entry.link for entry in tree.values() if isinstance(entry, LinkEntry)}
    check_links(links, tree.keys() - links.keys(), directories)
    return tree
