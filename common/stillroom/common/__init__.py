"""What both sides signed up to."""
