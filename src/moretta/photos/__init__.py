"""Photos on disk: read whole, written whole, with nothing in them but pixels. No torch in this room.

photo.py       the record of one photo, and which container is which
decode.py      bytes -> Photo
colour.py      colour profiles and CMYK -> sRGB
encode.py      Photo and edited pixels -> bytes
wide.py        PNG and TIFF with 16 bits a sample, which Pillow cannot keep
metadata.py    what else is in these bytes? JPEG, PNG, WebP, BMP
containers.py  the same for TIFF, AVIF, HEIC
files.py       the rim: the only file that touches the disk
"""

PART = ".moretta-part-"  # names of files that are being written begin so
