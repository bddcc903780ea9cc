"""The applications, one file each: their records as text, their answers, and the metrics and baselines of these."""
