"""A sweep's trials in an Optuna storage, shared by any number of processes: no trial is done twice or lost.

A sweep has numbered places, from 0. Each is for one setting, and exactly one of its trials ends with a result or an
error. At the start every place has a waiting trial; the storage hands them out one by one. If a worker is killed, its
trial is marked as failed, and the place gets a new trial with the same setting, which continues from the checkpoint.
The state is computed from the storage each time a trial is taken, so after a kill nothing needs repair by hand.

A worker is alive if it holds the lock of its place (journal file; the system releases the lock when the process ends),
or if it recorded a heartbeat in the last minutes (storage on a server).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from linklab.cli import UserError
from linklab.locks import claim, is_free
from linklab.studies.runs import CLAIM
from linklab.studies.search_space import Axis, draw_distinct

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

HEARTBEAT_S = 30
GRACE_S = 150  # five heartbeats; a worker without one for longer counts as dead
# No run is stopped before this percentage of its steps: a low learning rate starts slowly. Of the first four runs in
# docs/results/sweep-embedded.md the best one had the highest loss for the first fifth.
PRUNE_FROM = 50
LOST_LIMIT = 10  # killed workers per place, then it fails: its setting may kill every process
SETTLED = (TrialState.COMPLETE, TrialState.PRUNED)
ALIVE = (TrialState.WAITING, TrialState.RUNNING)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class JournalLock:
    """Optuna's journal lock as a file lock: it ends with its process, while Optuna's own, a symbolic link, would stay.

    The new holder cuts off a line that a kill left incomplete; otherwise the next line would be appended to it.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.held = contextlib.ExitStack()

    def acquire(self) -> bool:
        self.held = contextlib.ExitStack()
        self.held.enter_context(claim(self.journal.with_suffix(".lock"), wait=True))
        cut_incomplete_line(self.journal)
        return True

    def release(self) -> None:
        self.held.close()


