"""A plausible run tree in the on-disk format, made in under a second without training anything.

The numbers are invented and only for tests: shapes, keys and file formats are those of real trials (gfl_lab/rundir.py).
Images are really drawn, and boxes and distributions belong to what is drawn, so that pages over the tree can be looked at.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from gfl_lab import naming
from gfl_lab.integrity.file_checks import recomputed_ap
from gfl_lab.metrics.coco_ap import resample
from gfl_lab.metrics.coco_matching import match
from gfl_lab.metrics.coco_records import Records
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.lease import write_lease
from gfl_lab.rundir import RunTree, TrialDir, TrialState
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.trial import TRAINING_CODE_VERSION, DataSpec, TrialSpec

SIZE = 128  # px, side of an image
STRIDE = 8
CLASSES = ("disc", "block", "wedge")
HOSTILE_CLASSES = ("<script>alert(1)</script>", "**x**", '"><img src=x onerror=alert(2)> $a$ :red[b] [c](http://d)')
HOSTILE_TEXT = "<script>alert(3)</script> **x** $y$ `z` :smile: [l](http://m) <b>n</b>"
KINDS = ("translucent", "blurred", "occluded")

VARIANTS = ({"qfl": False, "dfl": False}, {"qfl": True, "dfl": False}, {"qfl": False, "dfl": True}, {"qfl": True, "dfl": True})
PUBLISHED = (
    {"AP": 39.2, "AP50": 57.4, "AP75": 42.2, "fps": 19.4},
    {"AP": 39.9, "AP50": 58.5, "AP75": 43.0, "fps": 19.4},
    {"AP": 39.5, "AP50": 57.3, "AP75": 42.8, "fps": 19.4},
    {"AP": 40.2, "AP50": 58.6, "AP75": 43.4, "fps": 19.4},
)
FINAL_AP = (58.3, 59.4, 60.6, 61.9)

State = TrialState | str
States = State | Sequence[State] | Mapping[int | tuple[int, int], State]


@dataclass(frozen=True)
class _Box:
    """A drawn object: its box (xyxy px), class index, and the second true edge of at most one side."""

    xyxy: tuple[float, float, float, float]
    category: int
    side: int = -1
    kind: str = ""
    edges: tuple[float, float] = (math.nan, math.nan)
    prob_a: float = math.nan


def write_fake_tree(
    root: Path,
    *,
    seeds: Sequence[int] = (0,),
    states: States = TrialState.DONE,
    epochs: int = 8,
    train_images: int = 24,
    val_images: int = 10,
    batch_size: int = 2,
    truth: bool = True,
    hostile: bool = False,
    name: str = "table3_qfl_dfl",
    profile: str = "desk",
    rng_seed: int = 0,
    whole: bool = False,
) -> RunTree:
    """Write an experiment with four variants (neither, QFL, DFL, both; the first is the baseline) under ``root``.

    Args:
        root: the tree; its data set goes to ``root/data``. May hold other experiments already.
        seeds: one trial a variant and seed.
        states: of all trials, of each variant (a sequence of four), or a mapping of variant index or
            ``(variant index, seed)``; what it leaves out is done. A running trial holds a lease of this process, so it
            runs for as long as this process lives.
        truth: whether the data carry true edge distributions.
        hostile: names that are markup, for whoever shows them.
        whole: make the AP of each result the one that its detections give, as `verify` and `doctor` want it.
    """
    tree = RunTree(Path(root))
    rng = np.random.default_rng(rng_seed)
    classes = HOSTILE_CLASSES if hostile else CLASSES
    digest = naming.digest([name, profile, list(classes), train_images, val_images, truth, rng_seed], 16)
    folder = tree.data(f"fake_shapes-{digest}")
    paths, val = _write_data(folder, rng, classes, train_images, val_images, truth, hostile)
    data = DataSpec(
        name="**fake** <i>shapes</i>" if hostile else "ambiguous_shapes",
        digest=digest,
        classes=classes,
        train_images=train_images,
        val_images=val_images,
        truth=truth,
    )

    plan_variants = []
    for index, axes in enumerate(VARIANTS):
        settings = Settings(
            **axes,
            backbone="r18",
            base_channels=24,
            neck_channels=64,
            head_channels=64,
            head_convs=2,
            strides=(8, 16, 32),
            epochs=epochs,
            batch_size=batch_size,
            optimizer="adamw",
            lr=0.002,
            lr_schedule="cosine",
            warmup_iters=10,
            frozen_stages=-1,
            norm_eval=False,
            image_size=(SIZE, SIZE),
        )
        trials = []
        for seed in seeds:
            spec = TrialSpec(settings=settings, data=data, seed=seed, code=TRAINING_CODE_VERSION)
            trials.append({"id": spec.id, "seed": seed})
            _write_trial(tree, spec, paths, val, index, _state(states, index, seed), hostile)
        published = PUBLISHED[index]
        plan_variants.append(
            {
                "name": naming.variant_name(axes),
                "axes": axes,
                "settings": settings.model_dump(mode="json"),
                "baseline": index == 0,
                "reference": {
                    "row": HOSTILE_TEXT if hostile else naming.variant_name(axes),
                    "metrics": published,
                    "source": "arXiv 2006.04388, Table 3",
                    "split": "coco_minival",
                    "comparable": False,
                    "why_not": HOSTILE_TEXT if hostile else "other data: ambiguous_shapes, not COCO; other backbone: r18, not r50",
                },
                "trials": trials,
            }
        )
    plan = {
        "format": naming.FORMAT_VERSION,
        "created": _iso(),
        "experiment": {
            "name": name,
            "question": HOSTILE_TEXT if hostile else "What do QFL and DFL each add to ATSS?",
            "kind": "ablation",
            "source": f"{name}.yaml",
            "axes": {"qfl": [False, True], "dfl": [False, True]},
            "baseline": VARIANTS[0],
            "table": {"metrics": ["AP", "AP50", "AP75", "fps"]},
        },
        "profile": {"name": profile, "title": "<b>desk</b>" if hostile else "two CPU cores, a few minutes"},
        "data": data.model_dump(mode="json"),
        "variants": plan_variants,
    }
    write_json(tree.experiment(name, profile) / naming.PLAN, plan)
    if whole:
        for trial in tree.trials():
            make_whole(trial)
    return tree


def with_needed_trials(tree: RunTree, name: str = "table3_qfl_dfl", profile: str = "desk") -> tuple[str, list[str]]:
    """Make the first variant's trials of a fake tree needed ones: the second variant starts from them, the third learns from the fourth.

    Returns:
        The name of the needed trials, and the ids of the first trial of each of the four.
    """
    file = tree.experiment(name, profile) / naming.PLAN
    plan = read_json(file)
    first, *others = plan["variants"]
    plan["needed"] = [{"name": first["name"], "settings": first["settings"], "data": plan["data"], **trial} for trial in first["trials"]]
    for user, role, source in ((others[0], "init_from", first), (others[1], "teacher", others[2])):
        for trial, needed in zip(user["trials"], source["trials"], strict=True):
            trial["needs"] = {role: needed["id"]}
    plan["variants"] = others
    plan["experiment"]["baseline"] = None
    write_json(file, plan)
    return first["name"], [each["trials"][0]["id"] for each in (first, *others)]


def make_whole(trial: TrialDir) -> None:
    """Make AP, AP50 and AP75 in a finished trial's result what its detections give."""
    if trial.state() is not TrialState.DONE:
        return
    with np.load(trial.file(naming.EVAL_RECORDS)) as arrays:
        ap = recomputed_ap(Records.of(arrays))
    result = read_json(trial.file(naming.RESULT))
    metrics = {key: value for key, value in result["metrics"].items() if key not in ("AP", "AP50", "AP75")}
    metrics = {"AP": ap["AP"], "AP50": ap["AP50"], "AP75": ap["AP75"], **{key: min(99.0, value) for key, value in metrics.items()}}
    write_json(trial.file(naming.RESULT), result | {"metrics": metrics})


