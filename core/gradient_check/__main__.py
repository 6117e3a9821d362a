"""The command ``python -m core.gradient_check``."""

from core.gradient_check.checking import main
from core.support.command_line import run_command

if __name__ == "__main__":
    run_command(main)
