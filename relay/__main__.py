"""`python -m relay` is the command `itscope-relay`."""

from relay.cli import main

if __name__ == "__main__":
    main()
