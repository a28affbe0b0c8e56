"""Commands about machines.  In: flags.  Out: how a cluster is examined (doctor)."""
