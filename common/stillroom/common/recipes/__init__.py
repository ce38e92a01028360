"""What every recipe says of itself before anything runs: inputs, options, network. No training here."""
