"""One file per `qdet` command. In: flags and printing. Out: logic another module needs."""
