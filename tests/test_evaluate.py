"""`gfl-lab evaluate`: trained weights again, under other test settings, and weights from files; nothing else changes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gfl_lab import naming
from gfl_lab.checkpoints.files import load_safely
from gfl_lab.data import coco
from gfl_lab.errors import InputError
from gfl_lab.inference import latency
from gfl_lab.inference.trained_detector import COMPARED, SETTABLE
from gfl_lab.records.files import write_json
from gfl_lab.rundir import RunTree, TrialDir
from gfl_lab.session.evaluation import evaluate_again
from gfl_lab.session.trained import detector_to_evaluate
from gfl_lab.session.trial_lookup import find_trial
from gfl_lab.setup.components import load
from gfl_lab.spec.code import CodeFile
from gfl_lab.train import warmup
from tests.support.cli import Cli, runner
from tests.support.raw import raw_manifest, raw_result
from tests.support.trials import train

# isort: split
# after ours: mmdet.models can be imported only once the operators are there
from mmdet.registry import MODELS


@pytest.fixture
def cli(tree: RunTree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))
    return runner(monkeypatch, capsys, "evaluate")


def digests(folder: Path) -> dict[str, str]:
    """Content of every file below a folder."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def recorded(trial: TrialDir) -> dict[str, float]:
    return {key: value for key, value in raw_result(trial)["metrics"].items() if key in COMPARED}


def altered(trial: TrialDir, root: Path, monkeypatch: pytest.MonkeyPatch) -> TrialDir:
    """A copy of a trial in a tree of its own, to be damaged."""
    copy = RunTree(root / "copy").trial(trial.id)
    shutil.copytree(trial.path, copy.path)
    monkeypatch.setenv("GFL_LAB_HOME", str(root / "copy"))
    return copy


# --- a trial --------------------------------------------------------------------------------------


def test_the_same_settings_give_the_recorded_numbers_and_touch_nothing(cli: Cli, tree: RunTree, general: TrialDir) -> None:
    assert "trained" in load_safely(general.file(naming.LAST_CHECKPOINT)), "the average and the last weights are not the same"
    before = digests(tree.root)
    code, out, err = cli(general.id, "--json")
    report = json.loads(out)
    assert code == 0 and err == "evaluating 8 images\n"
    again, as_trained = report["rows"][1]["metrics"], recorded(general)
    assert again == as_trained and again["AP50"] > 0 and {"two_mode_recall", "wasserstein"} <= again.keys()
    assert report["per_class"] == raw_result(general)["per_class"]
    assert report["rows"][0] == {"name": "as trained", "metrics": as_trained} and set(report["differences"].values()) == {0.0}
    assert (report["trial"], report["weights"], report["images"], report["all_images"], report["set"]) == (general.id, None, 8, 8, {})
    assert tuple(report["settings"]) == SETTABLE and report["settings"]["image_size"] == [128, 128]
    assert digests(tree.root) == before


def test_local_peak_changes_a_general_box_alone(cli: Cli, general: TrialDir, dirac: TrialDir) -> None:
    code, out, _ = cli(general.id[:8], "--set", "decode=local_peak", "--json")
    report = json.loads(out)
    old, new = (row["metrics"] for row in report["rows"])
    assert code == 0 and report["rows"][1]["name"] == "decode=local_peak" and report["set"] == {"decode": "local_peak"}
    assert old == recorded(general) and new["AP50"] != old["AP50"]
    assert report["differences"]["AP50"] == pytest.approx(new["AP50"] - old["AP50"], abs=1e-6)
    assert new["wasserstein"] == old["wasserstein"], "scored on the distribution, whatever is read from it"

    code, out, err = cli(dirac.id, "--set", "decode=local_peak", "--json")
    assert code == 2 and out == "" and "decode has no effect" in err and "box: dirac" in err


