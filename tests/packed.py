"""Bodies that are small on the wire, and large when they are unpacked."""
import zlib


def bomb(block, times):
    """A gzip body that unpacks to a block over and over; small, and quickly made."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    first, again = [packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return first + again * (times - 1)
