"""The hospital's side."""