def test_the_table_shows_both_and_the_difference(cli: Cli, general: TrialDir) -> None:
    code, out, _ = cli(general.id, "--set", "max_dets=1", "--set", "image_size=[96, 96]", "--set", "score_thr=1e-2")
    lines = out.splitlines()
    assert code == 0 and lines[0] == f"trial {general.id} on all 8 validation images of ambiguous_shapes, cpu"
    assert [line.strip() for line in lines[1:3]] == ["max_dets=1", "image_size=[96, 96]"]
    assert re.split(r"  +", lines[3].strip()) == ["as trained", "score_thr=0.01", "difference"]
    table = {re.split(r"  +", line)[0]: [float(cell) for cell in line.split()[-3:]] for line in lines[4:] if not line.startswith("AP_")}
    assert list(table) == ["AP", "AP50", "AP75", "two-mode recall", "false bimodality", "W1 to truth, bins"]
    old, new, difference = table["AP50"]
    assert old == pytest.approx(recorded(general)["AP50"], abs=0.005)
    assert difference == pytest.approx(new - old, abs=0.011) and difference < 0


def test_python_gets_the_report(tree: RunTree, general: TrialDir) -> None:
    steps: list[tuple[int, int]] = []
    report = evaluate_again(detector_to_evaluate(tree, general.id[:8]), {"max_dets": 1}, 2, lambda done, of: steps.append((done, of)))
    assert steps == [(1, 2), (2, 2)] * 2 and list(report.rows) == ["as trained", "max_dets=1"], "two evaluations of the same images"
    assert report.changed.spec.settings.max_dets == 1 and report.detector.spec.settings.max_dets != 1
    assert report.heading.startswith(f"trial {general.id} on the first 2 of 8 validation images") and not report.device_note
    elsewhere = replace(report, detector=replace(report.detector, device="cuda NVIDIA H100"))
    assert elsewhere.device_note.startswith("It was trained on cuda NVIDIA H100")


def test_a_limit_compares_the_same_images(cli: Cli, general: TrialDir) -> None:
    code, out, _ = cli(general.id, "--limit", 3, "--set", "decode=local_peak", "--json")
    report = json.loads(out)
    few = report["rows"][0]["metrics"]
    assert code == 0 and (report["images"], report["all_images"]) == (3, 8) and report["rows"][0]["name"] == "as trained"
    assert few != recorded(general), "of three images, not what is recorded of eight"
    code, out, _ = cli(general.id, "--limit", 3)
    assert "on the first 3 of 8 validation images" in out and "difference" not in out, "nothing recorded to compare with"
    assert json.loads(cli(general.id, "--limit", 3, "--json")[1])["rows"] == [{"name": "as trained", "metrics": few}]
    assert json.loads(cli(general.id, "--limit", 100, "--json")[1])["rows"][1]["metrics"] == recorded(general)


OWN_LOSS = b"""
from mmdet.registry import MODELS
from torch import nn

@MODELS.register_module()
class EvaluatedLoss(nn.Module):
    def forward(self, boxes, targets, weight, avg_factor):
        return ((boxes - targets).abs().mean(1) * weight).sum() / avg_factor
"""


def test_a_trial_with_code_of_its_own(cli: Cli, tree: RunTree, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = train(tree, shapes, CodeFile(tmp_path / "own.py", OWN_LOSS), box_loss="EvaluatedLoss", epochs=1)
    load(())
    try:
        code, out, _ = cli(trial.id, "--json")
        assert code == 0 and json.loads(out)["rows"][1]["metrics"] == recorded(trial)
        load(())
        path = trial.file(naming.LAST_CHECKPOINT)
        assert cli(path, "--limit", 1)[0] == 0
        load(())
        monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path / "mine"))
        for arguments in ([path], [path, "--data", shapes]):
            code, _, err = cli(*arguments)
            assert code == 2 and "brings code along (own.py)" in err and "EvaluatedLoss" not in MODELS.module_dict
    finally:
        load(())


# --- files ----------------------------------------------------------------------------------------


