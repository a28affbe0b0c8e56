"""`qdet doctor`: facts of every machine, and what they mean.  In: a cluster or none.  Out: findings."""
