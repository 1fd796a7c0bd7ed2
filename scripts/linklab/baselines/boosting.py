"""Gradient-boosted trees from scikit-learn: on the columns of any CSV, and on the candidates of a row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from linklab.baselines.features import FlatFeatures, candidate_table
from linklab.baselines.problem import (
    Answers,
    Problem,
    choices_target,
    rank_classes,
    rank_rows,
    rank_without_probability,
    training_numbers,
    utility_target,
    write_numbers,
)
from linklab.tasks.task import Target

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

FLAT_ROUNDS = 40  # each with one tree per class
POINTWISE_ROUNDS = 300
CANDIDATE_ROUNDS = 150
# scikit-learn's own default is 0, and with many classes it diverges: a leaf's step is sum(gradient) / sum(hessian), and
# the hessian p(1 - p) of a class the model is sure about is nearly 0, so one surprising row of a rare class makes a
# step of thousands (15 in the first tree, 4e2 in the second, 9e4 in the 18th), probabilities become 0 and 1, and
# accuracy fell from .76 at 1,000 rows to .37 at 3,000. With 1 in the denominator a step never exceeds sum(gradient).
LEAF_PENALTY = 1.0


def flat_class(problem: Problem, target: Target) -> Answers:
    """Rank the legal choices by a multi-class model of the row's columns, renormalised over the legal ones."""
    features, train = _flat_tables(problem)
    return rank_classes(problem, target, *fit_classes(
        problem, target, train, features.table(problem.test), features.categorical))  # fmt: skip


def fit_classes(
    problem: Problem, target: Target, train: np.ndarray, test: np.ndarray, categorical: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Return the probabilities (rows to answer, classes) of trees grown on a table of features, and the classes."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    labels = [example.target[target.name] for example in problem.train]
    if len(set(labels)) == 1:
        return np.ones((len(problem.test), 1)), labels[:1]
    model = HistGradientBoostingClassifier(
        max_iter=FLAT_ROUNDS, l2_regularization=LEAF_PENALTY, early_stopping=False,
        categorical_features=categorical, random_state=problem.seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")  # few rows; these are classes
        model.fit(train, labels)
    return model.predict_proba(test), list(model.classes_)


def flat_number(problem: Problem, target: Target) -> Answers:
    """Answer with a regression on the row's columns; it minimises the absolute error."""
    features, train = _flat_tables(problem)
    return fit_number(problem, target, train, features.table(problem.test), features.categorical)


def fit_number(
    problem: Problem, target: Target, train: np.ndarray, test: np.ndarray, categorical: np.ndarray
) -> Answers:
    """Answer with trees that minimise the absolute error on a table of features."""
    model = _regressor(problem, FLAT_ROUNDS * 3, "absolute_error", categorical)
    model.fit(train, training_numbers(problem, target))
    return write_numbers(problem, target, model.predict(test).tolist())


def pointwise_class(problem: Problem, target: Target) -> Answers:
    """Rank the candidates by their utility, which a regression predicts from each candidate's own numbers."""
    _, scores = _candidate_utilities(problem, target)
    return rank_rows(problem, target, scores, rank_without_probability)


def pointwise_number(problem: Problem, target: Target) -> Answers:
    """Answer with a regression on the numbers of the candidate that `pointwise_class` picks."""
    return _number_of_best_candidate(problem, target, utility_target(problem.task), _candidate_utilities)


def _number_of_best_candidate(
    problem: Problem, target: Target, picker: Target | None,
    score: Callable[[Problem, Target], tuple[FlatFeatures, list[np.ndarray]]],
) -> Answers:  # fmt: skip
    """Regress on one candidate's numbers: in training the right candidate's, in answering the best-scored one's."""
    assert picker is not None  # registry.answerable has checked it
    flat, scores = score(problem, picker)
    chosen = []
    truths = [example.choices[picker.name].index(example.target[picker.name]) for example in problem.train]
    for examples, places in ((problem.train, truths), (problem.test, [int(np.argmax(row)) for row in scores])):
        table, owners = candidate_table(examples, picker, flat)
        first = np.searchsorted(owners, np.arange(len(examples)))
        chosen.append(table[first + np.array(places)])
    model = _regressor(problem, POINTWISE_ROUNDS, "absolute_error", None)
    model.fit(chosen[0], training_numbers(problem, target))
    return write_numbers(problem, target, model.predict(chosen[1]).tolist())


def candidate_class(problem: Problem, target: Target) -> Answers:
    """Rank the candidates by their probability of being the answer: a yes-or-no model of a candidate's own numbers."""
    _, chances = _candidate_probabilities(problem, target)
    return rank_rows(problem, target, [row.tolist() for row in chances])


def candidate_number(problem: Problem, target: Target) -> Answers:
    """Answer with a regression on the numbers of the candidate that `candidate_class` picks."""
    return _number_of_best_candidate(problem, target, choices_target(problem.task), _candidate_probabilities)


def _candidate_probabilities(problem: Problem, target: Target) -> tuple[FlatFeatures, list[np.ndarray]]:
    """Return the row features and each candidate's probability of being the answer, for each row to answer."""

    def learn(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        from sklearn.ensemble import HistGradientBoostingClassifier

        yes = [choice == e.target[target.name] for e in problem.train for choice in e.choices[target.name]]
        model = HistGradientBoostingClassifier(
            max_iter=CANDIDATE_ROUNDS, l2_regularization=LEAF_PENALTY, early_stopping=False, random_state=problem.seed
        ).fit(table, yes)
        return lambda table: model.predict_proba(table)[:, 1]

    return problem.make_once(f"candidates {target.name}", lambda: _fit_and_score_candidates(problem, target, learn))


def _candidate_utilities(problem: Problem, target: Target) -> tuple[FlatFeatures, list[np.ndarray]]:
    """Return the row features and the predicted utility of each candidate of each row to answer."""

    def learn(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        utility = np.concatenate([example.values[target.name] for example in problem.train])
        return _regressor(problem, POINTWISE_ROUNDS, "squared_error", None).fit(table, utility).predict

    return problem.make_once("pointwise", lambda: _fit_and_score_candidates(problem, target, learn))


def _fit_and_score_candidates(
    problem: Problem, target: Target, learn: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]
) -> tuple[FlatFeatures, list[np.ndarray]]:
    """Learn from the training candidates; return the row features, and the model's scores of each row's candidates."""
    flat = FlatFeatures(problem.train, problem.columns)
    predict = learn(candidate_table(problem.train, target, flat)[0])
    table, owners = candidate_table(problem.test, target, flat)
    return flat, np.split(predict(table), np.searchsorted(owners, np.arange(1, len(problem.test))))


def _flat_tables(problem: Problem) -> tuple[FlatFeatures, np.ndarray]:
    def make() -> tuple[FlatFeatures, np.ndarray]:
        features = FlatFeatures(problem.train, problem.columns)
        return features, features.table(problem.train)

    return problem.make_once("flat", make)


def _regressor(
    problem: Problem, rounds: int, loss: str, categorical: np.ndarray | None
) -> HistGradientBoostingRegressor:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        loss=loss, max_iter=rounds, l2_regularization=LEAF_PENALTY, early_stopping=False,
        categorical_features=categorical, random_state=problem.seed,
    )  # fmt: skip
