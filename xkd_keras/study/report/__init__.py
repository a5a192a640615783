"""The report of a study: `write` and `table`. No other room needs more."""
