"""Recognise the commonest licences by their whole text, word for word; anything else is not recognised.

Case, punctuation, line breaks and the marks of list items do not count; every word does. So a recognised text *is*
that licence, and a changed clause makes it unknown.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

from mr_core.durable import host_errors

_MOST_LETTERS = 1 << 20
_MOST_FILES = 100
_MOST_TITLE_WORDS = 80
_WORD = re.compile(r"[a-z0-9]+")
_MAIN = re.compile(r"(licen[cs]e|copying)(\.(txt|md|rst))?", re.IGNORECASE)
_ITEM = r"(?:(?:[0-9]|[a-d]|i{1,3}) )?"
_NAMES = r"(?:\S+ ){1,24}?"
_BSD = (
    "redistribution and use in source and binary forms with or without modification are permitted provided that the"
    f" following conditions are met {_ITEM}redistributions of source code must retain the above copyright notice this"
    f" list of conditions and the following disclaimer {_ITEM}redistributions in binary form must reproduce the above"
    " copyright notice this list of conditions and the following disclaimer in the documentation and or other"
    " materials provided with the distribution "
)
_ENDORSE = (
    f"{_ITEM}neither the name of {_NAMES}nor the names of (?:its|any|the|their) contributors may be used to endorse or"
    " promote products derived from this software without specific prior written permission "
)
_DISCLAIMER = (
    f"this software is provided by {_NAMES}as is and any express or implied warranties including but not limited to"
    " the implied warranties of merchantability and fitness for a particular purpose are disclaimed in no event shall"
    f" {_NAMES}be liable for any direct indirect incidental special exemplary or consequential damages including but"
    " not limited to procurement of substitute goods or services loss of use data or profits or business interruption"
    " however caused and on any theory of liability whether in contract strict liability or tort including negligence"
    " or otherwise arising in any way out of the use of this software even if advised of the possibility of such damage"
)
_MIT = (
    "permission is hereby granted free of charge to any person obtaining a copy of this software and associated"
    " documentation files the software to deal in the software without restriction including without limitation the"
    " rights to use copy modify merge publish distribute sublicense and or sell copies of the software and to permit"
    " persons to whom the software is furnished to do so subject to the following conditions the above copyright"
    " notice and this permission notice shall be included in all copies or substantial portions of the software the"
    " software is provided as is without warranty of any kind express or implied including but not limited to the"
    " warranties of merchantability fitness for a particular purpose and noninfringement in no event shall the authors"
    " or copyright holders be liable for any claim damages or other liability whether in an action of contract tort or"
    " otherwise arising from out of or in connection with the software or the use or other dealings in the software"
)
_ISC = (
    "permission to use copy modify and or distribute this software for any purpose with or without fee is hereby"
    " granted provided that the above copyright notice and this permission notice appear in all copies the software is"
    " provided as is and the author disclaims all warranties with regard to this software including all implied"
    " warranties of merchantability and fitness in no event shall the author be liable for any special direct indirect"
    " or consequential damages or any damages whatsoever resulting from loss of use data or profits whether in an"
    " action of contract negligence or other tortious action arising out of or in connection with the use or"
    " performance of this software"
)
_BODIES = {
    "MIT": re.compile(_MIT),
    "ISC": re.compile(_ISC),
    "BSD-3-Clause": re.compile(_BSD + _ENDORSE + _DISCLAIMER),
    "BSD-2-Clause": re.compile(_BSD + _DISCLAIMER),
}
_APACHE_BEGIN = "terms and conditions for use reproduction and distribution "
_APACHE_END = "of your accepting any such warranty or additional liability"
# of the words from the one to the other, in the licence as the Apache Software Foundation publishes it
_APACHE_SHA256 = "c876a853e3837603a39d56da29306b74786b34411bf636ce5072eb840e764cab"
_APACHE_AFTER = re.compile(
    "(end of terms and conditions ?)?((appendix how to apply|copyright) .{0,1200}limitations under the license)?"
)


def recognise_text(text: str) -> str:
    """Return the SPDX identifier of a text that is one licence and its copyright lines, else nothing."""
    licence, rest = _first_licence(text)
    whole = _APACHE_AFTER.fullmatch(rest) is not None if licence == "Apache-2.0" else rest == ""
    return licence if whole else ""


def recognise_beginning(text: str) -> str:
    """Return the SPDX identifier of the licence a text begins with; other licences may follow, of what is bundled."""
    return _first_licence(text)[0]


@functools.lru_cache(maxsize=64)
def _first_licence(text: str) -> tuple[str, str]:
    """Return the licence a text begins with, after a title and copyright lines, and the words after it."""
    words = " ".join(_WORD.findall(text[:_MOST_LETTERS].lower()))
    for licence, body in _BODIES.items():
        match = body.search(words)
        if match and _is_title(words[: match.start()]):
            return licence, words[match.end() :].strip()
    begin, end = words.find(_APACHE_BEGIN), words.find(_APACHE_END)
    if 0 <= begin < end and _is_title(words[:begin]):
        digest = hashlib.sha256(words[begin : end + len(_APACHE_END)].encode()).hexdigest()
        if digest == _APACHE_SHA256:
            return "Apache-2.0", words[end + len(_APACHE_END) :].strip()
    return "", words


def _is_title(words: str) -> bool:
    """Whether what stands before a licence is its title and who holds the copyright, not another licence."""
    return words.count(" ") <= _MOST_TITLE_WORDS and not re.search(
        r"\b(permission|permitted|redistribut\w*|warrant\w*|licensed|bundle[sd]?)\b", words
    )


def read_licence_files(place: Path) -> dict[str, str]:
    """Return the texts of the licence files of a ``.dist-info`` directory by their path in it; at most 1 MiB of each.

    Raises:
        HostError: when one cannot be read.
    """
    found: dict[str, str] = {}
    with host_errors("read", place):
        inside = sorted(file for file in (place / "licenses").rglob("*") if file.is_file())
        beside = sorted(file for file in place.iterdir() if _is_licence_name(file.name) and file.is_file())
        for file in (*inside, *beside)[:_MOST_FILES]:
            with file.open("rb") as stream:
                content = stream.read(_MOST_LETTERS)
            found[file.relative_to(place).as_posix()] = content.decode("utf-8", "replace")
    return found


def main_licence(texts: dict[str, str]) -> str:
    """Return the text of the one file that holds the distribution's own licence; nothing when there is no such one."""
    main = [path for path in texts if path.count("/") <= 1 and _MAIN.fullmatch(path.rpartition("/")[2])]
    return texts[main[0]] if len(main) == 1 else ""


def _is_licence_name(name: str) -> bool:
    return name.lower().startswith(("license", "licence", "copying", "notice"))
