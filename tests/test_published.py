"""Published rows: the facts as in the reference file, each with the variant that runs it or a reason, and `gfl-lab published`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from gfl_lab.errors import SpecError
from gfl_lab.plan.plan import PlanInputs, build_plan
from gfl_lab.plan.published import NO_EXPERIMENT, Candidate, Entry, differences, matching_row, survey
from gfl_lab.session.published_rows import survey_folders
from gfl_lab.spec.file_models import PublishedRow, PublishedTable
from gfl_lab.spec.files import load_experiment, load_profile, load_published, resolve_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import DataSpec
from gfl_lab.zoo.resolve import complete
from tests.support import DATA
from tests.support.cli import Cli, runner

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
REFERENCE = DATA / "published" / "reference.yaml"
COCO = DataSpec(name="coco", digest="1" * 16, classes=tuple(map(str, range(80))), train_images=117_266, val_images=5000)
TABLES = {path.stem: load_published(path.stem, [path.parent]) for path in sorted((EXPERIMENTS / "published").glob("*.yaml"))}
RENEW = "renew the counts with: uv run python -m tests.test_published"
SIZE_KEYS = {"APs": "AP_S", "APm": "AP_M", "APl": "AP_L"}


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return survey_folders([EXPERIMENTS], print)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return yaml.load(REFERENCE.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


# --- facts ----------------------------------------------------------------------------------------


def test_no_published_number_is_lost_changed_or_invented(reference: dict[str, Any]) -> None:
    def row(name: str, metrics: dict[str, Any], evidence: str) -> tuple[Any, ...]:
        return name, {SIZE_KEYS.get(key, key): value for key, value in metrics.items()}, evidence

    theirs = {
        table["id"]: (
            table["title"], table["source"], table["split"], table["evidence"], table.get("training", ""),
            [row(r["name"], r["metrics"], r.get("evidence", "")) for r in table["rows"]],
        )
        for table in reference["tables"]
    }  # fmt: skip
    ours = {
        table.id: (
            table.title, table.source, table.split, table.evidence, table.training, [row(r.name, r.metrics, r.evidence) for r in table.rows],
        )
        for table in TABLES.values()
    }  # fmt: skip
    assert ours.keys() == theirs.keys()
    for table_id in ours:
        assert ours[table_id] == theirs[table_id], table_id


def test_rows_that_cannot_run_keep_the_sources_words(reference: dict[str, Any]) -> None:
    theirs = {(table["id"], row["name"]): row["settings"] for table in reference["tables"] for row in table["rows"]}
    for table in TABLES.values():
        for row in table.rows:
            if row.why_not:
                assert row.settings == theirs[table.id, row.name]


def _claims(source: dict[str, Any], ours: Settings) -> dict[str, tuple[Any, Any]]:
    """Return a source's row in its own words beside our settings: {word: (theirs, ours)}."""
    schedules = {"1x": 12, "2x": 24, "3x": 36}
    said: dict[str, tuple[Any, Any]] = {}

    def claim(word: str, mine: Any) -> None:
        if source.get(word) is not None:
            said[word] = (source[word], mine)

    dcn = "" if ours.dcn == "none" else "-dcn"
    claim("backbone", re.sub(r"vd$", "-vd", ours.backbone) + dcn)
    claim("schedule", ours.schedule)
    claim("epochs", schedules[ours.schedule])
    claim("multiscale_train", ours.scale_range != (1.0, 1.0))
    claim("dcn_stages", ours.dcn_stages)
    claim("qfl", ours.qfl)
    claim("dfl", ours.dfl)
    claim("beta", ours.qfl_beta)
    claim("reg_max", ours.reg_max)
    claim("delta", ours.bin_width)
    claim("box_distribution", ours.box)
    claim("dgqp", ours.quality == "dgqp")
    claim("dgqp_topk", ours.dgqp_topk)
    claim("dgqp_hidden", ours.dgqp_channels)
    claim("dgqp_mean", ours.dgqp_mean)
    claim("dgqp_var", ours.dgqp_variance)
    claim("dgqp_input_dim", 4 * (ours.dgqp_topk + ours.dgqp_mean + ours.dgqp_variance))
    claim("joint_form", ours.dgqp_form)
    claim("batch_size", ours.batch_size)
    claim("ema", ours.ema_decay > 0)
    if "images_per_gpu" in source and "gpus" in source:
        said["batch"] = (source["images_per_gpu"] * source["gpus"], ours.batch_size)
    if source.get("teacher"):
        teacher = resolve_settings(ours.teacher)
        said["teacher"] = (source["teacher"], teacher.backbone + ("" if teacher.dcn == "none" else "-dcn"))
        said["distillation"] = ("ld", ours.distillation)
    if source.get("detector") == "fcos":
        said["assigner"] = ("fcos", ours.assigner)
    if source.get("detector") in ("gfl", "gflv2"):
        said["quality"] = ({"gfl": "joint", "gflv2": "dgqp"}[source["detector"]], ours.quality)
    if "quality_representation" in source and source["quality_measure"]:
        measure = source["quality_measure"]
        said["quality"] = (
            {"separate": measure, "implicit": f"{measure}_guided", "joint": "joint"}[source["quality_representation"]],
            ours.quality,
        )
    elif "quality_representation" in source:
        said["quality"] = ("none", ours.quality)
    elif "quality_measure" in source:
        said["quality"] = (source["quality_measure"], ours.quality)
    return said


