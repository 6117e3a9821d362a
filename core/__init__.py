# Before anything that takes time to load, or may not be there:
import core.support.interrupts
import core.support.packages  # noqa: F401
