"""The distributions of a few boxes after every epoch: what is kept, what an interruption leaves, what is read back."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from gfl_lab import naming
from gfl_lab.analysis.history import IMAGES, History
from gfl_lab.errors import StoreError
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree, TrialDir


def row(general: TrialDir, **changes: object) -> dict:
    return pq.read_table(general.file(naming.DISTRIBUTIONS)).to_pylist()[0] | changes


def test_a_trial_follows_the_same_boxes_and_its_last_epoch_is_what_it_wrote_at_the_end(tree: RunTree, general: TrialDir) -> None:
    found = pq.read_table(general.file(naming.HISTORY)).to_pandas()
    last = pq.read_table(general.file(naming.DISTRIBUTIONS)).to_pandas()
    assert sorted(set(found["epoch"])) == [1, 2]
    of_epoch = {epoch: set(group["annotation_id"]) for epoch, group in found.groupby("epoch")}
    images = sorted(set(last["image_id"]))[:IMAGES]
    assert of_epoch[1] == of_epoch[2] == set(last.loc[last["image_id"].isin(images) & (last["annotation_id"] >= 0), "annotation_id"])
    annotation = int(found["annotation_id"].iloc[0])
    seen = Store(tree).history(general.id, int(found["image_id"].iloc[0]), annotation)
    assert seen["epoch"].tolist() == [1, 2]
    assert (seen["probs"][1] == last.loc[last["annotation_id"] == annotation, "probs"].iloc[0]).all()
    assert (seen["probs"][0] != seen["probs"][1]).any()


def test_a_dirac_box_leaves_no_history(tree: RunTree, dirac: TrialDir) -> None:
    assert not dirac.file(naming.HISTORY).exists() and Store(tree).history(dirac.id, 1, 1) is None


def test_an_epoch_that_is_trained_again_replaces_itself_and_later_ones(general: TrialDir, tmp_path: Path) -> None:
    history = History(tmp_path / "h.parquet", range(100))
    for epoch, score in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.5)):
        history.add(epoch, [row(general, image_id=3, score=score), row(general, image_id=99), row(general, annotation_id=-1, image_id=3)])
    found = pq.read_table(tmp_path / "h.parquet").to_pandas()
    assert found["epoch"].tolist() == [1, 2] and found["score"].tolist() == pytest.approx([0.1, 0.5]) and set(found["image_id"]) == {3}
    (tmp_path / "h.parquet").write_bytes(b"torn")
    history.add(3, [row(general, image_id=3)])
    assert pd.read_parquet(tmp_path / "h.parquet")["epoch"].tolist() == [3], "a damaged one ends no training"


def test_a_torn_file_is_told_to_readers(tmp_path: Path) -> None:
    trial = RunTree(tmp_path).trial("0" * 12)
    trial.path.mkdir(parents=True)
    trial.file(naming.HISTORY).write_bytes(b"torn")
    with pytest.raises(StoreError, match="history of trial 000000000000 cannot be read"):
        Store(RunTree(tmp_path)).history("0" * 12, 1, 1)
