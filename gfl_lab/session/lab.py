"""gfl-lab from Python: `gfl_lab.open()` gives a `Lab` for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gfl_lab import shipped
from gfl_lab.addresses import absolute
from gfl_lab.plan.plan import Plan
from gfl_lab.report.ranking import Ranking, rank
from gfl_lab.report.table import Table, build_table
from gfl_lab.results.search import read_search
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.executor_names import ExecutorName
from gfl_lab.session.inputs import Files, read_files
from gfl_lab.session.looks import Resolve, run_experiment
from gfl_lab.session.lookup import by_name
from gfl_lab.session.outcome import Outcome
from gfl_lab.session.planning import PlanOptions, prepare
from gfl_lab.session.reporting import LineReporter
from gfl_lab.session.run_tree import default_tree
from gfl_lab.session.session import RunOptions
from gfl_lab.session.weights import absolute_weights


class Lab:
    """A run tree, and everything that can be done with it from Python.

    An experiment is given by its path, or by its name if gfl-lab or the run tree has it (``table3_qfl_dfl``). All methods raise subclasses of
    ``gfl_lab.errors.GflLabError``, which list every problem of the input.

    Example:
        >>> lab = gfl_lab.open()
        >>> lab.run("table3_qfl_dfl", profile="smoke", executor="inline")
        >>> print(lab.table("table3_qfl_dfl", profile="smoke"))

    Args:
        root: folder of the run tree; None is ``$GFL_LAB_HOME``, or ``runs`` in the current folder. It need not exist.
        verbose: print what happens on stderr; without it only warnings and failures.
    """

    def __init__(self, root: str | Path | None = None, *, verbose: bool = True) -> None:
        self._tree = default_tree() if root is None else RunTree(absolute(Path(root), "the run tree"))
        self._verbose = verbose
        self._reporter = LineReporter(verbose=verbose)

    @property
    def root(self) -> Path:
        """Return the folder of the run tree."""
        return self._tree.root

    @property
    def store(self) -> Store:
        """Return the reader of trials, curves, detections and box distributions."""
        return Store(self._tree)

    def experiments(self) -> list[tuple[str, str]]:
        """Return (experiment, profile) of everything that has been run here, sorted."""
        return self._tree.experiments()

    def plan(
        self, experiment: str | Path, *, profile: str | None = None, data: str | Path | None = None, seeds: Sequence[int] | None = None,
        init_weights: str | Mapping[str, str] | None = None,
    ) -> Plan:  # fmt: skip
        """Return the variants and trials of an experiment; nothing is trained.

        A generated data set is made when it is not there yet: a trial's id depends on its data.

        Args:
            profile: name or path, instead of the experiment's own.
            data: folder of a data set in COCO format.
            seeds: instead of the experiment's own.
            init_weights: file or ``pretrained`` for every backbone, or {backbone: file}.
        """
        files = _files(experiment, profile)
        return prepare(files, self._tree, _plan_options(data, seeds, init_weights), self._reporter.say).plan

    def run(  # noqa: PLR0913 - a caller names each of them
        self, experiment: str | Path, *, profile: str | None = None, data: str | Path | None = None, seeds: Sequence[int] | None = None,
        init_weights: str | Mapping[str, str] | None = None, executor: ExecutorName = "ray", address: str | None = None,
        cpus: int | None = None, gpus: float | None = None, budget: str | None = None, progress: bool = True,
        until_resolved: float | None = None, max_seeds: int | None = None,
    ) -> Outcome:  # fmt: skip
        """Train what is missing of an experiment, as `gfl-lab run` does.

        Finished trials are reused. The same call resumes after an interruption, retries failed trials, and adds seeds. It must be
        made in the main thread.

        Args:
            profile: name or path, instead of the experiment's own.
            data: folder of a data set in COCO format.
            seeds: instead of the experiment's own.
            init_weights: file or ``pretrained`` for every backbone, or {backbone: file}.
            executor: "ray", or "inline" for one trial after the other in this process, where a debugger works.
            address: of a Ray cluster, instead of this machine.
            cpus: of each trial, instead of the profile's.
            gpus: of each trial, or part of one. With 0 and the inline executor, this process sees no GPU any more.
            budget: such as ``12h``, ``8cpuh`` or ``40gpuh``; the run stops when it is spent.
            progress: print a line on stderr when a trial starts, finishes an epoch or ends, as `gfl-lab run` does. A `Lab` that is not
                verbose prints none.
            until_resolved: add seeds only to rows without a verdict: better, worse, or equivalent within so many AP.
            max_seeds: of a variant, with ``until_resolved``; None for 8.

        Returns:
            The outcome, with the table of an ablation or the ranking of a search.
        """
        options = RunOptions(executor=executor, address=address, cpus=cpus, gpus=gpus, budget=budget)
        files, plan = _files(experiment, profile), _plan_options(data, seeds, init_weights)
        reporter = LineReporter(verbose=self._verbose, progress=progress)
        return run_experiment(files, self._tree, reporter, plan, options, Resolve(until_resolved, max_seeds))

    def table(self, experiment: str | Path, *, profile: str | None = None) -> Table:
        """Return the table of an experiment that has been run or imported here.

        Raises:
            StoreError: it has not.
        """
        store, (name, chosen) = self.store, self._stored(experiment, profile)
        return build_table(store.experiment(name, chosen), store.resampled_or_none)

    def ranking(self, experiment: str | Path, *, profile: str | None = None) -> Ranking:
        """Return the ranked table of a search that has been run here.

        Raises:
            StoreError: it has not.
        """
        return rank(read_search(self._tree, *self._stored(experiment, profile)))

    def _stored(self, experiment: str | Path, profile: str | None) -> tuple[str, str]:
        """Return name and profile of an experiment, by its file, or by its name in the run tree."""
        if (found := by_name(self._tree, Path(experiment), profile)) is not None:
            return found.name, found.profile
        files = _files(experiment, profile)
        return files.experiment.name, files.profile.name


def _files(experiment: str | Path, profile: str | None) -> Files:
    return read_files(shipped.find_experiment(Path(experiment)), profile)


def _plan_options(
    data: str | Path | None, seeds: Sequence[int] | None, init_weights: str | Mapping[str, str] | None
) -> PlanOptions:  # fmt: skip
    given = {"": init_weights} if isinstance(init_weights, str) else dict(init_weights or {})
    weights = {backbone: absolute_weights(file, Path.cwd()) for backbone, file in given.items()}
    return PlanOptions(None if data is None else Path(data), seeds, weights)
