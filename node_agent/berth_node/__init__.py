"""Berth's node agent: lends the node's VPC addresses to pods. Makes no EC2 call and needs no EC2 permission."""

__version__ = "0.1.0"
