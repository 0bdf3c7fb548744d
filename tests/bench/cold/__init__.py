"""How long a function takes from nothing to ready, beside a plain start of boto3."""
