"""Procedural cardiac CT: synthetic patients for rehearsals, tests and teaching. No patient data involved."""
