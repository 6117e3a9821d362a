import core.support.interrupts  # noqa: F401  before anything that takes time to load
