"""Metrics of detections and of box distributions: COCO's AP, types of error, modes, scores against true edges. numpy only."""
