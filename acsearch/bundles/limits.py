"""How much a bundle may hold, checked before anything is built from it: a few bytes can become gigabytes of objects.

The limits are above what a study of 10,000 candidates on 20 benchmarks takes: its trials, if all of them are finetuned,
and its files, with checkpoints, if a thousand are.
"""

from __future__ import annotations

import numpy as np

MANIFEST_BYTES = 32 << 20
TEXT_BYTES = 64 << 20  # study.json, measured scores and the manifests of checkpoints, together
WINDOW_BYTES = 8 << 20  # that a decompressor has to keep; zstd's default level takes 2 MiB
DENSEST, FREE = 1000, 256 << 20  # a bundle may unpack to so many times its size, and to this much anyway
EXTRA_ATTRIBUTES, EXTRA_TRIALS = 100, 1000  # that acsearch does not know; that are beyond the budget
ATTRIBUTE_BYTES = 100_000  # of one attribute, as JSON
KEY_LENGTH = 512  # characters of an attribute's name, which is what Optuna's tables hold
_DEEPEST = 32
_MOST = {"{": 150_000, "[": 150_000, ":": 1_200_000, ",": 2_000_000}  # of each in one text, outside of its strings
_QUOTE, _CHUNK = ord('"'), 1 << 20
_STEP = np.zeros(256, dtype=np.int8)
_STEP[[ord("["), ord("{")]], _STEP[[ord("]"), ord("}")]] = 1, -1


def check_json(text: bytes) -> None:
    """Check the size of a JSON text by its bytes, in constant memory; whether it is JSON is up to its parser.

    Args:
        text: the text.

    Raises:
        ValueError: it is nested too deeply, or has too many objects, lists, keys or values.
    """
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"")  # without escapes, each quote begins or ends a string
    found, depth, quotes = np.zeros(256, dtype=np.int64), 0, 0
    for start in range(0, len(plain), _CHUNK):
        codes = np.frombuffer(plain, np.uint8, min(_CHUNK, len(plain) - start), start)
        passed = np.cumsum(codes == _QUOTE, dtype=np.int32) + quotes
        outside = codes[passed % 2 == 0]
        quotes = int(passed[-1]) % 2
        found += np.bincount(outside, minlength=256)
        for mark, most in _MOST.items():
            if found[ord(mark)] > most:
                raise ValueError(f"more than {most} times {mark!r}")
        if len(outside):
            depths = np.cumsum(_STEP[outside], dtype=np.int32) + depth
            if depths.max() > _DEEPEST:
                raise ValueError(f"nested more than {_DEEPEST} deep")
            depth = int(depths[-1])
