"""What the distributions of vllm, vllm-mlx and mlx-lm really say, and what may be made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.licenses import canonicalize_license_expression
from trove_classifiers import classifiers as known_classifiers

from mr_bundler.papers.licence_names import CLASSIFIERS, classified_licence, named_licence, spdx_expression
from mr_bundler.papers.metadata import parse_metadata

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
APACHE_CLASSIFIER = "OSI Approved :: Apache Software License"
MIT_CLASSIFIER = "OSI Approved :: MIT License"
BSD_CLASSIFIER = "OSI Approved :: BSD License"
PROPRIETARY = "Other/Proprietary License"

# (name, License-Expression, License, classifiers, author) -> licence; as they stand in their METADATA in November 2026
STATED = [
    (("cuda-toolkit", "", "", [], "NVIDIA Kitmaker Team"), ""),
    (("numba", "", "BSD", [BSD_CLASSIFIER], ""), ""),
    (("nvidia-ml-py", "", "BSD", [BSD_CLASSIFIER], "NVIDIA Corporation"), ""),
    (("quack-kernels", "", "", [], ""), ""),
    (("supervisor", "", "BSD-derived (http://www.repoze.org/LICENSE.txt)", [], ""), ""),
    (("torchaudio", "", "", [BSD_CLASSIFIER], ""), ""),
    (("torchvision", "", "BSD", [], ""), ""),
    (("detect-installer", "0BSD", "", [], ""), "0BSD"),
    (("apache-tvm-ffi", "", "Apache 2.0", [APACHE_CLASSIFIER], ""), "Apache-2.0"),
    (("outlines_core", "", "Apache-2.0", [], ""), "Apache-2.0"),
    (("tokenizers", "", "", [APACHE_CLASSIFIER], ""), "Apache-2.0"),
    (("transformers", "", "Apache 2.0 License", [], ""), "Apache-2.0"),
    (("nvidia-nvtx", "", "Apache 2.0", [PROPRIETARY], "NVIDIA"), "Apache-2.0"),
    (
        ("torch", "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND MIT", "", [], ""),
        "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND MIT",
    ),
    (
        ("nvidia-cudnn-frontend", "", "Apache-2.0 AND MIT", [APACHE_CLASSIFIER, MIT_CLASSIFIER], ""),
        "Apache-2.0 AND MIT",
    ),
    (("packaging", "Apache-2.0 OR BSD-2-Clause", "", [], ""), "Apache-2.0 OR BSD-2-Clause"),
    (("httpcore", "BSD-3-Clause", "", [BSD_CLASSIFIER], ""), "BSD-3-Clause"),
    (("httpx", "", "BSD-3-Clause", [BSD_CLASSIFIER], ""), "BSD-3-Clause"),
    (("protobuf", "", "3-Clause BSD License", [], ""), "BSD-3-Clause"),
    (
        ("numpy", "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", "", [], ""),
        "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    ),
    (
        (
            "mlx-embeddings",
            "",
            "GNU General Public License v3",
            ["OSI Approved :: GNU General Public License v3 (GPLv3)"],
            "",
        ),
        "GPL-3.0-only",
    ),
    (("prometheus-fastapi-instrumentator", "", "ISC", ["OSI Approved"], ""), "ISC"),
    (("shellingham", "", "ISC License", ["OSI Approved :: ISC License (ISCL)"], ""), "ISC"),
    (("nvidia-cuda-cupti", "", NVIDIA, [PROPRIETARY], "Nvidia CUDA Installer Team"), NVIDIA),
    (("nvidia-cusparselt-cu13", "", "NVIDIA Proprietary Software", [], "NVIDIA Corporation"), NVIDIA),
    (("nvidia-cutlass-dsl", "", "", [PROPRIETARY], "NVIDIA Corporation"), NVIDIA),
    (("somebody-elses", "", "", [PROPRIETARY], "Another Corporation"), ""),
    (("triton", "", "", [MIT_CLASSIFIER], ""), "MIT"),
    (("z3-solver", "", "MIT License", [], ""), "MIT"),
    (("uvloop", "", "MIT License", [APACHE_CLASSIFIER, MIT_CLASSIFIER], ""), "MIT"),
    (("two-classifiers", "", "", [APACHE_CLASSIFIER, MIT_CLASSIFIER], ""), ""),
    (("sniffio", "", "MIT OR Apache-2.0", [MIT_CLASSIFIER, APACHE_CLASSIFIER], ""), "MIT OR Apache-2.0"),
    (("orjson", "MPL-2.0 AND (Apache-2.0 OR MIT)", "", [], ""), "MPL-2.0 AND (Apache-2.0 OR MIT)"),
    (("certifi", "", "MPL-2.0", ["OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"], ""), "MPL-2.0"),
    (("aiohappyeyeballs", "", "PSF-2.0", ["OSI Approved :: Python Software Foundation License"], ""), "PSF-2.0"),
    (("email-validator", "", "Unlicense", ["OSI Approved :: The Unlicense (Unlicense)"], ""), "Unlicense"),
]


@pytest.mark.parametrize(("stated", "expected"), STATED, ids=[stated[0] for stated, _ in STATED])
def test_what_real_distributions_state(stated: tuple[str, str, str, list[str], str], expected: str) -> None:
    name, expression, field, classifiers, author = stated
    lines = [f"Name: {name}", "Version: 1.0"]
    lines += [f"License-Expression: {expression}"] if expression else []
    lines += [f"License: {field}"] if field else []
    lines += [f"Author: {author}"] if author else []
    lines += [f"Classifier: License :: {text}" for text in classifiers]
    metadata = parse_metadata("\n".join(lines))
    assert metadata.licence == expected
    assert bool(metadata.licence_source) == bool(expected)
    assert expected == "" or canonicalize_license_expression(expected) == expected


def test_the_table_of_classifiers_names_real_classifiers_and_licences() -> None:
    assert set(CLASSIFIERS) <= known_classifiers
    for licence in CLASSIFIERS.values():
        assert canonicalize_license_expression(licence) == licence


@pytest.mark.parametrize(
    "text", ["BSD", "BSD License", "Proprietary", "GPL", "LGPL", "Dual License", "see LICENSE", "UNKNOWN"]
)
def test_a_name_that_may_mean_several_licences_is_none(text: str) -> None:
    assert named_licence(text) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mit", "MIT"),
        ("The MIT License (MIT)", "MIT"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Apache-2.0 license", "Apache-2.0"),
        ("New BSD License", "BSD-3-Clause"),
        ("BSD 3-Clause License", "BSD-3-Clause"),
        ("PSF", "PSF-2.0"),
        ("MPL 2.0", "MPL-2.0"),
        ("apache-2.0 or mit", "Apache-2.0 OR MIT"),
        ("LGPLv3+", "LGPL-3.0-or-later"),
    ],
)
def test_well_known_spellings(text: str, expected: str) -> None:
    assert named_licence(text) == expected


def test_several_classifiers_name_no_licence() -> None:
    assert classified_licence(["License :: OSI Approved", f"License :: {MIT_CLASSIFIER}"]) == "MIT"
    assert classified_licence([f"License :: {MIT_CLASSIFIER}", f"License :: {BSD_CLASSIFIER}"]) == ""


@given(st.text(max_size=200) | st.text(alphabet="()mit andorwith+-.", max_size=1200))
def test_no_text_breaks_the_reading_of_licences(text: str) -> None:
    for read in (spdx_expression, named_licence):
        result = read(text)
        assert result == "" or canonicalize_license_expression(result) == result


@pytest.mark.parametrize("text", ["(" * 900, "MIT" * 300, "(" * 400 + "MIT" + ")" * 400, "MIT OR " * 140 + "MIT"])
def test_expressions_made_to_exhaust_a_parser(text: str) -> None:
    assert spdx_expression(text) in {"", text}
