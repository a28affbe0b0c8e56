"""Names that can be typed: an adjective and an animal, short, common and in plain ASCII.

No two words of a list share their first four letters, so a few letters of each already say which it is.
"""

import hashlib
import random

_ADJECTIVES = """
    able agile amber ample azure basic black blue bold bonny brave bright brisk broad bronze calm candid
    clean clever cool coral cosmic crisp dapper daring dense direct eager early earthy easy exact fair
    fancy fast fine fluent fond fresh gentle giant glad golden grand green happy hardy honest humble ideal
    jade jolly keen kind large light lively loyal lucky lunar mellow merry mild modest neat nimble noble
    olive patient placid polite proud quick quiet rapid ready regal royal ruby silent silver smooth snowy
    solid stable steady sunny swift tidy vivid warm
"""
_ANIMALS = """
    adder alpaca ant auk badger bat bear beaver bee bison boar camel carp cat cobra condor coot cougar
    crab crane cricket crow deer dingo dodo dove duck eagle eel egret elk emu falcon ferret finch fox frog
    gecko gibbon goat goose grouse gull hare hawk heron hippo horse hyena ibex ibis impala jackal jaguar
    kite kiwi koala lark lemur lion lizard llama lobster lynx magpie marten mole moose mouse newt okapi
    orca oryx osprey otter owl panda parrot pigeon pony puffin puma quail rabbit raven robin salmon seal
    shark sloth snail sparrow stork swan tapir tiger toad trout turtle walrus weasel wolf wren yak zebra
"""
ADJECTIVES, ANIMALS = tuple(_ADJECTIVES.split()), tuple(_ANIMALS.split())


def draw(rng: random.Random) -> str:
    """Return two random words.

    >>> draw(random.Random(1))
    'clever-tiger'
    """
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(ANIMALS)}"


def derive(key: str) -> str:
    """Return two words and four hexadecimal digits that follow from `key`: the same in every process."""
    digest = hashlib.sha256(key.encode()).digest()
    return f"{draw(random.Random(digest[:8]))}-{digest[8:10].hex()}"
