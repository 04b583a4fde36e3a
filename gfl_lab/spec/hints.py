"""The valid key that is probably meant by an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from gfl_lab.spec import renames

ALIASES: dict[str, str] = (
    {
        alias: name
        for name, aliases in {
            "lr": "learning_rate base_lr lr0 initial_lr init_lr max_lr alpha rate",
            "batch_size": "batch bs batchsize samples_per_gpu train_batch_size imgs_per_batch images_per_batch ims_per_batch",
            "base_batch_size": "auto_scale_lr reference_batch_size nominal_batch_size nbs",
            "epochs": "epoch max_epochs num_epochs n_epochs total_epochs iterations max_iters steps",
            "weight_decay": "wd decay l2 l2_penalty",
            "no_decay": "no_weight_decay",
            "bias_lr_mult": "bias_lr_factor",
            "optimizer": "optim opt solver",
            "warmup_iters": "warmup warmup_steps warm_up warmup_iterations warmup_epochs",
            "warmup_start_factor": "warmup_ratio warmup_lr start_factor",
            "lr_schedule": "scheduler lr_scheduler lr_policy lr_config",
            "lr_steps": "milestones steps_decay decay_epochs lr_milestones",
            "clip_grad_norm": "grad_clip clip_grad max_norm gradient_clip gradient_clipping max_grad_norm",
            "ema_decay": "model_ema",
            "precision": "amp fp16 bf16 mixed_precision dtype half",
            "flip_prob": "hflip fliplr horizontal_flip flip_ratio random_flip",
            "scale_range": "multi_scale multiscale img_scale",
            "image_size": "img_size imgsz input_size image_scale resize resolution size imsize",
            "pad_to": "size_divisor pad_size_divisor",
            "reg_max": "n num_bins regmax dfl_n",
            "bins": "bin_spacing weighting_function project",
            "bin_width": "delta bin_size",
            "qfl_beta": "beta gamma focal_gamma",
            "dfl_weight": "loss_dfl_weight dfl_loss_weight",
            "box_loss": "bbox_loss loss_bbox iou_loss reg_loss",
            "box_loss_weight": "bbox_weight loss_bbox_weight",
            "cls_loss": "classification_loss loss_cls",
            "assigner": "assignment label_assignment",
            "atss_topk": "topk",
            "backbone": "model arch architecture encoder net network",
            "base_channels": "width base_width",
            "init_weights": "pretrained checkpoint init load_from init_cfg",
            "frozen_stages": "freeze frozen freeze_at",
            "norm_eval": "bn_eval freeze_bn frozen_bn",
            "drop_path": "drop_path_rate stochastic_depth droppath",
            "neck_channels": "fpn_channels out_channels neck_width",
            "head_channels": "feat_channels head_width",
            "head_convs": "stacked_convs num_convs tower_convs",
            "strides": "stride levels fpn_strides",
            "anchor_scale": "octave_base_scale anchor_size anchor",
            "score_thr": "score_threshold conf conf_thres confidence confidence_threshold score_thresh score",
            "nms_iou": "iou_threshold nms_threshold nms_thr nms_thresh iou_thr iou_thres nms",
            "max_dets": "max_per_img max_detections detections_per_image max_det",
            "quality": "quality_branch centerness",
            "box": "bbox box_form representation",
            "seeds": "seed random_seed",
            "axes": "axis grid sweep vary parameters matrix",
            "variants": "combinations configs",
            "overrides": "settings fixed common shared defaults config params",
            "when": "conditions if only_if",
            "search": "space search_space hpo tune",
            "trials": "num_trials max_trials n_trials num_samples samples budget",
            "sampler_seed": "random_state",
            "low": "min lower from start",
            "high": "max upper to stop",
            "grace_epochs": "grace_period min_epochs min_resource",
            "reduction": "reduction_factor eta",
            "custom_imports": "imports plugins modules",
            "question": "description about title",
        }.items()
        for alias in aliases.split()
    }
    | dict(renames.SETTINGS)
    | dict(renames.EXPERIMENT_KEYS)
    | dict(renames.RESOURCE_KEYS)
)
"""Names that other tools give to a key of ours, for the hint beside an unknown key."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint with the valid key that is probably meant, or with all of them when none is near.

    Names that other tools use count too: ``learning_rate`` is ``lr`` here.
    """
    known = sorted(known)
    plain = _plain(word)
    names = {_plain(name): name for name in known}
    others = {alias: name for alias, name in ALIASES.items() if name in known and alias not in names}
    if plain in others:
        return f"Did you mean {others[plain]!r}?"
    if len(plain) > 2:
        near = difflib.get_close_matches(plain, names, n=1, cutoff=0.6)
        like = difflib.get_close_matches(plain, [alias for alias in others if len(alias) > 3], n=1, cutoff=0.8)
        closeness = difflib.SequenceMatcher(b=plain)

        def ratio(candidate: str) -> float:
            closeness.set_seq1(candidate)
            return closeness.ratio()

        if near or like:
            best = max(near + like, key=ratio)
            return f"Did you mean {(names | others)[best]!r}?"
    parts = {part for part in plain.split("_") if len(part) > 2}
    alike = [name for name in known if parts & set(_plain(name).split("_"))]
    if alike and len(alike) <= 4:
        return f"Did you mean {' or '.join(repr(name) for name in alike)}?"
    return f"Valid keys: {', '.join(known)}."


def _plain(word: str) -> str:
    """Return a name in small letters, its parts joined by ``_``: ``learningRate`` and ``Learning-rate`` are ``learning_rate``."""
    return re.sub(r"[\s.-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word.strip()[:60])).lower()
