"""How ranks find each other and exchange values. In: store, secret, JSON. Out: what a training exchanges."""
