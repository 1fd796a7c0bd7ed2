"""A sweep's trials in an Optuna storage that any number of processes work through: none twice, none lost.

A place is a setting still to be found, numbered from 0: exactly one of its trials ends with a result or an error. All
places are waiting trials from the start, which the storage hands out one by one. A trial whose worker was killed is
marked as failed, and its place gets another one with the same setting, whose training goes on from its checkpoint. All
of this is worked out anew from the storage's trials each time one is taken, so a kill at any moment leaves nothing to
repair by hand.

Who is alive: with the journal file, whoever holds the place's lock, which goes with its process. With a storage on a
server, whoever recorded a heartbeat in the last minutes.
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
GRACE_S = 150  # five heartbeats; a machine that is silent for longer counts as dead
# No run is stopped before so many percent of its way: a low learning rate begins slowly. Of the first four runs of
# docs/results/sweep-embedded.md the best one had the highest loss up to a fifth of its way.
PRUNE_FROM = 50
LOST_LIMIT = 10  # workers a place may lose: what kills every process that takes it must not go on forever
SETTLED = (TrialState.COMPLETE, TrialState.PRUNED)
ALIVE = (TrialState.WAITING, TrialState.RUNNING)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class JournalLock:
    """What Optuna locks its journal with, as a file lock: it goes with its process, where a symbolic link would stay.

    Whoever gets it cuts off a line that a kill left unfinished; the next one would be written onto it.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.held = contextlib.ExitStack()

    def acquire(self) -> bool:
        self.held = contextlib.ExitStack()
        self.held.enter_context(claim(self.journal.with_suffix(".lock"), wait=True))
        cut_torn_line(self.journal)
        return True

    def release(self) -> None:
        self.held.close()


