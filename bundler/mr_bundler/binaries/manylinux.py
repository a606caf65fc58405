"""What a host of a promised glibc has of libstdc++, by the policies of PEP 600.

A wheel relies on the ``libstdc++.so.6`` of its host, whose version glibc's does not tell. The policies say which symbol
versions all mainstream distributions with a glibc have; the numbers are those of x86_64 and aarch64 in
``auditwheel/policy/manylinux-policy.json`` of auditwheel 6.8.2, where the two differ the lower one.
"""

from __future__ import annotations

import bisect

# glibc: GLIBCXX_3.4.<n>, CXXABI_1.3.<n>; policies that raise neither are left out
_POLICIES = (
    ((2, 5), 8, 1),
    ((2, 12), 13, 3),
    ((2, 17), 19, 7),
    ((2, 24), 22, 10),
    ((2, 27), 24, 11),
    ((2, 31), 28, 12),
    ((2, 34), 29, 13),
    ((2, 35), 30, 13),
    ((2, 39), 33, 15),
)


def libstdcxx_of(glibc: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the highest version of each family of symbols that may be asked for; empty for a glibc before 2.5."""
    at = bisect.bisect_right(_POLICIES, glibc[:2], key=lambda policy: policy[0])
    if not at:
        return {}
    _, glibcxx, cxxabi = _POLICIES[at - 1]
    return {"GLIBCXX": (3, 4, glibcxx), "CXXABI": (1, 3, cxxabi)}
