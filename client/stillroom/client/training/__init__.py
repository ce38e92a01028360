"""The local training loop and its parts."""
