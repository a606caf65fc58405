"""Following links: bounded work, however they lead through each other."""

from __future__ import annotations

import pytest

from mr_core.errors import IntegrityError
from mr_installer.extract.links import MOST_STEPS, check_links


class Counted(set[str]):
    """Paths that count how often somebody looks one up."""

    looked = 0

    def __contains__(self, path: object) -> bool:
        self.looked += 1
        return super().__contains__(path)


def test_work_is_in_proportion_to_the_links_and_not_to_the_steps() -> None:
    directories = Counted(["d"])
    chain = {"d/l0": "f", **{f"d/l{n}": f"l{n - 1}" for n in range(1, 250)}}
    links = {f"d/m{n}": "l249" for n in range(2000)} | chain
    check_links(links, {"d/f"}, directories)
    assert directories.looked <= 2 * len(links)


def test_steps_of_links_on_the_way_count_each_time() -> None:
    links = {"a": "x", "b": "/".join(["d/.."] * 60 + ["c"]), "c": "a"}
    check_links(links, set(), {"d"})
    twice = {**links, "up": "d/..", "z": "/".join(["up"] * 85 + ["a"])}  # 85 times 1 + 2, then 1 + 1
    with pytest.raises(IntegrityError, match=f"Cannot extract `z`: it does not end within {MOST_STEPS} steps"):
        check_links(twice, set(), {"d"})
    check_links({**twice, "z": "/".join(["up"] * 84 + ["a"])}, set(), {"d"})


def test_deep_nesting_needs_no_deep_stack() -> None:
    links = {f"l{n}": f"l{n + 1}" for n in range(100_000)}
    with pytest.raises(IntegrityError, match="`l0`: it does not end within"):
        check_links(links, set(), set())
