"""De-duplication of many files in rounds; the oracle is the plain way over all texts at once."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_rounds import duplicates_told, run_rounds

from puna.data.dedup import exact_join, line_rounds
from puna.data.dedup.exact import drop_duplicates
from puna.data.document import Document, Dropped
from puna.errors import ConfigError


@settings(max_examples=30)
@given(
    texts=st.lists(st.lists(st.sampled_from("abcdefg"), max_size=6), min_size=1, max_size=5),
    parts=st.sampled_from([1, 3]),
)
def test_of_equal_texts_in_any_files_the_first_is_kept(tmp_path_factory, texts, parts):
    folder = tmp_path_factory.mktemp("exact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_join, "_PART_BYTES", 1 << 30 if parts == 1 else 40)
        left = run_rounds(exact_join, texts, folder, exact_join.Settings())
    stream = [
        Document(text, "s", "l", f"{number}.{at}")
        for number, of_file in enumerate(texts)
        for at, text in enumerate(of_file)
    ]
    expected = [one for one in drop_duplicates(stream) if isinstance(one, Document)]
    assert [one for of_file in left for one in of_file] == expected
    told = {one.id: one.detail for one in drop_duplicates(stream) if isinstance(one, Dropped)}
    assert duplicates_told(folder).items() <= told.items()


@pytest.mark.parametrize("keeps_first", [False, True])
@pytest.mark.parametrize("group_files", [1, 2, 9])
def test_lines_that_repeat_in_a_group_of_files_go(tmp_path: Path, keeps_first, group_files):
    texts = [["a\nb\nq", "c\nmenu"], ["d\nmenu\ne"], ["menu\nf", "b\nb"], [""], ["MENU!\ng"]]
    rules = line_rounds.Settings(keeps_first=keeps_first, group_files=group_files)
    left = run_rounds(line_rounds, texts, tmp_path, rules)
    expected: list[list[str]] = []
    for begin in range(0, len(texts), group_files):
        group = texts[begin : begin + group_files]
        counts = Counter(line for file in group for text in file for line in text.split("\n"))
        seen: set[str] = set()
        for file in group:
            kept_texts = [_kept(text, counts, seen, keeps_first) for text in file]
            expected.append([text for text in kept_texts if text])
    assert [[one.text for one in of_file if one.text] for of_file in left] == expected


def _kept(text: str, counts: Counter[str], seen: set[str], keeps_first: bool) -> str:
    lines = []
    for line in text.split("\n"):
        if counts[line] == 1 or (keeps_first and line not in seen):
            lines.append(line)
        seen.add(line)
    return "\n".join(lines)


def test_a_group_has_a_file_at_least():
    with pytest.raises(ConfigError, match="group_files must be at least 1"):
        line_rounds.Settings(group_files=0)
