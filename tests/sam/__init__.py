"""The unmodified SAM CLI against the sandbox."""
