"""Fixtures of the schedules over the wire."""
