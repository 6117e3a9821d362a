"""The name that Stanford's course CS231n gives to the package of its models."""