def test_our_settings_say_what_the_source_says(reference: dict[str, Any]) -> None:
    checked = 0
    for theirs in reference["tables"]:
        table = TABLES[theirs["id"]]
        for source, row in zip(theirs["rows"], table.rows, strict=True):
            if not row.why_not and "detector" not in row.settings:  # configs are read in test_published_configs.py
                claims = _claims(source["settings"], resolve_settings(table.settings, row.settings))
                for word, (said, mine) in claims.items():
                    assert said == mine, (table.id, row.name, word)
                checked += len(claims)
    assert checked > 300


TRAINING_WORDS = {
    "lr": "lr", "weight_decay": "weight_decay", "optimizer": "optimizer", "batch_size": "batch_size", "bias_lr_mult": "bias_lr_mult", "warmup_iters": "warmup_iters",
    "warmup_ratio": "warmup_start_factor", "assigner_topk": "atss_topk", "qfl_beta": "qfl_beta", "reg_max": "reg_max", "dfl_loss_weight": "dfl_weight",
    "giou_loss_weight": "box_loss_weight", "score_threshold": "score_thr", "nms_iou_threshold": "nms_iou", "pre_nms_topk_per_level": "nms_pre",
    "max_detections_per_image": "max_dets", "flip_prob": "flip_prob", "size_divisor": "pad_to", "dgqp_topk": "dgqp_topk", "dgqp_hidden": "dgqp_channels",
    "dgqp_mean": "dgqp_mean", "anchor_scale": "anchor_scale", "head_convs": "head_convs", "head_channels": "head_channels", "schedule": "schedule",
}  # fmt: skip
OWN_AXIS = {"gfl_t1c_qfl_beta": {"qfl_beta"}, "gfl_t2b_dfl_n": {"reg_max"}, "gflv2_input_statistics": {"dgqp_topk", "dgqp_mean"}}
"""Words of the training that a table's rows vary."""


def test_the_training_of_a_row_is_the_sources(reference: dict[str, Any]) -> None:
    trainings = {training["id"]: training["values"] for training in reference["training_settings"]}
    for table in TABLES.values():
        values = trainings.get(table.training, {})
        for row in table.rows:
            if row.why_not or "detector" in row.settings:  # a config's own training is its own
                continue
            ours = resolve_settings(table.settings, row.settings)
            for word, key in TRAINING_WORDS.items():
                if word in values and key not in OWN_AXIS.get(table.id, ()):
                    assert getattr(ours, key) == values[word], (table.id, row.name, key)
            if "gpus" in values:
                assert ours.batch_size == values["gpus"] * values["images_per_gpu"]
            if ours.scale_range != (1.0, 1.0) and "multiscale_train_short_side" in values:
                assert [800 * part for part in ours.scale_range] == pytest.approx(values["multiscale_train_short_side"])
            epochs = {"1x": 12, "2x": 24, "3x": 36}[ours.schedule]
            drops = values.get(f"lr_steps_{ours.schedule}", values.get("lr_steps"))
            if drops:
                assert [round(part * epochs) for part in ours.lr_steps] == drops
            assert ours.init_weights == "pretrained" and ours.base_batch_size == 16


