"""Brace patterns, against bash, against the braceexpand package, and against the tree that wrote them."""

import itertools
import re
import shutil
import subprocess

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qdet.errors import DataError
from qdet.storage.braces import LIMIT, expand_braces
from qdet.storage.urls import expand

TEXT = st.text(alphabet="ab01-._/", max_size=4)


def ranges() -> st.SearchStrategy[tuple[str, list[str]]]:
    """A range of numbers, with what a loop over it prints."""

    def write(first: int, last: int, step: int, width: int) -> tuple[str, list[str]]:
        written = [f"{n:0{width}d}" for n in (first, last)]
        width = max(map(len, written)) if any(w.lstrip("-")[0] == "0" and len(w) > 1 for w in written) else 0
        sign = 1 if first <= last else -1
        numbers, at = [], first
        while sign * (last - at) >= 0:
            numbers.append(f"{at:0{width}d}")
            at += sign * step
        return f"{{{written[0]}..{written[1]}{f'..{step}' if step > 1 else ''}}}", numbers

    small = st.integers(-12, 12)
    return st.builds(write, small, small, st.integers(1, 4), st.integers(1, 4))


def joined(parts: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    names = ["".join(chosen) for chosen in itertools.product(*(names for _, names in parts))]
    return "".join(pattern for pattern, _ in parts), names


def chosen(parts: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    return "{" + ",".join(pattern for pattern, _ in parts) + "}", [n for _, names in parts for n in names]


TREES = st.recursive(
    TEXT.map(lambda text: (text, [text])) | ranges(),
    lambda inner: (
        st.lists(inner, max_size=3).map(joined) | st.lists(inner, min_size=2, max_size=3).map(chosen)
    ),
    max_leaves=6,
)


@given(TREES)
def test_a_pattern_stands_for_what_its_tree_says(tree):
    pattern, names = tree
    assume(len(names) < 5000)
    assert expand_braces(pattern) == names


PIECES = ["{", "}", ",", "..", "a", "c", "1", "3", "03", "-2", "{a,b}", "{1..3}", "\\"]
PATTERNS = st.text(alphabet="{{{}}},,a1-.", max_size=16) | st.lists(st.sampled_from(PIECES), max_size=9).map(
    "".join
)
PUT_TOGETHER = re.compile(r"\{[^{},]+\.\.[^{},]+\}")
"""A range that was none before inner braces were expanded."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@settings(max_examples=150)
@given(PATTERNS)
@example("{a}{}{,x}{{,}}{a{1,2}}")
@example("{a..e..2}{3..1}{-1..01}{1..3..0}")
def test_bash_expands_to_the_same(pattern):
    try:
        names = expand_braces("x" + pattern)  # bash drops empty words
    except ValueError:
        return
    assume("\\" not in pattern)
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' x{pattern}"], capture_output=True, text=True, check=True
    )
    assert names == said.stdout.split("\0")[:-1]


def pairs_up(pattern: str) -> bool:
    """Whether deleting pairs, again and again, leaves no brace."""
    braces = re.sub(r"[^{}]", "", re.sub(r"\\.", "", pattern))
    while "{}" in braces:
        braces = braces.replace("{}", "")
    return not braces


@settings(max_examples=300)
@given(PATTERNS.filter(lambda pattern: r"\\" not in pattern))
@example(r"a\{1,2\}{b\,c,d}\\{1..2}")
@example("{Z..a}{B..A}")
@example("{{}}}{")
def test_the_package_that_this_replaces_expands_to_the_same(pattern):
    r"""But for an escaped backslash in a group without a choice: {\\} means {\} in bash, and there {}."""
    theirs = pytest.importorskip("braceexpand")
    if pairs_up(pattern):
        assert expand_braces(pattern) == list(theirs.braceexpand(pattern))
    else:
        with pytest.raises(ValueError, match="pair up"):
            expand_braces(pattern)


@pytest.mark.parametrize(
    "pattern", ["{", "}", "a}b{", "{a,b", "a,b}", "{a,{b}", "{a}}", "}{", "{1..3", r"{a,b\}", "{a,b}{"]
)
def test_braces_that_do_not_pair_up_are_refused(pattern):
    with pytest.raises(DataError, match="its braces do not pair up"):
        expand(f"data/{pattern}.tar")


@pytest.mark.parametrize("pattern", ["{1..9999999999}", "{1..2000}{1..2000}", "{{1..999999},{1..999999}}"])
def test_a_pattern_of_too_many_names_is_refused_before_they_fill_the_memory(pattern):
    with pytest.raises(DataError, match="more than 1,000,000 names"):
        expand(f"data/{pattern}.tar")


def test_as_many_names_as_allowed_are_listed():
    assert len(expand_braces(f"{{1..{LIMIT}}}")) == LIMIT


@pytest.mark.parametrize("depth", [60, 5000])
def test_braces_within_braces_without_end_are_refused(depth):
    with pytest.raises(DataError, match="its braces are more than 50 deep"):
        expand("{" * depth + "}" * depth + ".tar")


def test_digits_of_other_scripts_and_endless_ones_are_no_range():
    for inside in ("\u0660..\u0663", "1.." + "9" * 5000):
        assert expand_braces(f"{{{inside}}}") == [f"{{{inside}}}"]


def test_a_backslash_takes_the_next_letter_as_it_is_once():
    assert expand_braces(r"{\\}") == ["{\\}"]
    assert expand_braces(r"{\{,\,}\\") == ["{\\", ",\\"]
