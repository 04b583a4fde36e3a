"""Detection files of other projects: finding, reading and checking them against an annotation file (docs/imported-results.md).

The parts: ``arms`` finds the files of each arm and their seeds, ``truth`` reads annotations, ``readers`` and ``yolo_text`` read files,
``readings`` decides what ids and coordinates mean, ``check`` joins them, ``cautions`` compares the files with each other.
"""
