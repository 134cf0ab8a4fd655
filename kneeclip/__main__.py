"""``python -m kneeclip`` is the shell command, and what ``accelerate launch -m kneeclip`` starts."""

from kneeclip.cli import main

main()
