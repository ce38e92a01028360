"""The auditor's program: reads a published log and what should agree with it, and trusts neither."""
