"""What is told about a run: report, curves, model card, trackers."""
