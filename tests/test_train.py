"""One trial on a tiny generated data set: what it writes, that it resumes bitwise, how it fails."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader

import gfl_lab.setup.config as config_module
import gfl_lab.train.final as final_module
import gfl_lab.train.trial as trial_module
from gfl_lab import naming
from gfl_lab.analysis.distributions import SCHEMA
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.checkpoints.pretrained import load_backbone
from gfl_lab.data import ambiguous_shapes, coco
from gfl_lab.detector.build import build_detector
from gfl_lab.detector.targets import assign_batch
from gfl_lab.detector.trial_detector import TrialDetector
from gfl_lab.errors import InputError, Interrupted, StoreError
from gfl_lab.inference.evaluate import CocoEvaluator, Detections
from gfl_lab.records.files import write_json
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.setup.config import loaders_that_fit, trial_config
from gfl_lab.setup.dataset import DecodedImages, TrialDataset
from gfl_lab.spec.settings import Settings
from gfl_lab.train.checkpoint import load_last
from gfl_lab.train.finished import read_spec
from gfl_lab.train.trial import run_trial
from tests.support.raw import raw_manifest, raw_result
from tests.support.trials import SMALL, make_trial

TINY = {"image_size": (64, 64), "strides": (8, 16), "batch_size": 10, "score_thr": 0.05}
"""Over SMALL: four steps that a CPU without half-precision arithmetic does in a second."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ambiguous_shapes.generate(ambiguous_shapes.AmbiguousShapesSpec(train_images=20, val_images=8), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def done(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialDir:
    """The undisturbed trial: six steps in two epochs."""
    trial = make_trial(tmp_path_factory.mktemp("runs"), shapes)
    run_trial(trial.path)
    return trial


@pytest.fixture(scope="module")
def stopped(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialDir:
    """The same trial, stopped after step 4: with checkpoints after step 3, an epoch's end, and 4. To be copied."""
    trial = make_trial(tmp_path_factory.mktemp("stopped"), shapes)
    run_until(trial, 4)
    return trial


def run_until(trial: TrialDir, step: int) -> None:
    """Run the trial and stop it after ``step``."""
    begun = max((line.step for line in trial.metric_lines()), default=0)
    asked = iter(range(begun, 100))
    with pytest.raises(Interrupted):
        run_trial(trial.path, should_stop=lambda: next(asked) >= step)
    assert trial.state() is TrialState.INTERRUPTED


def copy_of(trial: TrialDir, root: Path) -> TrialDir:
    """A copy of the trial in the run tree ``root``."""
    copied = RunTree(root).trial(trial.id)
    shutil.copytree(trial.path, copied.path)
    return copied


def weights(trial: TrialDir) -> dict[str, torch.Tensor]:
    return load_safely(trial.file(naming.LAST_CHECKPOINT))["state_dict"]


def assert_same(ours: TrialDir, theirs: TrialDir) -> None:
    """Both are done, with weights, metric lines and result equal to the last bit, but for clocks."""
    assert ours.state() is theirs.state() is TrialState.DONE, ours.file(naming.LOG).read_text()
    one, two = weights(ours), weights(theirs)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in two)
    lines = [[line._replace(time=0.0) for line in trial.metric_lines()] for trial in (ours, theirs)]
    assert lines[0] == lines[1]
    for part in ("metrics", "per_class", "counts", "epochs", "steps"):
        one, two = raw_result(ours)[part], raw_result(theirs)[part]
        if part == "metrics":
            one, two = ({key: value for key, value in told.items() if key not in ("fps", "latency_ms")} for told in (one, two))
        assert one == two, part


