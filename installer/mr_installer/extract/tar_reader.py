"""Read a tar stream strictly, in one pass: accept what the project's packer writes, refuse everything else.

Two ustar or PAX readers may disagree about an archive only where it breaks a rule, so what is accepted here means the
same tree to every tar program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mr_core.errors import InternalError
from mr_installer.extract.header import BLOCK, DIRECTORY, FILE, LINK, PAX, Header, parse_header
from mr_installer.extract.job import Limits
from mr_installer.extract.member_path import MOST_PATH_BYTES, decode_text, parse_path
from mr_installer.extract.pax import MOST_BYTES, parse_pax
from mr_installer.extract.rules import Rule, refusal

_ZEROS = bytes(BLOCK)
_MOST_ZEROS_AFTER_END = 64 << 10
"""Other packers fill up to a record of 10 KiB; more would be a cheap way to keep a reader busy."""


class Member(NamedTuple):
    """A member that keeps every rule; ``kind`` is `FILE`, `LINK` or `DIRECTORY`, ``path`` is below the top one."""

    kind: bytes
    path: str
    mode: int
    size: int
    link: str
    offset: int


class TarReader:
    """The members of one stream, each with the content that follows it."""

    def __init__(self, chunks: Iterable[bytes], *, root: str, limits: Limits) -> None:
        self._chunks = iter(chunks)
        self._root = root
        self._limits = limits
        self._chunk = b""
        self._view = memoryview(b"")
        self._at = 0
        self._base = 0  # where the chunk begins in the stream
        self._unread = 0
        self._current = ""
        self._kinds: dict[str, bytes] = {}
        self._bytes = 0

    def members(self) -> Iterator[Member]:
        """Yield every member; `content` of a file must be exhausted before the next one is asked for.

        Raises:
            IntegrityError: naming member, offset and rule.
        """
        while True:
            if self._unread:
                raise InternalError("Cannot read layer: the content of the last member was not read")
            offset = self._base + self._at
            block = self._take(BLOCK)
            if block == _ZEROS:
                self._finish()
                return
            header = parse_header(block, offset)
            records: dict[str, bytes] = {}
            if header.kind == PAX:
                records = self._pax(header, offset)
                block = self._take(BLOCK)
                if block == _ZEROS:
                    raise refusal(Rule.PAX_ORDER, "a PAX header belongs to no member", offset=offset)
                header = parse_header(block, self._base + self._at - BLOCK)
                if header.kind == PAX:
                    raise refusal(Rule.PAX_ORDER, "a PAX header follows another", offset=offset)
            member = self._member(header, records, offset)
            self._admit(member)
            self._unread = member.size
            self._current = member.path
            yield member

    def content(self) -> Iterator[memoryview]:
        """Yield the content of the current file in pieces of any size."""
        size = self._unread
        while self._unread:
            at, most = self._at, len(self._chunk)
            if at == most:
                self._next_chunk(Rule.TRUNCATED, "the stream ends inside its content")
                continue
            end = min(at + self._unread, most)
            self._at = end
            self._unread -= end - at
            yield self._view[at:end]
        self._skip_padding(size)

    def _member(self, header: Header, records: dict[str, bytes], offset: int) -> Member:
        raw = records.get("path", header.path)
        if raw.endswith(b"/"):
            if header.kind != DIRECTORY:
                shown = raw.decode(errors="backslashreplace")
                raise refusal(Rule.PATH_SLASH, "only directories end in a slash", member=shown, offset=offset)
            raw = raw[:-1]
        path = parse_path(raw, self._root, offset)
        size = header.size
        if "size" in records:
            size = int(records["size"])
            if header.kind != FILE or header.size not in {0, size}:
                raise refusal(Rule.PAX_CONFLICT, "its PAX size contradicts its header", member=path, offset=offset)
        link = b""
        if header.kind == LINK:
            link = records.get("linkpath", header.link)
            if not link or len(link) > MOST_PATH_BYTES:
                reason = f"its target is empty or longer than {MOST_PATH_BYTES} bytes"
                raise refusal(Rule.LINK_EMPTY, reason, member=path, offset=offset)
        elif "linkpath" in records:
            raise refusal(Rule.PAX_CONFLICT, "it is not a link but has a link target", member=path, offset=offset)
        return Member(header.kind, path, header.mode, size, decode_text(link, offset), offset)

    def _admit(self, member: Member) -> None:
        """Check a member against those before it, and against the limits, and remember it."""
        kinds, path = self._kinds, member.path
        if path in kinds:
            raise self._refusal(Rule.DUPLICATE, "it stands in the layer twice", member)
        if not path:
            if member.kind != DIRECTORY:
                raise self._refusal(Rule.NOT_A_DIRECTORY, "the layer's top entry is not a directory", member)
        else:
            parent = path.rpartition("/")[0]
            kind = kinds.get(parent)
            if kind is None:
                raise self._refusal(Rule.NO_PARENT, "no directory entry for its parent comes before it", member)
            if kind != DIRECTORY:
                raise self._refusal(Rule.NOT_A_DIRECTORY, f"its parent `{parent}` is not a directory", member)
        kinds[path] = member.kind
        if len(kinds) > self._limits.entries:
            reason = f"the layer has more than {self._limits.entries} entries"
            raise self._refusal(Rule.LIMIT_ENTRIES, reason, member)
        self._bytes += member.size
        if self._bytes > self._limits.bytes:
            reason = f"the layer's files have more than {self._limits.bytes} bytes"
            raise self._refusal(Rule.LIMIT_BYTES, reason, member)

    def _refusal(self, rule: Rule, reason: str, member: Member) -> Exception:
        return refusal(rule, reason, member=member.path or self._root, offset=member.offset)

    def _pax(self, header: Header, offset: int) -> dict[str, bytes]:
        if header.size > MOST_BYTES:
            raise refusal(Rule.PAX_OVERSIZE, f"a PAX header has more than {MOST_BYTES} bytes", offset=offset)
        data = self._take(header.size)
        self._current = ""
        self._skip_padding(header.size)
        return parse_pax(data, offset)

    def _skip_padding(self, size: int) -> None:
        if rest := -size % BLOCK:
            offset = self._base + self._at
            if any(self._take(rest)):
                reason = "bytes other than zero fill up its last block"
                raise refusal(Rule.PADDING, reason, member=self._current, offset=offset)

    def _finish(self) -> None:
        """Check that a second zero block ends the archive, and that only zeros follow."""
        if self._take(BLOCK) != _ZEROS:
            reason = "one zero block stands between members"
            raise refusal(Rule.END_BLOCKS, reason, offset=self._base + self._at - BLOCK)
        left = _MOST_ZEROS_AFTER_END
        self._base += self._at
        rest: bytes | None = self._chunk[self._at :]
        while rest is not None:
            left -= len(rest)
            if left < 0 or rest.strip(b"\0"):
                raise refusal(Rule.BYTES_AFTER_END, "bytes follow its end", offset=self._base)
            self._base += len(rest)
            rest = next(self._chunks, None)
        if left % BLOCK:
            raise refusal(Rule.BYTES_AFTER_END, "bytes follow its end", offset=self._base)

    def _take(self, size: int) -> bytes:
        """Return exactly ``size`` bytes, at most a few KiB."""
        at = self._at
        end = at + size
        if end <= len(self._chunk):
            self._at = end
            return self._chunk[at:end]
        parts = [self._chunk[at:]]
        missing = end - len(self._chunk)
        self._at = len(self._chunk)
        while missing:
            whole = missing == size
            rule = Rule.END_BLOCKS if whole and size == BLOCK else Rule.TRUNCATED
            self._next_chunk(rule, "the stream ends without two zero blocks" if whole else "the stream ends early")
            part = self._chunk[:missing]
            self._at = len(part)
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _next_chunk(self, rule: Rule, reason: str) -> None:
        self._base += len(self._chunk)
        self._at = 0
        self._chunk = next(self._chunks, b"")
        self._view = memoryview(self._chunk)
        if not self._chunk:
            raise refusal(rule, reason, member=self._current, offset=self._base)
