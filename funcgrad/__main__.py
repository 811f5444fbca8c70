"""`python -m funcgrad` is `funcgrad`."""

from .cli import main

if __name__ == "__main__":
    main()
