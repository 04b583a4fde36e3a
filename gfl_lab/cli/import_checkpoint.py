"""`gfl-lab import-checkpoint`: weights of mmdet, GFocal, ViT-Adapter, DeiT, torchvision and PaddleDetection under our names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gfl_lab.cli.output import consoles, print_json
from gfl_lab.session.refusals import require_output
from gfl_lab.wording import first_of, plural

if TYPE_CHECKING:
    from gfl_lab.checkpoints.import_checkpoint import Imported


@click.command("import-checkpoint")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write.  [default: FILE's name with .gfl-lab.pth, in the current folder]"
)
@click.option("--force", is_flag=True, help="Replace the file to write where it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, out: Path | None, force: bool, as_json: bool) -> None:
    """Convert the weights in FILE (.pth, .pdparams, .npz), whichever project saved them, and show what they are.

    The file's code is never run. The output can be given to --init-weights.

    Example:  gfl-lab import-checkpoint gfl_r50_fpn_1x_coco.pth
    """
    out = Path(f"{file.stem}.gfl-lab.pth") if out is None else out
    require_output(out, folder=False)
    from gfl_lab.checkpoints.import_checkpoint import import_checkpoint

    done = import_checkpoint(file, out, force=force)
    if as_json:
        print_json(_to_dict(done))
    else:
        _print(done)


def _to_dict(done: Imported) -> dict[str, Any]:
    converted, recognised = done.converted, done.converted.recognised
    return {
        "out": str(done.out),
        "source": recognised.source,
        "description": recognised.description,
        "kind": recognised.kind,
        "sha256": done.sha256,
        "settings": recognised.settings,
        "num_classes": recognised.num_classes,
        "parameters": converted.parameters,
        "keys": len(converted.state_dict),
        "renamed": converted.renamed,
        "added": list(converted.added),
        "dropped": [{"key": key, "reason": reason} for key, reason in done.dropped.items()],
        "warnings": list(recognised.warnings),
    }


def _print(done: Imported) -> None:
    from rich.table import Table

    from gfl_lab.naming import setting_text

    converted, recognised = done.converted, done.converted.recognised
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    classes = "" if recognised.num_classes is None else f", {plural(recognised.num_classes, 'class').replace('classs', 'classes')}"
    table.add_row("recognised", f"{recognised.description} ({recognised.kind}{classes})")
    table.add_row("parameters", f"{converted.parameters:,}")
    table.add_row("settings", "\n".join(f"{key}: {setting_text(value)}" for key, value in recognised.settings.items()))
    keys = f"{len(converted.state_dict)} written, {len(converted.renamed)} of them renamed"
    if converted.added:
        keys += f", {len(converted.added)} batch counters added"
    table.add_row("keys", keys)
    reasons: dict[str, list[str]] = {}
    for key, reason in done.dropped.items():
        reasons.setdefault(reason, []).append(key)
    for reason, dropped in reasons.items():
        table.add_row("dropped", f"{first_of(dropped, 4)}: {reason}")
    for warning in recognised.warnings:
        table.add_row("note", warning)
    table.add_row("written", str(done.out))
    consoles()[0].print(table)
