"""The page of formats: every row names a test, every test that it names is there."""

import pathlib
import re

from data_pipelines.recordings.opening import SUFFIXES
from data_pipelines.scoring.words.vocabulary import CODE_BOOKS
from data_pipelines.scoring.writing import FORMS

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs/formats.md").read_text()
ROWS = [
    line
    for line in TEXT.splitlines()
    if line.startswith("| ") and not re.match(r"\| (format|suffix) \|", line)
]


def test_every_row_names_a_test_that_is_there():
    assert len(ROWS) > 30
    for row in ROWS:
        cell = row.strip(" |").rpartition(" | ")[2]
        assert re.match(r"\[test_\w+\]\(", cell), row
    named = re.findall(r"\[(test_\w+)\]\(\.\./([\w/]+\.py)\)", TEXT)
    for test, file in named:
        assert f"\ndef {test}(" in (ROOT / file).read_text(), (test, file)


def test_suffixes_and_code_books_are_those_of_the_program():
    assert set(re.findall(r"--code_book=([a-z]\w*)", TEXT)) <= set(CODE_BOOKS)
    recordings = TEXT.partition("## Recordings")[2].partition("## Scoring")[0]
    assert all(f"`{suffix}`" in recordings for suffix in SUFFIXES)
    written = TEXT.partition("## What is written")[2]
    assert re.findall(r"^\| `(\.\w+)` \|", written, re.M) == list(FORMS)