def _state(states: States, index: int, seed: int) -> TrialState:
    if isinstance(states, str):
        return TrialState(states)
    if isinstance(states, Mapping):
        return TrialState(states.get((index, seed), states.get(index, TrialState.DONE)))
    return TrialState(states[index])


def _iso(offset: float = 0.0) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + offset))


# --- data -----------------------------------------------------------------------------------------


def _write_data(
    folder: Path, rng: np.random.Generator, classes: Sequence[str], train: int, val: int, truth: bool, hostile: bool
) -> tuple[dict[str, str], list[tuple[int, str, list[_Box]]]]:
    paths: dict[str, str] = {}
    kept: list[tuple[int, str, list[_Box]]] = []
    for split, count in (("train", train), ("val", val)):
        images_dir = folder / split
        images_dir.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for image_id in range(1, count + 1):
            file_name = f"**{image_id:03d}** <b>.png" if hostile else f"{image_id:06d}.png"
            image, boxes = _draw(rng, len(classes))
            image.save(images_dir / file_name)
            images.append({"id": image_id, "file_name": file_name, "width": SIZE, "height": SIZE})
            for box in boxes:
                x1, y1, x2, y2 = box.xyxy
                ambiguity = None
                if box.side >= 0:
                    ambiguity = {"side": box.side, "kind": box.kind, "edges": list(box.edges), "probs": [box.prob_a, 1 - box.prob_a]}
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": box.category + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
                annotations.append(annotation | ({"ambiguity": ambiguity} if truth else {}))
            if split == "val":
                kept.append((image_id, file_name, boxes))
        categories = [{"id": i + 1, "name": n} for i, n in enumerate(classes)]
        file = folder / f"{split}.json"
        write_json(file, {"images": images, "annotations": annotations, "categories": categories})
        paths |= {f"{split}_annotations": str(file), f"{split}_images": str(images_dir)}
    return paths, kept