def test_rows_of_a_table_can_be_told_apart() -> None:
    for table in TABLES.values():
        assert len({row.name for row in table.rows}) == len(table.rows)
        runnable = [json.dumps(row.settings, sort_keys=True) for row in table.rows if not row.why_not]
        assert len(set(runnable)) == len(runnable), table.id
        for row in table.rows:
            if not row.why_not:
                assert matching_row(resolve_settings(table.settings, row.settings), table) == row


# --- who runs what --------------------------------------------------------------------------------


def test_every_row_is_run_or_has_a_reason(entries: list[Entry]) -> None:
    assert [(entry.table.id, entry.row.name) for entry in entries] == [
        (table.id, row.name) for table in TABLES.values() for row in table.rows
    ]
    for entry in entries:
        assert entry.runnable != bool(entry.row.why_not), (entry.table.id, entry.row.name, entry.why_not)
        assert entry.why_not != NO_EXPERIMENT
    assert sum(entry.runnable for entry in entries) == 185


def test_a_runnable_row_is_in_the_papers_setting_on_coco(entries: list[Entry]) -> None:
    """Under coco_config no setting differs from the row's; what stands in the way of a comparison is the split or the source."""
    profile = load_profile(EXPERIMENTS / "profiles" / "coco_config.yaml")
    plans = {}
    for entry in entries:
        if not entry.runnable:
            continue
        if entry.experiment not in plans:
            experiment, _ = load_experiment(EXPERIMENTS / f"{entry.experiment}.yaml")
            plans[entry.experiment] = build_plan(experiment, profile, COCO, PlanInputs(published=entry.table, complete=complete))
        variant = next(variant for variant in plans[entry.experiment].variants if variant.name == entry.variant)
        assert variant.reference.row == entry.row.name
        assert "other settings" not in variant.reference.why_not and "other data" not in variant.reference.why_not
        assert ("other images" in variant.reference.why_not) == (entry.table.split == "coco_test-dev")
        said = entry.table.differs or entry.row.differs
        assert variant.reference.comparable == (entry.table.split == "coco_minival" and not said)


def _table(*rows: PublishedRow, **content: Any) -> PublishedTable:
    return PublishedTable(id="t", title="", source="", split="coco_minival", rows=list(rows), **content)


def _row(name: str, why_not: str = "", **settings: Any) -> PublishedRow:
    return PublishedRow(name=name, settings=settings, metrics={"AP": 40.0}, why_not=why_not)


def test_the_row_that_states_most_is_the_one() -> None:
    table = _table(
        _row("any GFL", quality="joint"),
        _row("8 bins", quality="joint", reg_max=8),
        _row("FCOS", "other", quality="joint", reg_max=8, lr=0.01),
    )
    assert matching_row(Settings(), table).name == "any GFL"
    assert matching_row(Settings(reg_max=8), table).name == "8 bins"
    assert matching_row(Settings(quality="centerness"), table) is None
    assert matching_row(Settings(scale_range=(0.6, 1.0)), _table(_row("ms", scale_range=[0.6, 1.0]))).name == "ms"
    assert matching_row(Settings(), _table(_row("unknown word", architecture="gfl"))) is None


def test_differences_are_told_against_the_row_over_its_table_over_the_defaults() -> None:
    table = _table(_row("r18", backbone="r18"), settings={"init_weights": "pretrained", "epochs": 24})
    same = Settings(backbone="r18", init_weights="pretrained", epochs=24)
    assert differences(same, table, table.rows[0]) == []
    other = Settings(backbone="r18", init_weights="pretrained", dfl_weight=1.0, score_thr=0.1)
    assert differences(other, table, table.rows[0]) == ["dfl_weight", "epochs", "score_thr"]


RETINANET = "mmdet:retinanet_r50_fpn_1x_coco"


