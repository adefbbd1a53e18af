"""`python -m tunestudy.cli`."""

from tunestudy.cli import main

main()