def cut_incomplete_line(path: Path) -> None:
    """Shorten a file to its last complete line."""
    with open(path, "rb+") as handle:
        end = handle.seek(0, os.SEEK_END)
        if not end:
            return
        handle.seek(end - 1)
        if handle.read(1) != b"\n":
            handle.seek(0)
            handle.truncate(handle.read().rfind(b"\n") + 1)


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Return the journal storage in `folder`, or the storage at `url`."""
    if url is None:
        journal = folder / "journal.log"
        return optuna.storages.JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
        except Exception as error:  # SQLAlchemy and every driver have their own
            said = str(error).splitlines()[0]
            raise UserError(f"--storage {url.split('@')[-1]}: cannot be opened ({said})") from error


class Trials:
    """The places of one sweep and their trials; hands out trials to workers."""

    def __init__(
        self, folder: Path, name: str, axes: Sequence[Axis], settings: Sequence[dict], *, url: str | None = None,
        lower_is_better: bool = True, tpe: bool = False, prune: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        """`settings` holds a setting per place, {} if TPE chooses it."""
        self.folder, self.axes, self.settings, self.tpe, self.seed = folder, list(axes), list(settings), tpe, seed
        self.shared_by_file = url is None
        # The median of fewer than four finished runs says little.
        pruner = optuna.pruners.MedianPruner(4, n_warmup_steps=PRUNE_FROM, n_min_trials=3) if prune else None
        self.study = optuna.create_study(
            storage=open_storage(folder, url), study_name=name, load_if_exists=True,
            direction="minimize" if lower_is_better else "maximize", pruner=pruner or optuna.pruners.NopPruner(),
            sampler=optuna.samplers.RandomSampler(seed),
        )  # fmt: skip

    def place_folder(self, place: int) -> Path:
        """Return the folder of a place's runs."""
        return self.folder / "trials" / f"{place:03d}"

    def by_place(self) -> list[list[FrozenTrial]]:
        """Return every place's trials, oldest first."""
        found: list[list[FrozenTrial]] = [[] for _ in self.settings]
        for trial in self.study.get_trials(deepcopy=False):
            place = trial.user_attrs.get("place", len(found))
            if place < len(found):
                found[place].append(trial)
        return found

    def results(self) -> list[FrozenTrial | None]:
        """Return each place's trial that ended with a result or an error, else None."""
        return [result_of(trials) for trials in self.by_place()]

    def is_finished(self) -> bool:
        """Say whether every place has a result or an error."""
        return None not in self.results()

    def retry_failed(self) -> int:
        """Add a waiting trial to every place whose trial ended with an error; returns how many."""
        with self._queue_lock():
            places = [place for place, trial in enumerate(self.results()) if trial and trial.state == TrialState.FAIL]
            for place in places:
                self._enqueue(place, self.by_place()[place][-1].params or self.settings[place], retry=True)
        return len(places)

    @contextlib.contextmanager
    def take(self) -> Iterator[tuple[Trial, int, int] | None]:
        """Take a waiting trial during the block: yields (trial, its place, the lock's open file), None if none waits.

        First replaces the trials of killed workers.
        """
        with contextlib.ExitStack() as kept:
            taken = None
            with self._queue_lock():
                self._replace_lost()
                trial = self._pop()
                if trial is not None and self.shared_by_file:
                    taken = self._claim(kept, trial)
            if trial is not None and taken is None:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # it counted as dead meanwhile
                    taken = self._claim(kept, trial)
            yield taken

    def _claim(self, kept: contextlib.ExitStack, trial: Trial) -> tuple[Trial, int, int]:
        self.beat(trial)
        trial.set_user_attr("begun", True)
        place = trial.user_attrs["place"]
        # Waits for the training of a killed worker, which may still write its checkpoint.
        handle = kept.enter_context(claim(self.place_folder(place) / CLAIM, wait=True))
        assert handle is not None  # because wait=True
        return trial, place, handle

    def beat(self, trial: Trial) -> bool:
        """Record a heartbeat for the trial; returns whether it still belongs to this process."""
        if self.shared_by_file:
            return True
        self.study._storage.record_heartbeat(trial._trial_id)
        return self.study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING

    def finish(self, trial: Trial, *, value: float | None = None, error: str | None = None, **facts: Any) -> bool:
        """Record a trial's result, its error, or (with neither) that it was stopped early.

        Returns False if this process counted as dead and another one has the place.
        """
        try:
            for name, fact in (facts | ({"error": error} if error else {})).items():
                trial.set_user_attr(name, fact)
            state = TrialState.FAIL if error else TrialState.PRUNED if value is None else TrialState.COMPLETE
            self.study.tell(trial, None if value is None else value, state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if self.study._storage.get_trial(trial._trial_id).state == TrialState.FAIL:
                return False
            raise
        return True

    def _queue_lock(self) -> contextlib.AbstractContextManager:
        """A lock for taking trials. A server's storage has none; there `_pop` rejects trials that were taken twice."""
        return claim(self.folder / ".queue", wait=True) if self.shared_by_file else contextlib.nullcontext()

    def _replace_lost(self) -> None:
        """Fail the trials of killed workers, then give a new trial to every place without an active one or a result."""
        if not self.shared_by_file:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_lost(trial):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        for place, trials in enumerate(self.by_place()):
            if result_of(trials) or any(trial.state in ALIVE for trial in trials):
                continue
            lost = [trial for trial in trials if "twin" not in trial.user_attrs]
            if len(lost) >= LOST_LIMIT:
                error = f"every one of {len(lost)} processes that took it was killed"
                attrs = {"place": place, "error": error}
                self.study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attrs))
            else:
                complete = [trial.params for trial in lost if len(trial.params) == len(self.axes)]
                self._enqueue(place, complete[-1] if complete else self.settings[place])

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """Say whether the process of a running trial is gone."""
        if "place" not in trial.user_attrs:
            return False
        if self.shared_by_file:
            return is_free(self.place_folder(trial.user_attrs["place"]) / CLAIM)
        # Optuna checks heartbeats; here: a worker killed before its first one.
        age = datetime.datetime.now() - trial.datetime_start
        return "begun" not in trial.user_attrs and age.total_seconds() > GRACE_S

    def _enqueue(self, place: int, settings: dict, **attrs: Any) -> None:
        self.study.enqueue_trial(settings, user_attrs={"place": place} | attrs)

    def _pop(self) -> Trial | None:
        """Return a waiting trial, now running, with its setting chosen; None when none waits."""
        distributions = {axis.name: axis.distribution() for axis in self.axes}
        while self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if self.tpe:  # a new seed each time: otherwise every process would draw the same settings
                seed = (self.seed * 100_003 + len(self.study.get_trials(deepcopy=False)) * 101 + os.getpid()) % 2**32
                self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=5, constant_liar=True, seed=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # heartbeats outside of optimize(): recorded by `beat`
                trial = self.study.ask(distributions)
            place = trial.user_attrs.get("place")
            if place is None or place >= len(self.settings) or self._has_earlier(trial, place):
                # Another machine has taken the place, or replaced the same lost trial.
                trial.set_user_attr("twin", True)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            if self.tpe and trial.params in (others := self._settings_elsewhere(place)):
                # The same setting with the same seed gives the same result: draw a new one at random.
                fresh = next(draw_distinct(self.axes, self.seed + trial.number, others), None)
                if fresh is not None:
                    trial.set_user_attr("twin", True)
                    self.study.tell(trial, state=TrialState.FAIL)
                    self._enqueue(place, fresh)
                    continue
            return trial
        return None

    def _has_earlier(self, trial: Trial, place: int) -> bool:
        return any(other.number < trial.number and other.state in (*ALIVE, *SETTLED)
                   for other in self.by_place()[place])  # fmt: skip

    def _settings_elsewhere(self, place: int) -> list[dict]:
        return [trials[-1].params for other, trials in enumerate(self.by_place())
                if other != place and trials and len(trials[-1].params) == len(self.axes)]  # fmt: skip


def result_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the trial that ended a place: one with a result, else the last one if it has an error, else None."""
    settled = [trial for trial in trials if trial.state in SETTLED]
    if settled:
        return settled[0]
    own = [trial for trial in trials if "twin" not in trial.user_attrs]
    return own[-1] if own and own[-1].state == TrialState.FAIL and "error" in own[-1].user_attrs else None
