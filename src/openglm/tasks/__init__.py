"""Questions as data: pattern, verbalizer, metric."""
