"""Turn what distributions say about their licence into SPDX expressions, and only when it names one exactly. Pure.

Sources: the SPDX licence list as `packaging` carries it; the mapping of trove classifiers in PEP 639. Two readings go
further than PEP 639, because its strictness would leave half of all distributions unnamed and neither can mislead:
``Apache Software License`` is 2.0 (no distribution of this century is under 1.1), and a GNU version without "or later"
is ``-only``, which grants less. ``BSD License`` is a family, not a licence, and stays one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
"""What NVIDIA's newer wheels say in ``License-Expression``; the older ones mean the same in other words."""
BSD_FAMILY = frozenset({"BSD-2-Clause", "BSD-3-Clause"})
"""What ``BSD License`` may mean; the licence's text decides."""
PROPRIETARY = "License :: Other/Proprietary License"

_MOST_LETTERS = 1000
_OSI = "License :: OSI Approved :: "
CLASSIFIERS = {
    "License :: CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "License :: CeCILL-B Free Software License Agreement (CECILL-B)": "CECILL-B",
    "License :: CeCILL-C Free Software License Agreement (CECILL-C)": "CECILL-C",
    "License :: Public Domain": "LicenseRef-Public-Domain",
    f"{_OSI}Apache Software License": "Apache-2.0",
    f"{_OSI}Blue Oak Model License (BlueOak-1.0.0)": "BlueOak-1.0.0",
    f"{_OSI}Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    f"{_OSI}CEA CNRS Inria Logiciel Libre License, version 2.1 (CeCILL-2.1)": "CECILL-2.1",
    f"{_OSI}CMU License (MIT-CMU)": "MIT-CMU",
    f"{_OSI}Common Development and Distribution License 1.0 (CDDL-1.0)": "CDDL-1.0",
    f"{_OSI}Eclipse Public License 1.0 (EPL-1.0)": "EPL-1.0",
    f"{_OSI}Eclipse Public License 2.0 (EPL-2.0)": "EPL-2.0",
    f"{_OSI}Educational Community License, Version 2.0 (ECL-2.0)": "ECL-2.0",
    f"{_OSI}European Union Public Licence 1.0 (EUPL 1.0)": "EUPL-1.0",
    f"{_OSI}European Union Public Licence 1.1 (EUPL 1.1)": "EUPL-1.1",
    f"{_OSI}European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    f"{_OSI}GNU Affero General Public License v3": "AGPL-3.0-only",
    f"{_OSI}GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    f"{_OSI}GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    f"{_OSI}GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    f"{_OSI}GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    f"{_OSI}GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    f"{_OSI}GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0-only",
    f"{_OSI}GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    f"{_OSI}GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    f"{_OSI}GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    f"{_OSI}Historical Permission Notice and Disclaimer (HPND)": "HPND",
    f"{_OSI}ISC License (ISCL)": "ISC",
    f"{_OSI}MIT License": "MIT",
    f"{_OSI}MIT No Attribution License (MIT-0)": "MIT-0",
    f"{_OSI}MirOS License (MirOS)": "MirOS",
    f"{_OSI}Mozilla Public License 1.0 (MPL)": "MPL-1.0",
    f"{_OSI}Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    f"{_OSI}Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    f"{_OSI}Mulan Permissive Software License v2 (MulanPSL-2.0)": "MulanPSL-2.0",
    f"{_OSI}NASA Open Source Agreement v1.3 (NASA-1.3)": "NASA-1.3",
    f"{_OSI}Open Software License 3.0 (OSL-3.0)": "OSL-3.0",
    f"{_OSI}PostgreSQL License": "PostgreSQL",
    f"{_OSI}Python License (CNRI Python License)": "CNRI-Python",
    f"{_OSI}Python Software Foundation License": "PSF-2.0",
    f"{_OSI}SIL Open Font License 1.1 (OFL-1.1)": "OFL-1.1",
    f"{_OSI}The Unlicense (Unlicense)": "Unlicense",
    f"{_OSI}Universal Permissive License (UPL)": "UPL-1.0",
    f"{_OSI}University of Illinois/NCSA Open Source License": "NCSA",
    f"{_OSI}Zero-Clause BSD (0BSD)": "0BSD",
    f"{_OSI}zlib/libpng License": "Zlib",
}
"""Trove classifiers that name one licence."""
BSD_CLASSIFIER = f"{_OSI}BSD License"
# Keys are as `_spelling` leaves them: lower case, without "the", "license", "version", commas and brackets.
_SPELLINGS = {
    "0bsd": "0BSD",
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "agpl 3.0": "AGPL-3.0-only",
    "agplv3": "AGPL-3.0-only",
    "agplv3+": "AGPL-3.0-or-later",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software": "Apache-2.0",
    "apache software 2.0": "Apache-2.0",
    "apache v2": "Apache-2.0",
    "apache v2.0": "Apache-2.0",
    "apache": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache2.0": "Apache-2.0",
    "asl 2": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "boost software 1.0": "BSL-1.0",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd2": "BSD-2-Clause",
    "bsd3": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "gnu general public v2": "GPL-2.0-only",
    "gnu general public v3": "GPL-3.0-only",
    "gnu gplv3": "GPL-3.0-only",
    "gpl 2.0": "GPL-2.0-only",
    "gpl 3.0": "GPL-3.0-only",
    "gpl v2": "GPL-2.0-only",
    "gpl v3": "GPL-3.0-only",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-3.0": "GPL-3.0-only",
    "gplv2": "GPL-2.0-only",
    "gplv2+": "GPL-2.0-or-later",
    "gplv3": "GPL-3.0-only",
    "gplv3+": "GPL-3.0-or-later",
    "isc iscl": "ISC",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "lgplv2.1": "LGPL-2.1-only",
    "lgplv2.1+": "LGPL-2.1-or-later",
    "lgplv3": "LGPL-3.0-only",
    "lgplv3+": "LGPL-3.0-or-later",
    "mit": "MIT",
    "mit mit": "MIT",
    "modified bsd": "BSD-3-Clause",
    "mozilla public 2.0": "MPL-2.0",
    "mozilla public 2.0 mpl 2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "mpl v2": "MPL-2.0",
    "mpl2": "MPL-2.0",
    "new bsd": "BSD-3-Clause",
    "nvidia proprietary": NVIDIA,
    "nvidia proprietary software": NVIDIA,
    "psf": "PSF-2.0",
    "psf 2.0": "PSF-2.0",
    "psfl": "PSF-2.0",
    "public domain": "LicenseRef-Public-Domain",
    "python software foundation": "PSF-2.0",
    "revised bsd": "BSD-3-Clause",
    "simplified bsd": "BSD-2-Clause",
    "unlicense": "Unlicense",
    "zlib/libpng": "Zlib",
}
_FAMILY = frozenset({"bsd", "bsd-like", "bsd style", "bsd-style"})
_NOISE = re.compile(r"\b(the|licen[cs]es?|version)\b|[(),\"']")


