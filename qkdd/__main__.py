"""`python -m qkdd`: the same as the command `qkdd`."""

from qkdd.cli import main

if __name__ == "__main__":
    main()
