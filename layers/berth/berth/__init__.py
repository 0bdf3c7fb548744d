"""Berth's shared package: what the Lambda functions, the operator commands and the tests import.

Importing this package imports nothing else, so the node agent can use :mod:`berth.contract` without
pulling in boto3.
"""
