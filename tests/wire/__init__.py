"""The simulator's schedules against the sandbox over the wire: real edges, real HTTP, scripted faults."""
