default_hooks = dict(
    checkpoint=None,
    logger=None,
    param_scheduler=dict(type='ParamSchedulerHook'),
    runtime_info=dict(type='TrialInfoHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=None)
default_scope = 'mmdet'
env_cfg = dict(
    dist_cfg=dict(backend='gloo'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=1))
model = dict(
    backbone=dict(
        base_channels=8,
        depth=18,
        dilations=(
            1,
            1,
            1,
            1,
        ),
        frozen_stages=-1,
        norm_cfg=dict(requires_grad=True, type='BN'),
        norm_eval=False,
        num_stages=4,
        out_indices=(
            0,
            1,
            2,
            3,
        ),
        strides=(
            1,
            2,
            2,
            2,
        ),
        style='pytorch',
        type='ResNet'),
    bbox_head=dict(
        anchor_generator=dict(
            octave_base_scale=8.0,
            ratios=[
                1.0,
            ],
            scales_per_octave=1,
            strides=[
                8,
                16,
                32,
            ],
            type='AnchorGenerator'),
        bin_width=1.0,
        box='general',
        box_loss='giou',
        box_weight=1.5,
        box_weighting='centerness',
        cls_loss=None,
        decode='expectation',
        dfl_weight=1.0,
        dgqp_channels=64,
        dgqp_detach=False,
        dgqp_form='decomposed',
        dgqp_mean=True,
        dgqp_topk=4,
        dgqp_variance=False,
        dirac_coder='delta',
        feat_channels=32,
        gaussian_box_loss=False,
        gaussian_weight=1.0,
        guided_eta=1.0,
        guided_renormalise=False,
        in_channels=16,
        num_classes=3,
        qfl_beta=2.0,
        quality='centerness',
        quality_weight=1.0,
        reg_max=16,
        stacked_convs=1,
        tower_bias=False,
        type='GFLFamilyHead'),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_size_divisor=32,
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='mmdet.BatchPreprocessor'),
    neck=dict(
        add_extra_convs='on_output',
        in_channels=[
            8,
            16,
            32,
            64,
        ],
        num_outs=3,
        out_channels=16,
        relu_before_extra_convs=False,
        start_level=1,
        type='FPN'),
    test_cfg=dict(
        max_per_img=100,
        min_bbox_size=0,
        nms=dict(iou_threshold=0.6, type='nms'),
        nms_pre=1000,
        score_thr=0.02),
    train_cfg=dict(
        allowed_border=-1,
        assigner=dict(topk=9, type='ATSSAssigner'),
        debug=False,
        pos_weight=-1),
    type='TrialDetector')
optim_wrapper = dict(
    clip_grad=None,
    constructor='SettingsOptimConstructor',
    optimizer=dict(
        fused=True, lr=0.007071067811865476, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(bias_lr=1.5, no_decay=()),
    type='TrialOptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=5, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=1,
        begin=0,
        by_epoch=True,
        convert_to_iter_based=True,
        end=1,
        eta_min_ratio=0.01,
        type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
train_cfg = dict(max_epochs=1, type='EpochBasedTrainLoop')
train_dataloader = dict(
    batch_sampler=dict(type='ResumableBatchSampler'),
    batch_size=4,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        ann_file=
        '@ROOT@/runs/data/ambiguous_shapes-b07b6a2864e3/annotations/instances_train.json',
        classes=(
            'box',
            'ellipse',
            'triangle',
        ),
        data_prefix=dict(
            img='@ROOT@/runs/data/ambiguous_shapes-b07b6a2864e3/images'),
        draw_annotators=True,
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type='LoadImageCached', white_level=0),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                interpolation='bilinear',
                keep_ratio=True,
                scale=(
                    128,
                    128,
                ),
                type='ResizeKeepRatio'),
            dict(prob=0.25, type='RandomFlip'),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                    'flip',
                    'flip_direction',
                ),
                type='PackBytes'),
        ],
        seed=0,
        test_mode=False,
        type='TrialDataset'),
    drop_last=False,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(seed=0, shuffle=True, type='WholeSampler'))
val_loader = dict(
    batch_sampler=dict(
        image_size=(
            128,
            128,
        ), pad_to=32, type='OneShapeBatchSampler'),
    batch_size=4,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        ann_file=
        '@ROOT@/runs/data/ambiguous_shapes-b07b6a2864e3/annotations/instances_val.json',
        classes=(
            'box',
            'ellipse',
            'triangle',
        ),
        data_prefix=dict(
            img='@ROOT@/runs/data/ambiguous_shapes-b07b6a2864e3/images'),
        draw_annotators=False,
        filter_cfg=None,
        pipeline=[
            dict(type='LoadImageCached', white_level=0),
            dict(keep_ratio=True, scale=(
                128,
                128,
            ), type='ResizeKeepRatio'),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                    'flip',
                    'flip_direction',
                ),
                type='PackBytes'),
        ],
        seed=0,
        test_mode=True,
        type='TrialDataset'),
    drop_last=False,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(seed=0, shuffle=False, type='WholeSampler'))
work_dir = '@ROOT@/runs/trials/a5fee4a9f77b'
