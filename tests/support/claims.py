"""Pages of claims over a fake run tree: one as it comes, and one in which every text is as long as it gets."""

from __future__ import annotations

from dataclasses import replace

from gfl_lab.report.claim import Claim
from gfl_lab.report.differences import SETTINGS, Differing
from gfl_lab.report.variant_comparison import CLASS, SIZE
from gfl_lab.results.store import Store
from gfl_lab.rundir import RunTree
from gfl_lab.session.claim import read_claim

LONG = "a long word after another " * 30
LONG_NAME = "detector=mmdet:some_detector_with_a_long_name cfg_options.model.bbox_head.loss_cls.gamma=2.5 epochs=24 lr=0.01 seed="


def fake_claim(tree: RunTree, variant: str = "qfl=on dfl=on", against: str | None = None, min_effect: float | None = None) -> Claim:
    """The claim on a variant of a fake tree."""
    return read_claim(tree, Store(tree).experiment("table3_qfl_dfl", "desk"), variant, against, min_effect)


def longest(claim: Claim) -> Claim:
    """The claim with long names and question, 80 classes, 30 settings, 20 notes, and unfair in two ways."""
    size, one_class = (next(row for row in claim.parts.rows if row.group == group) for group in (SIZE, CLASS))
    sizes = [replace(size, name=name) for name in ("AP_S", "AP_M", "AP_L")]
    errors = [row for row in claim.parts.rows if row.group == "error"]
    classes = [replace(one_class, name=f"class {i} {LONG[:60]}") for i in range(80)]
    variant, reference = (
        replace(row, variant=f"{LONG_NAME}{i}", metrics={**row.metrics, "AP_S": row.metrics["AP"]})
        for i, row in enumerate((claim.variant, claim.reference))
    )
    settings = tuple(Differing(SETTINGS, "cfg_options.model.bbox_head.loss_cls.gamma", LONG[:80], LONG[:80]) for _ in range(30))
    return replace(
        claim,
        table=replace(claim.table, question=LONG, data=LONG[:90]),
        variant=variant,
        reference=reference,
        delta={**claim.delta, "AP_S": claim.delta["AP"]},
        parts=replace(claim.parts, rows=(*sizes, *errors, *classes)),
        unfair=(LONG, LONG),
        warnings=(LONG, LONG),
        notes=tuple(f"{i} {LONG[:300]}" for i in range(20)),
        settings=settings,
        commands=(*claim.commands[:2], f"gfl-lab report FILE --claim '{variant.variant}' --against '{reference.variant}' -o claim.html"),
        facts={name: LONG[:200] for name in ("data", "versions", "machine")},
    )
