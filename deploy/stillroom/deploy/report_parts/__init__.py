"""Sections of the study report: pure functions from the summary to HTML."""
