"""One file per `python -m qdet` command. In: flags and printing. Out: logic another module needs."""
