"""The consortium's side."""