def _draw(rng: np.random.Generator, n_classes: int) -> tuple[Image.Image, list[_Box]]:
    """An image with one or two objects in clutter; the tail of an ambiguous side is drawn half as dark."""
    shade = rng.integers(150, 215, 3)
    ramp = np.linspace(-18, 18, SIZE)[None, :, None] * rng.choice([-1, 1]) + rng.normal(0, 5, (SIZE, SIZE, 3))
    image = Image.fromarray(np.clip(shade + ramp, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(7):
        draw.line(
            [tuple(map(int, rng.integers(0, SIZE, 2))) for _ in range(2)],
            fill=(*map(int, rng.integers(80, 200, 3)), 110),
            width=int(rng.integers(1, 3)),
        )
    boxes = []
    columns = [(4, 124)] if rng.random() < 0.4 else [(3, 62), (66, 125)]
    for left, right in columns:
        width = int(rng.integers(40, min(76, right - left)))
        height = int(rng.integers(44, 84))
        x1, y1 = int(rng.integers(left, right - width + 1)), int(rng.integers(6, SIZE - 6 - height))
        core = [x1, y1, x1 + width, y1 + height]
        category = int(rng.integers(n_classes))
        side, kind, edges, prob_a = -1, "", (math.nan, math.nan), math.nan
        colour = tuple(map(int, rng.integers(20, 120, 3)))
        outer = list(core)
        if rng.random() < 0.6:
            side, kind = int(rng.integers(4)), str(rng.choice(KINDS))
            tail = int(rng.integers(26, 34))
            outer, inner = list(core), list(core)
            inner[side] += tail if side < 2 else -tail
            prob_a = float(rng.choice([0.35, 0.5, 0.65]))
            edges = (float(inner[side]), float(outer[side]))
            _shape(draw, category, outer, (*colour, 95))
            core = inner
        _shape(draw, category, core, (*colour, 255))
        drawn = list(core)
        if side >= 0:
            drawn[side] = edges[0] if rng.random() < prob_a else edges[1]
        boxes.append(_Box(tuple(map(float, drawn)), category, side, kind, edges, prob_a))
    return image, boxes


def _shape(draw: ImageDraw.ImageDraw, category: int, box: Sequence[float], fill: tuple[int, ...]) -> None:
    if category == 0:
        draw.ellipse(box, fill=fill)
    elif category == 1:
        draw.rectangle(box, fill=fill)
    else:
        x1, y1, x2, y2 = box
        draw.polygon([(x1, y2), ((x1 + x2) / 2, y1), (x2, y2)], fill=fill)


# --- trials ---------------------------------------------------------------------------------------


def _write_trial(
    tree: RunTree,
    spec: TrialSpec,
    paths: dict[str, str],
    val: list[tuple[int, str, list[_Box]]],
    index: int,
    state: TrialState,
    hostile: bool,
) -> None:
    trial = tree.trial(spec.id)
    manifest = {
        "format": naming.FORMAT_VERSION,
        "trial": spec.id,
        "spec": spec.model_dump(mode="json"),
        "paths": paths,
        "created": _iso(-300),
    }
    if state is TrialState.PLANNED:
        return
    write_json(trial.file(naming.MANIFEST), manifest)
    rng = np.random.default_rng([index, spec.seed])
    settings = spec.settings
    per_epoch = math.ceil(spec.data.train_images / settings.batch_size)
    total = per_epoch * settings.epochs
    share = {TrialState.DONE: 1.0, TrialState.RUNNING: 0.55, TrialState.FAILED: 0.4, TrialState.INTERRUPTED: 0.7}[state]
    last = max(1, int(total * share))
    final = FINAL_AP[index] + float(rng.normal(0, 0.4))
    start = time.time() - 0.4 * last
    with trial.file(naming.METRICS_FILE).open("w", encoding="utf-8") as file:
        for step in range(1, last + 1):
            epoch = (step - 1) // per_epoch + 1
            fall = math.exp(-2.2 * step / total)
            terms = {"loss_cls": 0.25 + 0.7 * fall, "loss_bbox": 0.3 + 0.9 * fall}
            if settings.trains_dfl:
                terms["loss_dfl"] = 0.25 + 0.35 * fall
            if not settings.qfl:
                terms["loss_centerness"] = 0.55 + 0.1 * fall
            terms = {key: value * float(rng.lognormal(0, 0.09)) for key, value in terms.items()}
            metrics = {
                "loss": sum(terms.values()),
                **terms,
                "lr": settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total))),
            }
            file.write(_line("train", step, epoch, start + 0.4 * step, metrics))
            if step % per_epoch == 0:
                ap = final * (1 - math.exp(-4.5 * step / total)) / (1 - math.exp(-4.5)) + float(rng.normal(0, 0.5)) * (step < total)
                file.write(_line("val", step, epoch, start + 0.4 * step, {"AP": ap, "AP50": min(99.0, ap * 1.42), "AP75": ap * 1.06}))
    epoch = (last - 1) // per_epoch + 1
    trial.file(naming.LOG).write_text(
        "".join(f"step {s}/{total} loss {1.9 * math.exp(-s / total):.3f}\n" for s in range(1, last + 1))
        + (f"{HOSTILE_TEXT}\n" if hostile else ""),
        encoding="utf-8",
    )
    seconds = {"setup": 1.4, "train": 0.4 * last}
    if state is TrialState.RUNNING:
        trial.take_lease()
        write_lease(trial.file(naming.LEASE), replace(trial.lease(), since=round(start, 3)))
        return
    if state is TrialState.INTERRUPTED:
        write_json(
            trial.file(naming.RESULT),
            {
                "format": naming.FORMAT_VERSION,
                "trial": spec.id,
                "status": "interrupted",
                "seconds": seconds | {"total": sum(seconds.values())},
                "finished": _iso(),
            },
        )
        return
    if state is TrialState.FAILED:
        reason = (
            f"the loss became non-finite at step {last} (epoch {epoch}): loss_dfl=nan; training stopped before the weights were touched."
        )
        failure = {"kind": "non_finite_loss", "reason": HOSTILE_TEXT if hostile else reason, "step": last, "epoch": epoch}
        write_json(
            trial.file(naming.RESULT),
            {
                "format": naming.FORMAT_VERSION,
                "trial": spec.id,
                "status": "failed",
                "failure": failure,
                "seconds": seconds | {"total": sum(seconds.values())},
                "finished": _iso(),
            },
        )
        return
    metrics = {"AP": final, "AP50": final * 1.42, "AP75": final * 1.06, "AP_M": final * 0.97, "AP_L": final * 1.1}
    metrics |= {"fps": 41.0 - 1.5 * settings.trains_dfl + float(rng.normal(0, 0.3))}
    metrics["latency_ms"] = 1000 / metrics["fps"]
    if spec.data.truth:
        metrics |= {
            "two_mode_recall": 0.62 + 0.04 * settings.qfl + float(rng.normal(0, 0.01)) if settings.trains_dfl else 0.0,
            "false_bimodality": 0.03 + float(abs(rng.normal(0, 0.005))) if settings.trains_dfl else 0.0,
            "wasserstein": (0.55 if settings.trains_dfl else 1.35) + float(rng.normal(0, 0.02)),
        }
    seconds |= {"eval": 2.1, "latency": 3.0, "distributions": 0.9}
    write_json(
        trial.file(naming.RESULT),
        {
            "format": naming.FORMAT_VERSION,
            "trial": spec.id,
            "status": "done",
            "metrics": metrics,
            "counts": {"images": len(val), "boxes": sum(len(b) for _, _, b in val)},
            "per_class": {n: final + float(rng.normal(0, 3)) for n in spec.data.classes},
            "epochs": settings.epochs,
            "steps": total,
            "seconds": seconds | {"total": sum(seconds.values())},
            "peak_memory_mib": 812,
            "device": "cpu",
            "finished": _iso(),
        },
    )
    _write_distributions(trial.file(naming.DISTRIBUTIONS), rng, spec, val)


