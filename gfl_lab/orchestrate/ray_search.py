"""A search through Ray Tune: its scheduler's rungs decide who is stopped early, its actors run the trials.

Tune keeps no state of ours here either: the book (orchestrate/search.py) is asked for each suggestion and told of each
result, and it alone is written down. Imports Ray only when it is used.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gfl_lab import naming
from gfl_lab.orchestrate.ray_tune import MAX_LOST_ACTORS, in_contact, moves, prepare_environment, scratch_dir
from gfl_lab.orchestrate.search import Begin, Book, Follower
from gfl_lab.orchestrate.supervisor import Job, TrialProcess
from gfl_lab.spec.schedule import total_epochs

LOOK_S = 0.2
STOP_WAIT_S = 120.0
"""How long a trial that was asked to stop may take to its next step and its checkpoint before it is killed."""


class Asha:
    """Ray Tune's ASHA, asked directly: the same decisions with and without a cluster, and after a restart.

    Args:
        max_epochs: of a whole trial. grace_epochs: before which none is stopped. reduction: one in this many goes on.
    """

    def __init__(self, *, higher_is_better: bool, max_epochs: int, grace_epochs: int, reduction: int) -> None:
        prepare_environment()
        from ray.tune.schedulers import ASHAScheduler, TrialScheduler

        self._stop = TrialScheduler.STOP
        self._asha = ASHAScheduler(
            time_attr="epoch", metric="value", mode="max" if higher_is_better else "min", max_t=max_epochs, grace_period=grace_epochs,
            reduction_factor=reduction,
        )  # fmt: skip
        self._known: dict[int, Any] = {}

    def stops(self, number: int, epoch: int, value: float) -> bool:
        """Record the value of suggestion ``number`` at its rung; whether it falls behind there."""
        if number not in self._known:
            self._known[number] = SimpleNamespace(trial_id=str(number))  # all that ASHA asks of a trial
            self._asha.on_trial_add(None, self._known[number])
        return self._asha.on_trial_result(None, self._known[number], {"epoch": epoch, "value": value}) == self._stop


class _Disposable:
    """Tune pickles what it is given into a folder that nobody reads; the book cannot be pickled and need not be."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()


def run_ray(
    book: Book, begin: Begin, *, cpus: int, gpus: float, at_once: int | None, should_stop: Callable[[], bool], nursery: str | None = None
) -> list[str]:
    """Run a search on the Ray that is connected; returns when nothing more is to be handed out, or a stop was asked for.

    Args:
        cpus, gpus: what one trial takes.
        at_once: trials at once; None, on a cluster, as many as it has room for.
        nursery: the executor's.

    Returns:
        What went wrong outside the trials (an actor that could not start), one sentence each.

    Raises:
        OSError, GflLabError: what the book raised, such as a full disk. ResourceError: the cluster does not answer any more.
    """
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

    numbers: dict[str, int] = {}
    raised: list[Exception] = []

    def guarded(call: Callable[[], Any], otherwise: Any) -> Any:
        """An exception in a callback would end the run as Tune's own, without a word of what it was."""
        try:
            return otherwise if raised else call()
        except Exception as error:
            raised.append(error)
            return otherwise

    class BookSearcher(_Disposable, Searcher):
        """Tune's searcher: hands over what the book suggests."""

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            entry = guarded(book.next, None)
            if entry is None:
                return Searcher.FINISHED
            numbers[trial_id] = entry.number
            variant = book.variants[entry.number]
            job = guarded(lambda: begin(variant, entry.number, book.stop_file(entry)), None)
            if job is None:
                return Searcher.FINISHED
            epochs = total_epochs(variant.settings)
            return {"job": asdict(job), "number": entry.number, "metric": book.metric, "epochs": epochs}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            guarded(lambda: book.ended(numbers[trial_id]), None)
            if error:  # its actor, more often than Tune itself tries again
                book.lost(numbers[trial_id])

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the book is on disk."""

        def restore(self, checkpoint_path: str) -> None:
            """Never called: each run has a new Tuner."""

    class BookScheduler(_Disposable, FIFOScheduler):
        """Tune's scheduler: asks the book whether a trial goes on."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if "value" not in result:
                return self.CONTINUE
            stops = guarded(lambda: book.report(result["number"], result["epoch"], result["value"]), False)
            return self.STOP if stops else self.CONTINUE

    class Stop(_Disposable, tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            if not (should_stop() or raised):
                return False
            book.ask_to_stop()
            return True

    problems: list[str] = []
    while not (should_stop() or raised or book.over):  # once, unless an actor was lost when nothing more was to be asked for
        storage = tempfile.mkdtemp(prefix="tune-", dir=scratch_dir())
        tuner = tune.Tuner(
            tune.with_resources(_trainable(nursery), {"CPU": cpus, "GPU": gpus}),
            tune_config=tune.TuneConfig(
                search_alg=BookSearcher(), scheduler=BookScheduler(), num_samples=-1, max_concurrent_trials=at_once, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=storage, stop=Stop(), verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=MAX_LOST_ACTORS), callbacks=[moves()],
            ),
        )  # fmt: skip
        problems += [str(error).strip().splitlines()[-1] for error in (tuner.fit() if at_once else in_contact(tuner.fit)).errors]
        shutil.rmtree(storage, ignore_errors=True)
        for number in numbers.values():  # Tune tells its searcher nothing of trials that it ends all at once
            guarded(lambda number=number: book.ended(number), None)
    if raised:
        raise raised[0]
    return [] if book.ledger.complete else sorted({*problems})


def _trainable(nursery: str | None) -> type:
    from ray import tune

    class SearchActor(tune.Trainable):
        """Supervises one trial process at a time, and tells Tune its metric after each epoch while it trains.

        A trial begins with the first step, not before: while an actor starts, Tune may give its trial to one that has become free.
        """

        def setup(self, config: dict[str, Any]) -> None:
            self.process: TrialProcess | None = None
            self._take(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._wait()
            self._take(new_config)
            return True

        def _take(self, config: dict[str, Any]) -> None:
            self.job, self.number = Job(**config["job"]), config["number"]
            self.follower = Follower(Path(self.job.path) / naming.METRICS_FILE, config["metric"], config["epochs"])
            self.news: list[tuple[int, float]] = []
            self.error: Exception | None = None
            self.process = self.process or TrialProcess(self.job.preload, nursery)
            self.thread: threading.Thread | None = None

        def _run(self, process: TrialProcess) -> None:
            try:
                process.run(self.job)
            except Exception as error:  # raised again in step: Tune then takes another actor
                self.error = error

        def step(self) -> dict[str, Any]:
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, args=(self.process,), daemon=True)
                self.thread.start()
            while True:
                ended = not self.thread.is_alive()
                self.news += self.follower.look()
                if self.news:
                    epoch, value = self.news.pop(0)
                    return {"number": self.number, "epoch": epoch, "value": value}
                if ended:
                    if self.error:
                        raise self.error
                    return {"number": self.number, "done": True}
                time.sleep(LOOK_S)

        def _wait(self) -> None:
            """Let a trial that was asked to stop write its checkpoint."""
            if self.thread is None:
                return
            self.thread.join(STOP_WAIT_S)
            if self.thread.is_alive() and self.process:
                self.process.close()
                self.process = None
                self.thread.join()

        def cleanup(self) -> None:
            self._wait()
            if self.process:
                self.process.close()

    return SearchActor