def cut_torn_line(path: Path) -> None:
    """Shorten a file to its last whole line."""
    with open(path, "rb+") as handle:
        end = handle.seek(0, os.SEEK_END)
        if not end:
            return
        handle.seek(end - 1)
        if handle.read(1) != b"\n":
            handle.seek(0)
            handle.truncate(handle.read().rfind(b"\n") + 1)


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Return the journal below `folder`, or the storage of a URL."""
    if url is None:
        journal = folder / "journal.log"
        return optuna.storages.JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
        except Exception as error:  # SQLAlchemy's and every driver's own kinds
            said = str(error).splitlines()[0]
            raise UserError(f"--storage {url.split('@')[-1]}: cannot be opened ({said})") from error


class Trials:
    """The places of one sweep, and who takes which."""

    def __init__(
        self, folder: Path, name: str, axes: Sequence[Axis], settings: Sequence[dict], *, url: str | None = None,
        lower_is_better: bool = True, tpe: bool = False, prune: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        """`settings` holds a setting per place, {} where TPE is to choose it."""
        self.folder, self.axes, self.settings, self.tpe, self.seed = folder, list(axes), list(settings), tpe, seed
        self.shared_by_file = url is None
        # A median of fewer than four finished runs says little.
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
        """Return each place's trial that ended with a result or an error, None while there is none."""
        return [result_of(trials) for trials in self.by_place()]

    def is_finished(self) -> bool:
        """Say whether every place has a result or an error."""
        return None not in self.results()

    def retry_failed(self) -> int:
        """Open the places again whose trial ended with an error; returns how many."""
        with self._section():
            places = [place for place, trial in enumerate(self.results()) if trial and trial.state == TrialState.FAIL]
            for place in places:
                self._enqueue(place, self.by_place()[place][-1].params or self.settings[place], retry=True)
        return len(places)

    @contextlib.contextmanager
    def take(self) -> Iterator[tuple[Trial, int, int] | None]:
        """Take a waiting trial for the length of the block: (trial, its place, the claim's file); None when none waits.

        Before that, what killed workers left behind is cleaned up.
        """
        with contextlib.ExitStack() as kept:
            taken = None
            with self._section():
                self._mend()
                trial = self._pop()
                if trial is not None and self.shared_by_file:
                    taken = self._claim(kept, trial)
            if trial is not None and taken is None:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # counted as dead meanwhile
                    taken = self._claim(kept, trial)
            yield taken

    def _claim(self, kept: contextlib.ExitStack, trial: Trial) -> tuple[Trial, int, int]:
        self.beat(trial)
        trial.set_user_attr("begun", True)
        place = trial.user_attrs["place"]
        # Waits for a training whose worker was killed, and which is writing its checkpoint.
        handle = kept.enter_context(claim(self.place_folder(place) / CLAIM, wait=True))
        assert handle is not None  # it waited
        return trial, place, handle

    def beat(self, trial: Trial) -> bool:
        """Record that this process is at the trial; returns whether it still is this process's."""
        if self.shared_by_file:
            return True
        self.study._storage.record_heartbeat(trial._trial_id)
        return self.study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING

    def finish(self, trial: Trial, *, value: float | None = None, error: str | None = None, **facts: Any) -> bool:
        """Record a trial's result, its error, or (neither) that it was stopped early.

        Returns False when this process counted as dead, and another one is at the place.
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

    def _section(self) -> contextlib.AbstractContextManager:
        """One process at a time cleans up and takes; a server's storage has no such lock, and twins are refused."""
        return claim(self.folder / ".queue", wait=True) if self.shared_by_file else contextlib.nullcontext()

    def _mend(self) -> None:
        """Fail the trials of killed workers, and give every place without a living trial or a result a new one."""
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
                whole = [trial.params for trial in lost if len(trial.params) == len(self.axes)]
                self._enqueue(place, whole[-1] if whole else self.settings[place])

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """Say whether the process of a running trial is gone."""
        if "place" not in trial.user_attrs:
            return False
        if self.shared_by_file:
            return is_free(self.place_folder(trial.user_attrs["place"]) / CLAIM)
        # Optuna looks at heartbeats; a worker may have been killed before its first.
        age = datetime.datetime.now() - trial.datetime_start
        return "begun" not in trial.user_attrs and age.total_seconds() > GRACE_S

    def _enqueue(self, place: int, settings: dict, **attrs: Any) -> None:
        self.study.enqueue_trial(settings, user_attrs={"place": place} | attrs)

    def _pop(self) -> Trial | None:
        """Return a waiting trial, now running, with its setting chosen; None when none waits."""
        distributions = {axis.name: axis.distribution() for axis in self.axes}
        while self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if self.tpe:  # another seed each time: with one, every process would draw the same
                seed = (self.seed * 100_003 + len(self.study.get_trials(deepcopy=False)) * 101 + os.getpid()) % 2**32
                self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=5, constant_liar=True, seed=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # heartbeats outside of optimize(): recorded by `beat`
                trial = self.study.ask(distributions)
            place = trial.user_attrs.get("place")
            if place is None or place >= len(self.settings) or self._has_elder(trial, place):
                # Another machine was faster, or cleaned up the same place.
                trial.set_user_attr("twin", True)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            if self.tpe and trial.params in (others := self._settings_elsewhere(place)):
                # The same setting with the same seed has the same result: try one at random that is new.
                fresh = next(draw_distinct(self.axes, self.seed + trial.number, others), None)
                if fresh is not None:
                    trial.set_user_attr("twin", True)
                    self.study.tell(trial, state=TrialState.FAIL)
                    self._enqueue(place, fresh)
                    continue
            return trial
        return None

    def _has_elder(self, trial: Trial, place: int) -> bool:
        return any(other.number < trial.number and other.state in (*ALIVE, *SETTLED)
                   for other in self.by_place()[place])  # fmt: skip

    def _settings_elsewhere(self, place: int) -> list[dict]:
        return [trials[-1].params for other, trials in enumerate(self.by_place())
                if other != place and trials and len(trials[-1].params) == len(self.axes)]  # fmt: skip


def result_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the trial a place ended with, None while it has none: a result, or the last one's error."""
    settled = [trial for trial in trials if trial.state in SETTLED]
    if settled:
        return settled[0]
    own = [trial for trial in trials if "twin" not in trial.user_attrs]
    return own[-1] if own and own[-1].state == TrialState.FAIL and "error" in own[-1].user_attrs else None