def test_a_trials_own_file_keeps_its_settings(cli: Cli, general: TrialDir, shapes: Path) -> None:
    path = general.file(naming.LAST_CHECKPOINT)
    report = json.loads(cli(path, "--json")[1])
    assert report["trial"] == general.id and report["rows"][1]["metrics"] == recorded(general)
    report = json.loads(cli(path, "--data", shapes, "--json")[1])
    assert (report["trial"], report["weights"]) == (None, str(path)) and report["differences"] == {}
    assert report["rows"] == [{"name": "weights", "metrics": recorded(general)}]


def test_an_imported_detector_takes_its_test_settings_from_the_profile(cli: Cli, general: TrialDir, imported: Path, shapes: Path) -> None:
    code, out, err = cli(imported, "--data", shapes, "--profile", "smoke", "--set", "score_thr=0.001", "--json")
    report = json.loads(out)
    assert code == 0 and "order of the data set's category ids" in err
    assert report["settings"]["image_size"] == [128, 128] and report["settings"]["max_dets"] == 100
    found = report["rows"][0]["metrics"]
    assert found == pytest.approx(recorded(general), abs=0.01), "one image at a time instead of eight"
    code, out, _ = cli(imported, "--data", shapes, "--limit", 1)  # the default profile
    assert code == 0 and f"{imported} on the first 1 of 8 validation images" in out
    assert re.search(r"^AP50 +[0-9.-]+ *$", out, re.MULTILINE)


def test_a_file_that_is_not_imported_is_converted_on_the_way(cli: Cli, imported: Path, shapes: Path, tmp_path: Path) -> None:
    state = load_safely(imported)["state_dict"]
    torch.save({"state_dict": state, "meta": {"dataset_meta": {"classes": ("a", "b", "c")}}}, tmp_path / "named.pth")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "bare.pth")
    rows = [
        json.loads(cli(path, "--data", shapes, "--profile", "smoke", "--json")[1])["rows"] for path in (imported, tmp_path / "bare.pth")
    ]
    assert rows[0] == rows[1]
    code, _, err = cli(tmp_path / "named.pth", "--data", shapes, "--profile", "smoke")
    assert code == 2 and "class 1 is a in the weights" in err


def test_data_without_truth_have_no_truth_scores(cli: Cli, imported: Path, shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(shapes, folder)
    (folder / "dataset.json").unlink()
    code, out, _ = cli(imported, "--data", folder, "--profile", "smoke", "--set", "score_thr=0.001", "--json")
    report = json.loads(out)
    assert code == 0 and report["data"] == "mine" and set(report["rows"][0]["metrics"]) <= set(naming.AP_METRICS)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "decod=local_peak"], ["there is no setting 'decod'", "Did you mean 'decode'"]),
        (["--set", "lr=0.1"], ["lr belongs to the schedule", "may be set: image_size, pad_to, decode, score_thr"]),
        (
            ["--set", "reg_max=8", "--set", "backbone=r50"],
            ["2 problems", "reg_max belongs to the detector", "backbone belongs to the model"],
        ),
        (["--set", "nms_iou=1.5"], ["nms_iou is 1.5", "less than or equal to 1"]),
        (["--set", "decode=mode"], ["decode is 'mode'", "local_peak"]),
        (["--set", "image_size=[100, 200]"], ["the longest side comes first"]),
        (["--set", "max_dets=ten"], ["max_dets is 'ten'"]),
        (["--set", "decode"], ["KEY=VALUE"]),
        (["--set", "image_size=[1"], ["no YAML value"]),
        (["--set", "max_dets=1", "--set", "max_dets=2"], ["given twice"]),
        (["--limit", "0"], ["--limit"]),
        (["--data", "."], ["--data goes with a weights file"]),
        (["--profile", "desk"], ["--profile goes with a weights file"]),
    ],
)
def test_wrong_options_are_one_message(cli: Cli, general: TrialDir, arguments: list[str], words: list[str]) -> None:
    code, out, err = cli(general.id, *arguments)
    assert code == 2 and out == "" and all(word in err for word in words), err


