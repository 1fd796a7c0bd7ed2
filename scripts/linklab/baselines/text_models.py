"""Models of free text: TF-IDF with a linear model, alone and beside the other columns, and the nearest training row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from linklab.baselines import boosting
from linklab.baselines.features import FlatFeatures
from linklab.baselines.problem import Answers, Problem, rank_classes, training_numbers, write_numbers
from linklab.baselines.simple_rules import frequent_text
from linklab.baselines.texts import TextFeatures, make_vectorizer
from linklab.tasks.task import Target

INVERSE_PENALTY = 10.0  # of the logistic regression: on TF-IDF rows (length 1) scikit-learn's 1 is too strong a penalty
RIDGE_PENALTY = 1.0
FOLDS = 5
NEAREST_AT_ONCE = 256  # rows compared with all training rows at a time


def tfidf_class(problem: Problem, target: Target) -> Answers:
    """Rank the legal choices by logistic regression on the words of the text columns."""
    labels = np.array([example.target[target.name] for example in problem.train])
    classes = sorted(set(labels.tolist()))
    return rank_classes(problem, target, _class_scores(*_cells(problem), labels, classes), classes)


def tfidf_number(problem: Problem, target: Target) -> Answers:
    """Answer with ridge regression on the words of the text columns."""
    return write_numbers(problem, target, _number_scores(*_cells(problem), training_numbers(problem, target)).tolist())


def mixed_class(problem: Problem, target: Target) -> Answers:
    """Rank the legal choices by trees on the other columns and on the text model's probability of each class."""
    labels = np.array([example.target[target.name] for example in problem.train])
    classes = sorted(set(labels.tolist()))

    def score(train: list[list[str]], cells: list[list[str]], places: np.ndarray) -> np.ndarray:
        return _class_scores(train, cells, labels[places], classes)

    features, train, test = _tables_beside_text(problem, score)
    return rank_classes(problem, target, *boosting.fit_classes(problem, target, train, test, features))


def mixed_number(problem: Problem, target: Target) -> Answers:
    """Answer with trees on the other columns and on the text model's number."""
    numbers = training_numbers(problem, target)

    def score(train: list[list[str]], cells: list[list[str]], places: np.ndarray) -> np.ndarray:
        return _number_scores(train, cells, numbers[places])[:, None]

    features, train, test = _tables_beside_text(problem, score)
    return boosting.fit_number(problem, target, train, test, features)


def _tables_beside_text(
    problem: Problem, score: Callable[[list[list[str]], list[list[str]], np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which features are categories, and the tables of the training rows and of the rows to answer.

    A training row's text scores come from a model that was fitted without it (FOLDS parts): scores of rows that the
    model has memorised would teach the trees to trust it too much.
    """
    from sklearn.model_selection import KFold

    others = [column for column in problem.columns if column not in problem.text_columns]
    flat = FlatFeatures(problem.train, others)
    train_cells, test_cells = _cells(problem)
    everything = np.arange(len(problem.train))
    of_test = score(train_cells, test_cells, everything)
    of_train = np.zeros((len(problem.train), of_test.shape[1]))
    for learnt, held_out in KFold(FOLDS, shuffle=True, random_state=problem.seed).split(everything):
        known, asked = ([[cells[i] for i in places] for cells in train_cells] for places in (learnt, held_out))
        of_train[held_out] = score(known, asked, learnt)
    categorical = np.concatenate([flat.categorical, np.zeros(of_test.shape[1], bool)])
    return (
        categorical,
        np.hstack([flat.table(problem.train), of_train]),
        np.hstack([flat.table(problem.test), of_test]),
    )


def _cells(problem: Problem) -> tuple[list[list[str]], list[list[str]]]:
    """Return the cells of each text column, of the training rows and of the rows to answer."""
    train, test = ([[example.row[column.name] for example in examples] for column in problem.text_columns]
                   for examples in (problem.train, problem.test))  # fmt: skip
    return train, test


def _class_scores(
    train: list[list[str]], cells: list[list[str]], labels: np.ndarray, classes: Sequence[str]
) -> np.ndarray:
    """Return the probabilities (rows, classes) of logistic regression; 0 for a class that `labels` lack."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found = np.zeros((len(cells[0]), len(classes)))
    known = sorted(set(labels.tolist()))
    places = [classes.index(name) for name in known]
    if len(known) == 1:
        found[:, places[0]] = 1.0
        return found
    features = TextFeatures(train)
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more digits would not change a ranking
        model.fit(features.transform(train), labels)
    found[:, places] = model.predict_proba(features.transform(cells))
    return found


def _number_scores(train: list[list[str]], cells: list[list[str]], numbers: np.ndarray) -> np.ndarray:
    """Return the predictions of ridge regression for each row."""
    from sklearn.linear_model import Ridge

    features = TextFeatures(train)
    return Ridge(alpha=RIDGE_PENALTY).fit(features.transform(train), numbers).predict(features.transform(cells))


def nearest_text(problem: Problem, target: Target) -> Answers:
    """Give the answer of the training row with the most similar words in its prompt (TF-IDF, cosine).

    A row without a known word gets the most frequent answer.
    """
    vectorizer = make_vectorizer()
    known = vectorizer.fit_transform([example.prompt for example in problem.train])
    answers = frequent_text(problem, target)
    for start in range(0, len(problem.test), NEAREST_AT_ONCE):
        rows = vectorizer.transform([example.prompt for example in problem.test[start : start + NEAREST_AT_ONCE]])
        similar = (rows @ known.T).toarray()  # TF-IDF rows have length 1: the product is the cosine
        for i, (nearest, best) in enumerate(zip(similar.argmax(axis=1), similar.max(axis=1), strict=True)):
            if best > 0:
                answers[start + i] = (problem.train[nearest].target[target.name], [])
    return answers
