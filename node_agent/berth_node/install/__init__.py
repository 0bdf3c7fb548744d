"""``berth-node install`` and ``uninstall``: what Berth puts onto a host, put there whole and taken away whole.

:mod:`.plan` says which files, as values; :mod:`.units` has their text; :mod:`.apply` writes and removes them and keeps
the manifest; :mod:`.payload` finds the plugin and the agent that are installed; :mod:`.kernel` takes the agent's rules,
routes, tables and links out of the kernel; :mod:`.command` is the command line.
"""