def spdx_expression(text: str) -> str:
    """Return the canonical form of an SPDX expression, empty for anything else."""
    if not 0 < len(text) <= _MOST_LETTERS:
        return ""
    try:
        return canonicalize_license_expression(text)
    except (InvalidLicenseExpression, RecursionError, MemoryError, SyntaxWarning):
        return ""  # the latter three: it lets the Python compiler judge the brackets


def named_licence(text: str) -> str:
    """Return the SPDX expression that a ``License`` field means, empty when it does not name one exactly."""
    if not 0 < len(text) <= _MOST_LETTERS or "\n" in text.strip():
        return ""
    spelling = _spelling(text)
    return _SPELLINGS.get(spelling) or spdx_expression(text.strip()) or spdx_expression(spelling)


def is_bsd_family(text: str) -> bool:
    """Whether a ``License`` field says no more than that it is one of the BSD licences."""
    return len(text) <= _MOST_LETTERS and _spelling(text) in _FAMILY


def classified_licence(classifiers: Sequence[str]) -> str:
    """Return the licence classifiers name, empty when they name none, a family, or several.

    Several say that each applies somehow, not whether the user may choose: no expression can be made of that.
    """
    licences = {text for text in classifiers if text.startswith("License ::") and text != _OSI.removesuffix(" :: ")}
    if len(licences) != 1:
        return ""
    return CLASSIFIERS.get(licences.pop(), "")


def _spelling(text: str) -> str:
    return " ".join(_NOISE.sub(" ", text.lower()).split())
