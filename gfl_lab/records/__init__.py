"""Every file of the run tree as a type, with one reader and one writer each. No other module uses a key of these files."""
