"""`python -m qkdd.psk`."""

from qkdd.psk.cli import main

main()
