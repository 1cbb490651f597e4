"""Codes of labels and limits of sizes, which everything above agrees on."""

BACKGROUND = 0
"""Label of the background; class `i` of the class list is `i + 1`."""
IGNORE = 255
"""Label of pixels that teach nothing and are not scored."""
MAX_SIDE = 65_536
"""Most pixels of a side; a larger number is a mistake, and would be found by running out of memory."""
MAX_PIXELS = 200_000_000
"""Pictures with more pixels are refused unless the caller says otherwise: a small file may unpack into any size."""
MAX_BATCH = 65_536
"""Most pictures of a step."""
