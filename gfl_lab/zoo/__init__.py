"""mmdet's model zoo as its wheel describes it, and its detectors as variants: configs read, rewritten for a trial, or refused. No torch."""