def test_no_such_trial_and_an_ambiguous_one(cli: Cli, general: TrialDir, tmp_path: Path) -> None:
    missing = "0" * 12 if general.id[0] != "0" else "1" * 12
    code, _, err = cli(missing)
    assert code == 2 and f"no trial's id begins with {missing}" in err and "gfl-lab status" in err
    code, _, err = cli("table3")
    assert code == 2 and "neither a trial's id nor a file" in err
    tree = RunTree(tmp_path)
    for name in ("abc000000001", "abc000000002", "abd000000000"):
        write_json(tree.trial(name).file(naming.MANIFEST), {})
    assert find_trial(tree, "abd").id == "abd000000000"
    with pytest.raises(InputError, match="2 trials begin with abc: abc000000001, abc000000002"):
        find_trial(tree, "abc")


@pytest.mark.parametrize(("status", "words"), [("failed", "failed"), ("interrupted", "was interrupted"), (None, "was interrupted")])
def test_an_unfinished_trial_names_the_command(
    cli: Cli, general: TrialDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None, words: str
) -> None:
    copy = altered(general, tmp_path, monkeypatch)
    if status:
        write_json(copy.file(naming.RESULT), {"format": 1, "trial": copy.id, "status": status})
    else:
        copy.file(naming.RESULT).unlink()
    for what in (copy.id, copy.file(naming.LAST_CHECKPOINT)):
        code, _, err = cli(what)
        assert code == 2 and f"trial {copy.id} {words}" in err and "gfl-lab run EXPERIMENT" in err


