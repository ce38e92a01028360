"""Other people's software, measured beside ours."""