def test_a_row_of_an_mmdet_detector_is_told_by_its_name_and_by_every_change_of_its_model() -> None:
    gamma = "cfg_options.model.bbox_head.loss_cls.gamma"
    table = _table(_row("GFL", quality="joint"), _row("RetinaNet", detector=RETINANET), _row("gamma 1", detector=RETINANET, **{gamma: 1.0}))
    assert matching_row(Settings(detector=RETINANET), table).name == "RetinaNet"
    assert matching_row(Settings(**{"detector": RETINANET, gamma: 1.0}), table).name == "gamma 1"
    assert matching_row(Settings(**{"detector": RETINANET, gamma: 1.5}), table) is None, "it is a RetinaNet of another kind"
    assert matching_row(Settings(detector="mmdet:fcos_r50-caffe_fpn_gn-head_1x_coco"), table) is None
    longer = Settings(**{"detector": RETINANET, "recipe": "config", "cfg_options.train_cfg.max_epochs": 24})
    assert matching_row(longer, table).name == "RetinaNet", "the same detector, trained otherwise"


def test_differences_of_an_mmdet_detector_are_its_recipe_and_the_settings_that_act_beside_it() -> None:
    table = _table(_row("RetinaNet", detector=RETINANET), settings={"recipe": "config", "init_weights": "pretrained", "lr": 0.01})

    def told(**own: Any) -> list[str]:
        return differences(
            Settings(**{"detector": RETINANET, "recipe": "config", "init_weights": "pretrained", **own}), table, table.rows[0]
        )

    assert told() == []
    assert told(lr=0.02, reg_max=8, dcn="v1", score_thr=0.1, image_size=(640, 480)) == [], "the config's own hold in their place"
    assert told(recipe="profile", lr=0.02, epochs=3) == ["recipe"]
    assert told(init_weights="random", precision="bfloat16", ema_decay=0.99) == ["init_weights", "ema_decay", "precision"]
    longer = {"cfg_options.train_cfg.max_epochs": 24, "cfg_options.param_scheduler.1.end": 24}
    assert told(**longer) == ["cfg_options.param_scheduler.1.end", "cfg_options.train_cfg.max_epochs"]


def test_the_recipe_of_a_table_is_nothing_to_a_detector_of_the_gfl_family() -> None:
    table = _table(_row("GFL", quality="joint"), settings={"recipe": "config"})
    assert differences(Settings(), table, table.rows[0]) == []


def test_inactive_settings_do_not_differ() -> None:
    table = _table(_row("ATSS", box="dirac"))
    assert differences(Settings(box="dirac", reg_max=8, dfl_weight=1.0, bin_width=2.0), table, table.rows[0]) == []


def test_a_row_with_a_teacher_is_told_by_the_teacher_and_differs_in_what_it_was_trained_with() -> None:
    table = _table(
        _row("from r101", distillation="ld", backbone="r18", teacher={"backbone": "r101", "schedule": "2x"}), settings={"batch_size": 8}
    )

    def student(**teacher: Any) -> Settings:
        return Settings(distillation="ld", backbone="r18", batch_size=8, teacher=teacher)

    same = student(backbone="r101", schedule="2x", batch_size=8)
    assert matching_row(same, table).name == "from r101" and differences(same, table, table.rows[0]) == []
    assert matching_row(student(backbone="r101"), table) is None
    assert matching_row(student(backbone="r50", schedule="2x"), table) is None
    assert matching_row(same.model_copy(update={"distillation": "none"}), table) is None
    assert differences(student(backbone="r101", schedule="2x", lr=0.02), table, table.rows[0]) == ["teacher.batch_size", "teacher.lr"]


def test_what_a_row_alone_was_made_with_is_told() -> None:
    row = PublishedRow(name="old", settings={}, metrics={"AP": 40.0}, differs="the source trained on half of the images")
    experiment, _ = load_experiment(EXPERIMENTS / "table3_qfl_dfl.yaml")
    plan = build_plan(experiment, load_profile(EXPERIMENTS / "profiles" / "coco_1x.yaml"), COCO, PlanInputs(published=_table(row)))
    reference = plan.variants[-1].reference
    assert not reference.comparable and reference.why_not.endswith("the source trained on half of the images")


