"""CS231n's names: of the package of its models, and of its update rules."""
