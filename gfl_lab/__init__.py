"""gfl-lab: ablations of a detector, from one YAML file to an AP table."""

__version__ = "0.2.0"
