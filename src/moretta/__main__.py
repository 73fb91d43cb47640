"""`python -m moretta`."""

from moretta.cli.main import main

if __name__ == "__main__":
    main()
