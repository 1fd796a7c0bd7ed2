"""Free text: which columns hold it, and TF-IDF features of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

MIN_DIFFERENT = 20  # fewer different texts are categories, even if they are long
MIN_WORDS = 2.0  # on average; names and codes of one word are categories
MAX_TERMS = 50_000  # the most frequent words and pairs of words


def is_free_text(cells: Sequence[str]) -> bool:
    """Say whether the cells of a text column are sentences rather than categories or dates."""
    from linklab.baselines.dates import find_date_format

    filled = [cell for cell in cells if cell.strip()]
    different = set(filled)
    if len(different) <= MIN_DIFFERENT or len(different) < 0.1 * len(filled):
        return False
    if sum(len(cell.split()) for cell in different) < MIN_WORDS * len(different):
        return False
    return find_date_format(filled) is None


def make_vectorizer() -> TfidfVectorizer:
    """Return TF-IDF over words and pairs of words; a word may be a single digit or character."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", max_features=MAX_TERMS)


class TextFeatures:
    """TF-IDF of some text columns, each with its own words, side by side; learnt from the training rows."""

    def __init__(self, columns: Sequence[Sequence[str]]) -> None:
        """`columns` holds, for each text column, the training rows' cells."""
        # with an added word: scikit-learn rejects columns with only punctuation
        self.vectorizers = [make_vectorizer().fit([*cells, "word"]) for cells in columns]

    def transform(self, columns: Sequence[Sequence[str]]) -> csr_matrix:
        """Return (rows, terms) of the same columns of any rows."""
        from scipy.sparse import hstack

        parts = [v.transform(cells) for v, cells in zip(self.vectorizers, columns, strict=True)]
        return hstack(parts, format="csr")
