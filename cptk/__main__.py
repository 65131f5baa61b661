"""`python -m cptk`: the command line, as `cptk`."""

from cptk.cli import main

if __name__ == "__main__":
    main()
