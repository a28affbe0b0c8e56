"""Convolutions, norms and necks over feature maps. In: grid layers. Out: queries and boxes."""