def test_the_first_variant_that_matches_is_named_and_only_with_its_own_table() -> None:
    table = _table(_row("GFL", quality="joint"), _row("ATSS", quality="centerness"), _row("FCOS", "another detector", detector="fcos"))
    candidates = [
        Candidate("elsewhere", "other table", "v0", Settings()),
        Candidate("first", "t", "v1", Settings()),
        Candidate("second", "t", "v2", Settings()),
    ]
    found = survey([table], candidates)
    assert [(entry.experiment, entry.variant, entry.why_not) for entry in found] == [
        ("first", "v1", ""),
        (None, None, NO_EXPERIMENT),
        (None, None, "another detector"),
    ]
    assert [entry.runnable for entry in found] == [True, False, False]


def test_a_published_file_of_the_users_is_checked(tmp_path: Path) -> None:
    head = "id: mine\ntitle: t\nsource: s\nsplit: coco_minival\n"
    (tmp_path / "mine.yaml").write_text(head + "rows:\n  - {name: a, settings: {backbon: r50}, metrics: {AP: 1.0}}\n")
    with pytest.raises(SpecError, match="mine.yaml:6.*backbon"):
        load_published("mine", [tmp_path])
    (tmp_path / "mine.yaml").write_text(head + "settings: {reg_max: 0}\nrows: []\n")
    with pytest.raises(SpecError, match="reg_max"):
        load_published("mine", [tmp_path])
    (tmp_path / "mine.yaml").write_text(head.replace("mine", "yours") + "rows: []\n")
    with pytest.raises(SpecError, match="must agree"):
        load_published("mine", [tmp_path])
    (tmp_path / "mine.yaml").write_text(head + "rows:\n  - {name: a, settings: {detector: fcos}, metrics: {AP: 1.0}, why_not: No.}\n")
    assert load_published("mine", [tmp_path]).rows[0].settings == {"detector": "fcos"}


# --- the command -------------------------------------------------------------------------------------


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)

    return runner(monkeypatch, capsys, "published")


