"""Flow logs with pods' names: reads VPC flow-log objects, joins both ends to the lease ledger, writes Parquet.

``fields``, ``window`` and ``ends`` are pure. ``reading``, ``joining``, ``writing`` and ``totals`` work on Arrow columns
and need pyarrow, which no other function carries. See docs/flow-logs.md.
"""