def test_a_trial_writes_all_it_promises(done: TrialDir) -> None:
    result = raw_result(done)
    assert done.state() is TrialState.DONE and result["epochs"] == 2 and result["steps"] == 6
    assert {"AP", "AP50", "AP75", "fps", "latency_ms", "two_mode_recall", "false_bimodality", "wasserstein"} <= result["metrics"].keys()
    for name in (naming.CONFIG, naming.EVAL_RECORDS, naming.DISTRIBUTIONS, naming.LAST_CHECKPOINT, naming.METRICS_FILE):
        assert done.file(name).stat().st_size > 0, name
    manifest = done.manifest()
    config = trial_config(read_spec(manifest), manifest.paths.to_json(), str(done.path))
    assert Config.fromfile(done.file(naming.CONFIG)).to_dict() == config.to_dict()
    assert not done.file(naming.LEASE).exists() and not list(done.path.glob(".*.tmp"))
    lines = done.metric_lines()
    assert [line.step for line in lines if line.kind == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line.epoch for line in lines if line.kind == "val"] == [1, 2]
    first = next(line for line in lines if line.kind == "train").metrics
    assert {"loss", "loss_cls", "loss_bbox", "loss_dfl", "lr"} == first.keys()
    assert first["lr"] == pytest.approx(0.002 * 0.001), "the rate of the step, not of the next one"
    assert lines[-1].metrics["AP"] == pytest.approx(result["metrics"]["AP"], abs=1e-4)


def test_ap_can_be_computed_again_from_the_records_by_pycocotools(done: TrialDir, shapes: Path) -> None:
    records = np.load(done.file(naming.EVAL_RECORDS))
    assert records["resampled"].shape == (1000, 3) and np.ptp(records["resampled"][:, 0]) > 0
    truth = COCO(str(shapes / "annotations/instances_val.json"))
    ids = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    rows = [
        {
            "image_id": int(i),
            "category_id": ids[str(records["classes"][c])],
            "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
            "score": float(s),
        }
        for i, c, b, s in zip(records["det_image"], records["det_label"], records["det_box"], records["det_score"], strict=True)
    ]
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 100 * evaluation.stats[0] == pytest.approx(raw_result(done)["metrics"]["AP"], abs=1e-3)
    assert records["gt_box"].shape == (len(truth.anns), 4) and set(records["image_ids"]) == set(truth.imgs)


def test_distributions_have_a_row_for_each_box_and_add_up(done: TrialDir, shapes: Path) -> None:
    table = pq.read_table(done.file(naming.DISTRIBUTIONS))
    assert table.schema.equals(SCHEMA)
    frame = table.to_pandas()
    boxes = frame[frame.annotation_id >= 0]
    truth = json.loads((shapes / "annotations/instances_val.json").read_text())
    assert sorted(boxes.annotation_id) == sorted(annotation["id"] for annotation in truth["annotations"])
    probs = np.stack(boxes.probs.tolist()).reshape(len(boxes), 4, 17)
    assert np.allclose(probs.sum(-1), 1, atol=1e-5)
    assert np.allclose(probs @ np.arange(17), np.stack(boxes.expectation.tolist()), atol=1e-4)
    by_id = {annotation["id"]: annotation for annotation in truth["annotations"]}
    for row in boxes.itertuples():
        x, y, w, h = by_id[row.annotation_id]["bbox"]
        sides = np.array([row.cell_x - x, row.cell_y - y, x + w - row.cell_x, y + h - row.cell_y]) / (row.stride * row.bin_width)
        assert np.allclose(sides, row.target, atol=1e-4)
        ambiguity = by_id[row.annotation_id]["ambiguity"]
        if ambiguity:
            center = row.cell_x if ambiguity["side"] in (0, 2) else row.cell_y
            edges = [abs(edge - center) / row.stride for edge in ambiguity["edges"]]
            assert np.allclose(edges, [row.edge_a, row.edge_b], atol=1e-4) and row.ambiguous_side == ambiguity["side"]


def test_a_dirac_box_has_distances_and_no_distribution(shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes, dfl=False, qfl=False, epochs=1)
    run_trial(trial.path)
    result = raw_result(trial)
    assert result["status"] == "done" and result["metrics"]["two_mode_recall"] == 0 and result["metrics"]["wasserstein"] > 0
    frame = pq.read_table(trial.file(naming.DISTRIBUTIONS)).to_pandas()
    assert (frame.bins == 0).all() and all(len(p) == 0 for p in frame.probs) and np.isfinite(np.stack(frame.expectation.tolist())).all()
    assert "loss_centerness" in trial.metric_lines()[0].metrics


