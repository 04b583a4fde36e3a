"""Frozen, validated values: settings, profiles, experiments; and their loading with file, line and key in each error."""