def _line(kind: str, step: int, epoch: int, when: float, metrics: dict[str, float]) -> str:
    return (
        json.dumps({"kind": kind, "step": step, "epoch": epoch, "time": round(when, 3), "metrics": metrics}, separators=(",", ":")) + "\n"
    )


# --- distributions --------------------------------------------------------------------------------

_INT32 = ("level", "stride", "bins", "ambiguous_side")
_INT64 = ("image_id", "annotation_id", "category_id")
_TEXT = ("file_name", "category", "ambiguity")
_LISTS = ("probs", "expectation", "target")
COLUMNS = (
    "image_id file_name annotation_id category_id category gt_x1 gt_y1 gt_x2 gt_y2 level stride cell_x cell_y scale_x scale_y "
    "score cell_x1 cell_y1 cell_x2 cell_y2 cell_iou det_score det_iou det_x1 det_y1 det_x2 det_y2 bins bin_width probs "
    "expectation target ambiguous_side ambiguity edge_a edge_b prob_a scored"
).split()


def _arrow_type(column: str) -> pa.DataType:
    if column in _INT64:
        return pa.int64()
    if column in _INT32:
        return pa.int32()
    if column in _TEXT:
        return pa.string()
    if column in _LISTS:
        return pa.list_(pa.float32())
    return pa.bool_() if column == "scored" else pa.float32()


