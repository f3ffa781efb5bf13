"""`python -m vocabkit`: the command line."""

from vocabkit_cli.__main__ import run

if __name__ == "__main__":
    run()