def test_the_command_is_that_of_the_trials_experiment(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.fake_runs import write_fake_tree

    tree = write_fake_tree(tmp_path, states="interrupted")
    monkeypatch.setenv("GFL_LAB_HOME", str(tmp_path))
    code, _, err = cli(tree.trials()[0].id)
    assert code == 2 and "was interrupted" in err and re.search(r"gfl-lab run \w+ --profile desk --seeds 0$", err.strip())


def test_a_running_trial_is_waited_for(cli: Cli, general: TrialDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = altered(general, tmp_path, monkeypatch)
    copy.take_lease()
    code, _, err = cli(copy.id)
    assert code == 2 and "still being trained" in err


def test_damaged_run_directories(cli: Cli, general: TrialDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = altered(general, tmp_path, monkeypatch)
    path, manifest = copy.file(naming.LAST_CHECKPOINT), raw_manifest(copy)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:40], b"", b"no weights"):
        path.write_bytes(content)
        code, _, err = cli(copy.id)
        assert code == 2 and str(path) in err
    path.unlink()
    assert cli(copy.id)[0] == 2
    path.write_bytes(whole)

    gone = manifest | {"paths": manifest["paths"] | {"val_images": str(tmp_path / "gone")}}
    for content, words in (
        (gone, "gone does not exist"),
        (manifest | {"spec": {}}, "settings"),
        ({"format": 1, "spec": manifest["spec"]}, "has no paths of the data"),
        (manifest | {"format": 99}, "format 99"),
    ):
        write_json(copy.file(naming.MANIFEST), content)
        code, _, err = cli(copy.id)
        assert code == 2 and words in err, err


def test_validation_data_that_changed_or_lost_an_image(
    cli: Cli, general: TrialDir, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = altered(general, tmp_path, monkeypatch)
    images = tmp_path / "images"
    found = coco.find_dataset(shapes)
    content = json.loads(found.val_annotations.read_text())
    shutil.copytree(found.val_images, images)
    manifest = raw_manifest(copy)
    manifest["paths"] |= {"val_images": str(images), "val_annotations": str(tmp_path / "val.json")}
    write_json(copy.file(naming.MANIFEST), manifest)
    write_json(tmp_path / "val.json", content)
    lost = images / max(content["images"], key=lambda image: image["id"])["file_name"]
    lost.unlink()
    code, _, err = cli(copy.id)
    assert code == 2 and f"{lost} cannot be read" in err
    content["categories"][0]["name"] = "another"
    write_json(tmp_path / "val.json", content)
    code, _, err = cli(copy.id)
    assert code == 2 and "is not what it was" in err


def test_weights_that_do_not_fit(cli: Cli, general: TrialDir, imported: Path, shapes: Path, tmp_path: Path) -> None:
    whole, path = load_safely(imported), tmp_path / "weights.pth"
    state, meta = whole["state_dict"], whole["meta"]
    first = next(iter(state))
    del_first = {key: value for key, value in state.items() if key != first}
    last = load_safely(general.file(naming.LAST_CHECKPOINT))
    for content, words in (
        ({"state_dict": state, "meta": meta | {"num_classes": 80}}, f"have 80 classes, and the data set {shapes} has 3 categories"),
        ({"state_dict": del_first, "meta": meta}, f"1 missing (first: {first})"),
        ({"state_dict": state | {"more": torch.zeros(1)}, "meta": meta}, "1 left over (first: more)"),
        ({"state_dict": state | {first: torch.zeros(1)}, "meta": meta}, f"1 of another shape (first: {first})"),
        ({"state_dict": state, "meta": meta | {"settings": {"reg_max": 0}}}, "reg_max is 0"),
        ({"state_dict": state, "meta": meta | {"settings": 3}}, "has no settings"),
        ({"state_dict": state, "meta": meta | {"kind": "backbone"}}, "holds a backbone, not a detector"),
        ({"state_dict": state, "meta": meta | {"format": 99}}, "format 99"),
        ({"state_dict": del_first}, "not a whole one"),
        (del_first, "not a whole one"),
        ({"state_dict": {"a": torch.zeros(1)}}, "of no known detector or backbone"),
        ({"state_dict": {"a": 1}, "meta": meta}, "entries that are no weights"),
        (last, "a trial's checkpoint holds no settings"),
        ([1, 2], "not a dictionary"),
    ):
        torch.save(content, path)
        code, out, err = cli(path, "--data", shapes, "--profile", "smoke")
        assert code == 2 and out == "" and words in err, err
    code, _, err = cli(path)
    assert code == 2 and "Give --data PATH" in err
    code, _, err = cli(imported, "--data", tmp_path / "nowhere")
    assert code == 2 and "does not exist" in err
    code, _, err = cli(imported, "--data", shapes, "--profile", "smokey")
    assert code == 2 and "Did you mean 'smoke'" in err
    code, _, err = cli(tmp_path / "nowhere.pth", "--data", shapes)
    assert code == 2 and "does not exist" in err


def test_a_trials_file_on_data_with_other_classes(cli: Cli, general: TrialDir, shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(shapes, folder)
    (folder / "dataset.json").unlink()
    for path in (folder / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        content["categories"][0]["name"] = "another"
        path.write_text(json.dumps(content))
    code, _, err = cli(general.file(naming.LAST_CHECKPOINT), "--data", folder)
    assert code == 2 and "in the weights and another in the data set" in err


# --- latency --------------------------------------------------------------------------------------


def test_a_latency_is_the_median_over_fifty_images_after_five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of ``latency.py`` as the warm-up knows them: tests of whole trials measure fewer images."""
    monkeypatch.setattr(latency, "WARMUP_IMAGES", warmup.WARMUP_IMAGES)
    monkeypatch.setattr(latency, "MEASURED_IMAGES", warmup.MEASURED_IMAGES)
    monkeypatch.setattr(latency.torch, "get_num_threads", lambda: 1)
    clock = {"now": 0.0}
    monkeypatch.setattr(latency.time, "thread_time", lambda: clock["now"])
    seen: list[int] = []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def test_step(self, batch: dict[str, list[int]]) -> None:
            seen.extend(batch["inputs"])
            clock["now"] += 0.02 if len(seen) % 2 else 0.06  # as often the one as the other

    found = latency.measure_latency(Model(), [{"inputs": number, "data_samples": None} for number in range(60)], tmp_path / "lock")
    assert seen == [*range(5), *range(50)]
    assert found["latency_ms"] == pytest.approx(40.0) and found["fps"] == pytest.approx(25.0)
