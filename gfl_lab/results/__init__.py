"""The one way to read: experiments, trials, curves and distributions, from the run tree."""
