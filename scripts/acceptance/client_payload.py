"""Large payloads that both ends can make, so that they need no way round the router."""

import random


def payload_of(size_bytes, seed):
    return random.Random(seed).randbytes(size_bytes)