def test_json_has_every_row(cli: Cli, entries: list[Entry]) -> None:
    code, out, err = cli("--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and not err and len(rows) == len(entries)
    for row in rows:
        assert {"table", "settings", "metrics", "runnable", "experiment", "variant", "why_not", "source", "split", "evidence"} <= row.keys()
        assert (row["experiment"] is not None) == (row["variant"] is not None) == row["runnable"] == (row["why_not"] == "")
    gfl = next(row for row in rows if row["table"] == "gfl_t3_qfl_dfl" and row["row"] == "QFL + DFL (GFL)")
    assert (gfl["experiment"], gfl["variant"], gfl["metrics"]["AP"]) == ("table3_qfl_dfl", "qfl=on dfl=on", 40.2)


def test_the_list_names_experiments_reasons_and_the_count(cli: Cli, entries: list[Entry]) -> None:
    code, out, _ = cli()
    assert code == 0 and out.rstrip().splitlines()[-1] == f"{count_of(entries)} published rows can be run"
    assert re.search(r"ATSS / IoU guided +38\.9 +table1a_quality: quality=iou_guided", out)
    assert re.search(r"\n {0,}atss +\+1\.9 +gflv2_integration: ATSS \+ GFLv2", out)
    assert re.search(r"IoU label +- +It is a statistic", out)


def test_the_list_can_be_narrowed_and_still_counts_all(cli: Cli, entries: list[Entry]) -> None:
    _, out, _ = cli("--table", "paddledet_gfl_zoo", "--runnable")
    assert "zoo_paddledetection: gflv2 r50 1x" in out and "CWD" not in out and "mmdet" not in out and count_of(entries) in out
    assert [row["row"] for row in json.loads(cli("--table", "mmdet_baselines_zoo", "--runnable", "--json")[1])["rows"]] == [
        row.name for row in TABLES["mmdet_baselines_zoo"].rows if not row.why_not
    ]
    code, _, err = cli("--table", "gfl_t3")
    assert code == 2 and "gfl_t3_qfl_dfl" in err


def test_a_published_table_is_its_file_and_an_experiment_and_a_broken_one_is_left_out(
    cli: Cli, entries: list[Entry], tmp_path: Path
) -> None:
    folder = tmp_path / "experiments"
    (folder / "published").mkdir(parents=True)
    (folder / "published" / "ours_2025.yaml").write_text(
        "id: ours_2025\ntitle: our last year's\nsource: internal\nsplit: coco_minival\n"
        "rows:\n  - {name: wide, settings: {reg_max: 24}, metrics: {AP: 41.0}}\n  - {name: lost, settings: {reg_max: 25}, metrics: {}}\n"
    )
    (folder / "wide.yaml").write_text("name: wide\nprofile: desk\naxes: {reg_max: [16, 24]}\npublished_table: ours_2025\n")
    (folder / "broken.yaml").write_text("name: broken\n")
    code, out, err = cli("--table", "ours_2025")
    assert code == 0 and "broken.yaml is left out" in err
    assert re.search(r"wide +41\.0 +wide: reg_max=24", out) and re.search(r"lost +- +No experiment", out)
    running = sum(entry.runnable for entry in entries)
    assert out.rstrip().endswith(f"{running + 1} of {len(entries) + 2} published rows can be run")


def test_it_needs_no_torch_and_no_data(entries: list[Entry], tmp_path: Path) -> None:
    program = (
        "import sys; from gfl_lab.cli.main import main; sys.argv = ['gfl-lab', 'published', '--json']; main(); "
        "assert not {'torch', 'mmdet', 'mmengine', 'ray', 'mlflow', 'pandas'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == len(entries) and list(tmp_path.iterdir()) == []


# --- what the documents say -----------------------------------------------------------------------


def count_of(entries: list[Entry]) -> str:
    return f"{sum(entry.runnable for entry in entries)} of {len(entries)}"


def reasons_of(entries: list[Entry]) -> Counter[str]:
    return Counter(re.sub(r" \(.*?\)", "", entry.why_not) for entry in entries if not entry.runnable)


def test_the_readme_has_the_count(entries: list[Entry]) -> None:
    text = (ROOT / "README.md").read_text()
    assert f"{count_of(entries)} published rows" in text and text == renewed(text, entries), RENEW


def test_the_document_counts_rows_and_reasons_and_names_the_experiments(entries: list[Entry]) -> None:
    text = (ROOT / "docs" / "published-tables.md").read_text()
    assert f"{count_of(entries)} published rows" in text and text == renewed(text, entries), RENEW
    assert all(f"| {reason} | {count} |" in text for reason, count in reasons_of(entries).items())
    assert all(f"`{entry.experiment}`" in text for entry in entries if entry.runnable)


def test_counts_are_renewed(entries: list[Entry]) -> None:
    text = (ROOT / "docs" / "published-tables.md").read_text()
    assert renewed(re.sub(r"(\| |: )\d+ of \d+ (\||published)", r"\g<1>7 of 9 \2", text), entries) == text
    assert renewed(text.replace("| rows |\n| --- | --- |\n", "| rows |\n| --- | --- |\n| It is too slow. | 3 |\n"), entries) == text


def renewed(document: str, entries: list[Entry]) -> str:
    """Return a document with the numbers of rows that run: of all tables, of each with its experiments, and of each reason why one does not."""
    document = re.sub(r"\d+ of \d+ published rows", f"{count_of(entries)} published rows", document)
    hidden = sum(entry.runnable and "test-dev" in entry.table.split for entry in entries)
    document = re.sub(r"\d+ rows are of test-dev", f"{hidden} rows are of test-dev", document)
    for table in TABLES.values():
        mine = [entry for entry in entries if entry.table.id == table.id]
        names = ", ".join(dict.fromkeys(f"`{entry.experiment}`" for entry in mine if entry.runnable)) or "none"
        document = re.sub(
            rf"^(\| `{table.id}` \| ).*? \| \d+ of \d+ \|", rf"\g<1>{names} | {count_of(mine)} |", document, flags=re.MULTILINE
        )
    reasons = "".join(f"| {reason} | {count} |\n" for reason, count in reasons_of(entries).most_common())
    return re.sub(r"(\| reason \| rows \|\n\| --- \| --- \|\n)(?:\|.*\n)*", lambda found: found[1] + reasons, document)


if __name__ == "__main__":
    found = survey_folders([EXPERIMENTS], print)
    for name in ("README.md", "docs/published-tables.md"):
        (ROOT / name).write_text(renewed((ROOT / name).read_text(), found))