def test_a_trial_stopped_at_many_steps_ends_bitwise_the_same(done: TrialDir, shapes: Path, tmp_path: Path) -> None:
    """Before the first step, at the end of an epoch, after its first step and before the last step."""
    trial = make_trial(tmp_path, shapes)
    assert trial.id == done.id
    for step in (0, 2, 3, 5):
        run_until(trial, step)
    run_trial(trial.path)
    assert_same(trial, done)


@pytest.mark.parametrize(
    "choices",
    [
        {"cls_loss": "varifocal", "bins": "weighted", "assigner": "tal", "precision": "bfloat16"},
        {"box": "direct", "assigner": "simota", "quality": "centerness", "ema_decay": 0.9},
    ],
    ids=["varifocal weighted tal", "direct simota"],
)
def test_successors_of_gfl_resume_bitwise(choices: dict[str, Any], shapes: Path, tmp_path: Path) -> None:
    whole, stopped = (make_trial(tmp_path / name, shapes, epochs=1, **choices) for name in ("whole", "stopped"))
    run_trial(whole.path)
    run_until(stopped, 1)
    run_trial(stopped.path)
    assert_same(stopped, whole)


def test_a_2x_schedule_is_twice_the_epochs(done: TrialDir, shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes, epochs=1, schedule="2x")
    run_trial(trial.path)
    assert (raw_result(trial)["epochs"], raw_result(trial)["steps"]) == (2, 6)
    ours, theirs = weights(trial), weights(done)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_average_precision_crops_and_groups_resume_bitwise(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """All that a schedule can ask for at once, with a model that draws random numbers in training, stopped within an epoch."""
    settings = TINY | {
        "precision": precision, "ema_decay": 0.4, "no_decay": ["norm", "bias"], "bias_lr_mult": 2.0, "clip_grad_norm": 10.0,
        "crop": "vit_adapter", "scale_range": [0.6, 1.0], "scale_step": 0.1,
    }  # fmt: skip
    extract = TrialDetector.extract_feat
    dtypes = set()

    def noisy(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = extract(self, images)
        dtypes.add((self.training, maps[0].dtype))
        return tuple(torch.nn.functional.dropout(level, 0.2, self.training) for level in maps)

    update, latency = trial_module.MovingAverage.update, final_module.measure_latency
    states: list[dict[str, torch.Tensor]] = []
    judged: list[dict[str, torch.Tensor]] = []

    def copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {key: value.detach().clone() for key, value in model.state_dict().items()}

    def seen(self, model: torch.nn.Module) -> None:
        if not states:
            states.append({key: value.clone() for key, value in self.weights.items()})
        states.append(copy(model))
        update(self, model)

    def timed(model: torch.nn.Module, *args: object) -> dict[str, float]:
        judged.append(copy(model))
        return latency(model, *args)

    monkeypatch.setattr(TrialDetector, "extract_feat", noisy)
    monkeypatch.setattr(trial_module.MovingAverage, "update", seen)
    monkeypatch.setattr(final_module, "measure_latency", timed)
    whole = make_trial(tmp_path / "whole", shapes, **settings)
    run_trial(whole.path)
    assert whole.state() is TrialState.DONE, whole.file(naming.LOG).read_text()
    assert dtypes == {(True, getattr(torch, precision)), (False, torch.float32)}, "autocast in training, float32 in evaluation"
    assert all(np.isfinite(line.metrics["loss"]) for line in whole.metric_lines() if line.kind == "train")

    start, *trained = states
    assert len(trained) == 4
    expected = {key: value.double() for key, value in start.items()}
    for t, state in enumerate(trained):
        decay = min(0.4, (1 + t) / (10 + t))
        expected = {key: decay * value + (1 - decay) * state[key].double() for key, value in expected.items()}
    file = load_safely(whole.file(naming.LAST_CHECKPOINT))
    floats = [key for key, value in start.items() if value.is_floating_point()]
    assert all(torch.allclose(file["state_dict"][key].double(), expected[key], atol=1e-5, rtol=1e-5) for key in floats)
    assert all(torch.equal(file["trained"][key], trained[-1][key]) for key in start)
    assert all(torch.equal(file["state_dict"][key], judged[-1][key]) for key in start), "what is saved is what is judged"
    assert any(not torch.equal(file["state_dict"][key], file["trained"][key]) for key in floats)

    stopped = make_trial(tmp_path / "stopped", shapes, **settings)
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        run_trial(stopped.path, should_stop=lambda: next(asked) >= 3)
    run_trial(stopped.path)
    again = load_safely(stopped.file(naming.LAST_CHECKPOINT))
    for part in ("state_dict", "trained"):
        assert all(torch.equal(again[part][key], file[part][key]) for key in start), part
    assert again["average_updates"] == file["average_updates"] == 4
    assert again["optimizer"]["loss_scaler"] == file["optimizer"]["loss_scaler"]
    for kind in ("train", "val"):
        ours, theirs = ([line.metrics for line in t.metric_lines() if line.kind == kind] for t in (stopped, whole))
        assert ours == theirs


def test_a_float16_step_that_overflows_is_no_failure(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_trial(tmp_path, shapes, **TINY, precision="float16")
    loss = TrialDetector.loss
    calls = Counter()

    def huge(self, *args, **kwargs):
        calls["n"] += 1
        losses = loss(self, *args, **kwargs)
        return losses | {"loss_cls": losses["loss_cls"] * 1e25} if calls["n"] == 2 else losses

    monkeypatch.setattr(TrialDetector, "loss", huge)
    run_trial(trial.path)
    assert trial.state() is TrialState.DONE and raw_result(trial)["steps"] == 4
    assert load_safely(trial.file(naming.LAST_CHECKPOINT))["optimizer"]["loss_scaler"]["scale"] == 256


def test_loader_processes_do_not_change_the_numbers(done: TrialDir, shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes)
    run_trial(trial.path, loader_workers=2)
    ours, theirs = weights(trial), weights(done)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_loader_processes_share_the_images_that_they_decode(shapes: Path) -> None:
    data = dataset(shapes)
    loader = DataLoader(data, batch_size=4, num_workers=2, collate_fn=list, multiprocessing_context="fork")
    paths = [data.get_data_info(index)["img_path"] for index in range(len(data))]
    assert [data.decoded.get(path) for path in paths] == [None] * len(data)
    first = list(loader)
    for path in paths:
        assert np.array_equal(data.decoded.get(path), cv2.imread(path))
    for path in paths:
        Path(path).rename(f"{path}.away")
    try:  # the next epoch reads no file
        second = list(loader)
    finally:
        for path in paths:
            Path(f"{path}.away").rename(path)
    assert all(torch.equal(a["inputs"], b["inputs"]) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("free_mib", "expected"), [(64, 0), (205, 1), (1024, 5), (100_000, 7)])
def test_no_more_loader_processes_than_shared_memory_has_room_for(monkeypatch: pytest.MonkeyPatch, free_mib: int, expected: int) -> None:
    """Two batches of 16 images of 1333 x 800 are 97.6 MiB; half of what is free may be taken."""
    monkeypatch.setattr(config_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_mib * 2**20))
    assert loaders_that_fit(7, Settings(image_size=(1333, 800), batch_size=16)) == expected
    assert loaders_that_fit(0, Settings()) == 0


def test_images_are_kept_while_there_is_room_and_as_the_annotations_say() -> None:
    infos = [{"img_path": str(number), "width": 4, "height": 2} for number in range(3)]
    decoded = DecodedImages(infos, room=2 * 24 + 23)
    assert decoded.size == 2 * 24
    images = [np.random.default_rng(number).integers(256, size=(2, 4, 3), dtype=np.uint8) for number in range(3)]
    for info, image in zip(infos, images, strict=True):
        decoded.keep(info["img_path"], image)
    assert [np.array_equal(decoded.get(str(number)), images[number]) for number in (0, 1)] == [True, True]
    assert decoded.get("2") is None and decoded.get("elsewhere") is None
    other = DecodedImages(infos, room=1000)
    other.keep("1", images[0].transpose(1, 0, 2))  # a file that was replaced by one of another size
    assert other.get("1") is None
    assert DecodedImages(infos, room=0).get("0") is None
    twice = DecodedImages([infos[0], infos[1], infos[0], infos[2]], room=3 * 24)
    twice.keep("0", images[0])
    assert twice.size == 3 * 24 and np.array_equal(twice.get("0"), images[0]) and twice.get("1") is None and twice.get("2") is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    done: TrialDir, stopped: TrialDir, tmp_path: Path, damage: str
) -> None:
    """In training a damaged one is met after a power cut or on a failing disk: our own writes are atomic."""
    trial = copy_of(stopped, tmp_path)
    last = trial.file(naming.LAST_CHECKPOINT)
    data = bytearray(last.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        last.write_bytes(data)
        assert torch.load(last, weights_only=True), "torch itself does not notice"
    elif damage == "other":
        torch.save({"state_dict": {}}, last)
    else:
        last.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    run_trial(trial.path)
    log = trial.file(naming.LOG).read_text()
    assert trial.file("last.damaged").exists() and "set aside as last.damaged" in log and "continues after step 3" in log
    assert not trial.file(naming.PREVIOUS_CHECKPOINT).exists(), "a finished trial needs one"
    assert_same(trial, done)


def test_a_checkpoint_of_another_trial_or_format_is_refused(done: TrialDir, shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes)
    assert load_last(trial) is None
    last = trial.file(naming.LAST_CHECKPOINT)
    content = load_safely(done.file(naming.LAST_CHECKPOINT))
    for change, words in (({"trial": "f" * 12}, "belongs to trial"), ({"format": 0}, "has format 0"), ({"format": 99}, "has format 99")):
        torch.save(content | {"meta": content["meta"] | change}, last)
        with pytest.raises(StoreError, match=words):
            load_last(trial)
        assert last.exists()
    run_trial(trial.path)
    assert "has format 99" in raw_result(trial)["failure"]["reason"] and last.exists()
    del content["meta"]["format"]
    torch.save(content, last)
    assert load_last(trial)["meta"]["iter"] == 6


def test_a_long_epoch_is_saved_by_time(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_trial(tmp_path, shapes)
    saved = []
    monkeypatch.setattr("gfl_lab.train.loop.CHECKPOINT_S", 0.0)
    monkeypatch.setattr("gfl_lab.train.loop.save_checkpoint", lambda *_, step, **__: saved.append(step))
    run_trial(trial.path)
    assert saved == [0, 1, 2, 3, 3, 4, 5, 6]


def test_a_result_that_went_missing_is_made_again_without_a_second_line_for_the_last_evaluation(
    done: TrialDir, shapes: Path, tmp_path: Path
) -> None:
    trial = make_trial(tmp_path, shapes)
    shutil.copytree(done.path, trial.path, dirs_exist_ok=True)
    trial.file(naming.RESULT).write_bytes(done.file(naming.RESULT).read_bytes()[:100])
    trial.file(naming.EVAL_RECORDS).write_bytes(b"torn")
    assert trial.state() is TrialState.INTERRUPTED
    run_trial(trial.path)
    assert_same(trial, done)
    assert trial.file(naming.EVAL_RECORDS).read_bytes() != b"torn"


def test_a_non_finite_loss_stops_before_the_weights_are_touched(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_trial(tmp_path, shapes)
    loss = TrialDetector.loss
    calls = Counter()
    seen: list[torch.Tensor] = []

    def poisoned(self, *args, **kwargs):
        calls["n"] += 1
        losses = loss(self, *args, **kwargs)
        if calls["n"] == 5:
            seen.extend([self, self.bbox_head.gfl_cls.weight.detach().clone()])
            losses["loss_cls"] = losses["loss_cls"] * float("nan")
        return losses

    monkeypatch.setattr(TrialDetector, "loss", poisoned)
    run_trial(trial.path)
    failure = raw_result(trial)["failure"]
    assert trial.state() is TrialState.FAILED
    assert (failure["kind"], failure["step"], failure["epoch"]) == ("non_finite_loss", 5, 2)
    log = trial.file(naming.LOG).read_text()
    assert "starts: seed 0" in log and "epoch 1, step 3: AP" in log and "Traceback" in log and "NonFiniteLoss" in log
    assert "loss_cls=nan" in failure["reason"] and "step 5" in failure["reason"]
    assert torch.equal(seen[0].bbox_head.gfl_cls.weight, seen[1])


def test_a_failed_trial_is_tried_again_by_the_same_call(shapes: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path, shapes, epochs=1)
    broken = raw_manifest(trial)
    good = broken["paths"]["train_images"]
    write_json(trial.file(naming.MANIFEST), broken | {"paths": broken["paths"] | {"train_images": str(tmp_path / "gone")}})
    run_trial(trial.path)
    assert raw_result(trial)["failure"]["kind"] == "bad_data"
    write_json(trial.file(naming.MANIFEST), broken | {"paths": broken["paths"] | {"train_images": good}})
    run_trial(trial.path)
    assert trial.state() is TrialState.DONE


def test_a_finished_trial_is_not_run_again(done: TrialDir) -> None:
    before = done.file(naming.RESULT).read_bytes()
    run_trial(done.path)
    assert done.file(naming.RESULT).read_bytes() == before and done.state() is TrialState.DONE


@pytest.mark.parametrize("first", [0, 1, 1000])
def test_ap_does_not_depend_on_annotation_ids(tmp_path: Path, first: int) -> None:
    """COCOeval takes a match with annotation 0 for none: sets numbered from 0 would lose AP."""
    images = [{"id": n, "file_name": "x", "width": 100, "height": 100} for n in range(5)]
    boxes = [{"id": first + n, "image_id": n, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600} for n in range(5)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "a"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    evaluator = CocoEvaluator(tmp_path / "val.json", ("a",))
    found = Detections(np.arange(5), np.arange(5), np.zeros(5, int), np.linspace(0.9, 0.5, 5), np.tile([10.0, 10, 50, 50], (5, 1)))
    assert evaluator(found)[0]["AP"] == pytest.approx(100)
    assert sorted(evaluator.truth.anns) == [first + n for n in range(5)]


def test_images_without_boxes_annotations_without_area_and_empty_predictions(shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shapes, folder)
    (folder / "dataset.json").unlink()
    for split in ("train", "val"):
        path = folder / f"annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        first = content["images"][0]["id"]
        content["annotations"] = [annotation for annotation in content["annotations"] if annotation["image_id"] != first]
        for annotation in content["annotations"]:
            del annotation["area"], annotation["iscrowd"]  # many exports lack them
        path.write_text(json.dumps(content))
    data = coco.dataspec(folder)
    assert data.train_images == 19 and not data.truth
    trial = make_trial(tmp_path, folder, epochs=1, score_thr=0.99, batch_size=19)
    run_trial(trial.path)
    result = raw_result(trial)
    assert result["status"] == "done" and result["metrics"]["AP"] == 0 and result["counts"]["detections"] == 0 and result["steps"] == 1
    assert "two_mode_recall" not in result["metrics"]


def test_the_locations_of_an_image_do_not_depend_on_its_batch() -> None:
    """A small image beside a large one is padded; locations that only the padding has take no part in the assignment."""
    settings = Settings(**SMALL)
    head = build_detector(settings, 3).bbox_head

    def assigned(extents: list[tuple[int, int]], boxes: list[list[float]]) -> torch.Tensor:
        height, width = (max(extent[axis] for extent in extents) for axis in (0, 1))
        geometry = head.geometry([(-(-height // s), -(-width // s)) for s in settings.strides], torch.device("cpu"))
        valid = torch.ones(len(boxes), 1, dtype=torch.bool)
        found = assign_batch(geometry, torch.tensor(boxes)[:, None], valid, extents, settings.atss_topk).assigned
        return torch.stack([torch.cat([geometry.centers, geometry.strides[:, None]], 1)[row >= 0] for row in found[:1]])[0]

    small = [10.0, 12.0, 60.0, 58.0]
    alone = assigned([(64, 64)], [small])
    beside = assigned([(64, 64), (128, 160)], [small, [20.0, 20.0, 90.0, 100.0]])
    assert len(alone) and torch.equal(alone, beside)


# --- data set ---


def dataset(folder: Path, seed: int = 0) -> TrialDataset:
    pipeline = [
        {"type": "LoadImageCached"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "flip")},
    ]
    paths = coco.find_dataset(folder)
    return TrialDataset(
        ann_file=str(paths.train_annotations), data_prefix={"img": str(paths.train_images)}, pipeline=pipeline, classes=coco.dataspec(folder).classes, seed=seed,
        draw_annotators=True, filter_cfg={"min_size": 32},
    )  # fmt: skip


def test_a_sample_is_a_function_of_seed_epoch_and_index(shapes: Path) -> None:
    def look(data: TrialDataset, epoch: int, index: int) -> tuple[bool, list[float]]:
        data.set_epoch(epoch)
        sample = data[index]["data_samples"]
        return sample.flip, sample.gt_instances.bboxes.tensor.flatten().tolist()

    first, second = dataset(shapes), dataset(shapes)
    forwards = [look(first, 0, index) for index in range(10)]
    assert [look(second, 0, index) for index in reversed(range(10))] == forwards[::-1]
    assert [look(first, 1, index) for index in range(10)] != forwards
    assert [look(dataset(shapes, seed=1), 0, index) for index in range(10)] != forwards
    state = np.random.get_state()[1].copy()
    first[0]
    assert (np.random.get_state()[1] == state).all(), "sampling must not move the process' own generator"


def test_both_annotators_are_drawn_as_often_as_they_should_be(shapes: Path) -> None:
    data = dataset(shapes)
    annotations = json.loads((shapes / "annotations/instances_train.json").read_text())["annotations"]
    wanted = {a["id"]: a for a in annotations if a["ambiguity"]}
    drawn, expected, total = 0, 0.0, 0
    for epoch in range(60):
        data.set_epoch(epoch)
        for index in range(len(data)):
            sample = data[index]["data_samples"]
            if sample.flip:
                continue
            info = data.get_data_info(index)["instances"]
            for instance, box in zip(info, sample.gt_instances.bboxes.tensor.tolist(), strict=True):
                if instance["annotation_id"] in wanted:
                    a, b = ambiguous_shapes.annotator_boxes(wanted[instance["annotation_id"]])
                    assert box == pytest.approx(list(a)) or box == pytest.approx(list(b))
                    drawn += box == pytest.approx(list(a))
                    expected += wanted[instance["annotation_id"]]["ambiguity"]["probs"][0]
                    total += 1
    assert abs(drawn - expected) < 4 * np.sqrt(total * 0.25)


# --- weights ---


def test_torchvision_names_start_a_backbone_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(weights=None)
    file = tmp_path / "r18.pth"
    torch.save(source.state_dict(), file)
    backbone = build_detector(Settings(backbone="r18"), 3).backbone
    load_backbone(backbone, str(file), "r18")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in backbone.state_dict().items())
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in source.state_dict().items()} | {"neck.x": torch.zeros(1)}}, file)
    load_backbone(backbone, str(file), "r18")
    with pytest.raises(InputError, match="missing"):
        load_backbone(build_detector(Settings(backbone="r34"), 3).backbone, str(file), "r34")


def test_a_file_with_objects_is_refused_without_running_them(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name, words in (("evil.pth", "Python objects"), ("text.pth", "torch file|Python objects"), ("none.pth", "does not exist")):
        with pytest.raises(InputError, match=words):
            load_safely(tmp_path / name)
    assert not (tmp_path / "pwned").exists()
