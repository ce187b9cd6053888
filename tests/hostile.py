"""Values that try to be more than values, drawn from a seed: quotes, paths, markup, broken Unicode, absurd sizes."""

import os

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
# A batch of rows costs a Spark job, a row next to nothing.
BATCHES, ROWS = (4, 700) if NIGHTLY else (1, 60)

NASTY = (
    "'",
    '"',
    "`",
    "'; DROP TABLE catalog; --",
    "' OR '1'='1",
    '"]\n[privacy]\nuser_key = "x',
    "${user.home}",
    "{{ 7*7 }}",
    "../../../../etc/passwd",
    "..",
    ".",
    "/",
    "//",
    "\\",
    "..\\..\\x",
    "file:///etc/passwd",
    "s3a://bucket/x",
    "%2e%2e%2f",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\x1b[31m",
    "\ufeff",
    "\u202eevil",
    "\u2028",
    "\u200b",
    "\ufffd",
    "\U0010ffff",
    "e\u0301" * 40,
    "شاحن",
    "İstanbul",
    "ﬃ",
    "\N{GRINNING FACE}" * 20,
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "%s%n%x",
    "NULL",
    "null",
    "None",
    "NaN",
    "inf",
    "-1",
    "0",
    "1e999",
    "9" * 400,
    "true",
    "[]",
    "{}",
    "[" * 200,
    '{"a":' * 50,
    "__HIVE_DEFAULT_PARTITION__",
    "_delta_log",
    "a=b",
    "a/b",
    "",
    " ",
    "x" * 3000,
    "$.a",
    "*",
    "?",
    "*.*",
    "a,b",
    "a>b>c",
)


def text(draw):
    """A hostile text: one of the list, several joined, or any characters; never a lone surrogate."""
    kind = draw.random()
    if kind < 0.6:
        return draw.choice(NASTY)
    if kind < 0.85:
        return "".join(draw.choice(NASTY) for _ in range(draw.randint(2, 4)))
    points = (
        draw.choice((draw.randrange(0x20), draw.randrange(0x80, 0x3000), draw.randrange(0xE000, 0x11000)))
        for _ in range(draw.randint(1, 30))
    )
    return "".join(map(chr, points))


def row(draw, sound, share=0.5):
    """A row (column -> value) of which at most a few columns are hostile, and none in `share` of the rows."""
    made = dict(sound)
    if draw.random() >= share:
        for name in draw.sample(sorted(made), draw.randint(1, min(3, len(made)))):
            made[name] = text(draw)
    return made