SCHEMA = pa.schema([(column, _arrow_type(column)) for column in COLUMNS])


def _write_distributions(path: Path, rng: np.random.Generator, spec: TrialSpec, val: list[tuple[int, str, list[_Box]]]) -> None:
    rows: list[dict[str, Any]] = []
    annotation_id = 0
    for image_id, file_name, boxes in val:
        for box in boxes:
            annotation_id += 1
            rows.append(_box_row(rng, spec, image_id, file_name, annotation_id, box))
        if rng.random() < 0.3:
            rows.append(_false_positive(rng, spec, image_id, file_name))
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    _write_records(path.parent / naming.EVAL_RECORDS, rows, [image_id for image_id, _, _ in val], spec.data.classes)


def _write_records(path: Path, rows: list[dict[str, Any]], images: list[int], classes: Sequence[str]) -> None:
    """The kept detections of the rows, and their boxes, as an evaluation's records."""

    def columns(prefix: str, kept: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        box = np.array([[row[f"{prefix}_{part}"] for part in ("x1", "y1", "x2", "y2")] for row in kept], float).reshape(-1, 4)
        return np.array([row["image_id"] for row in kept], int), np.array([row["category_id"] - 1 for row in kept], int), box

    found = [row for row in rows if math.isfinite(row["det_score"])]
    truth = [row for row in rows if row["annotation_id"] >= 0]
    det_image, det_label, det_box = columns("det", found)
    gt_image, gt_label, gt_box = columns("gt", truth)
    records = Records(
        image_ids=np.array(images), det_image=det_image, det_label=det_label, det_score=np.array([row["det_score"] for row in found], float),
        det_box=det_box, gt_image=gt_image, gt_label=gt_label, gt_area=(gt_box[:, 2:] - gt_box[:, :2]).prod(1),
        gt_crowd=np.zeros(len(truth), bool), gt_id=np.array([row["annotation_id"] for row in truth], int), gt_box=gt_box, classes=tuple(classes),
    )  # fmt: skip
    np.savez_compressed(path, format=naming.FORMAT_VERSION, resampled=resample(match(records), 50), **records.arrays())


def _box_row(rng: np.random.Generator, spec: TrialSpec, image_id: int, file_name: str, annotation_id: int, box: _Box) -> dict[str, Any]:
    dfl, n = spec.settings.trains_dfl, spec.settings.reg_max
    gt = np.array(box.xyxy)
    inner = gt.copy()
    if box.side >= 0:
        inner[box.side] = box.edges[0]
    cx, cy = ((np.floor(np.array([inner[0] + inner[2], inner[1] + inner[3]]) / 2 / STRIDE)) * STRIDE).tolist()
    sign, centre = np.array([-1, -1, 1, 1]), np.array([cx, cy, cx, cy])
    target = (gt - centre) * sign / STRIDE
    edges = [math.nan, math.nan]
    if box.side >= 0:
        edges = [(edge - centre[box.side]) * sign[box.side] / STRIDE for edge in box.edges]
    probs, expectation = [], []
    for side in range(4):
        if side == box.side and rng.random() < 0.85:
            places, weights = np.array(edges), np.clip(np.array([box.prob_a, 1 - box.prob_a]) + rng.normal(0, 0.07), 0.08, 0.92)
        else:
            places, weights = np.array([target[side] + rng.normal(0, 0.15)]), np.array([1.0])
        p = _spread(places, weights / weights.sum(), n, 0.45) + rng.random(n + 1) * 0.004
        p /= p.sum()
        expectation.append(float(p @ np.arange(n + 1)))
        probs.extend(p.tolist())
    cell_box = centre + sign * np.array(expectation) * STRIDE
    score = float(np.clip(rng.normal(0.72, 0.15), 0.05, 0.98))
    missed = rng.random() < 0.07
    det = cell_box + rng.normal(0, 0.7, 4)
    return {
        "image_id": image_id,
        "file_name": file_name,
        "annotation_id": annotation_id,
        "category_id": box.category + 1,
        "category": spec.data.classes[box.category],
        **dict(zip(("gt_x1", "gt_y1", "gt_x2", "gt_y2"), gt.tolist(), strict=True)),
        "level": 0,
        "stride": STRIDE,
        "cell_x": cx,
        "cell_y": cy,
        "scale_x": 1.0,
        "scale_y": 1.0,
        "score": score,
        **dict(zip(("cell_x1", "cell_y1", "cell_x2", "cell_y2"), cell_box.tolist(), strict=True)),
        "cell_iou": _iou(gt, cell_box),
        "det_score": math.nan if missed else score,
        "det_iou": math.nan if missed else _iou(gt, det),
        **dict(zip(("det_x1", "det_y1", "det_x2", "det_y2"), [math.nan] * 4 if missed else det.tolist(), strict=True)),
        "bins": n + 1 if dfl else 0,
        "bin_width": spec.settings.bin_width,
        "probs": probs if dfl else [],
        "expectation": expectation,
        "target": target.tolist(),
        "ambiguous_side": box.side if spec.data.truth else -1,
        "ambiguity": box.kind if spec.data.truth else "",
        "edge_a": edges[0] if spec.data.truth else math.nan,
        "edge_b": edges[1] if spec.data.truth else math.nan,
        "prob_a": box.prob_a if spec.data.truth else math.nan,
        "scored": bool(rng.random() < 0.9),
    }


def _false_positive(rng: np.random.Generator, spec: TrialSpec, image_id: int, file_name: str) -> dict[str, Any]:
    fake = _Box(tuple(map(float, (*rng.integers(4, 40, 2), *rng.integers(70, 120, 2)))), int(rng.integers(len(spec.data.classes))))
    row = _box_row(rng, spec, image_id, file_name, -1, fake)
    cell_box = [row[f"cell_{c}"] for c in ("x1", "y1", "x2", "y2")]
    row |= {f"gt_{c}": math.nan for c in ("x1", "y1", "x2", "y2")} | {
        "target": [math.nan] * 4,
        "cell_iou": math.nan,
        "det_iou": math.nan,
        "scored": False,
    }
    return row | dict(zip(("det_x1", "det_y1", "det_x2", "det_y2"), cell_box, strict=True)) | {"det_score": float(rng.uniform(0.05, 0.4))}


def _spread(places: np.ndarray, weights: np.ndarray, n: int, width: float) -> np.ndarray:
    """A smooth distribution over 0..n with mass ``weights`` around ``places``."""
    x = np.arange(n + 1)
    parts = np.exp(-0.5 * ((x[None] - places[:, None]) / width) ** 2)
    return (parts / np.maximum(parts.sum(1, keepdims=True), 1e-9) * weights[:, None]).sum(0)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    inter = float(size.prod())
    return inter / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter)
