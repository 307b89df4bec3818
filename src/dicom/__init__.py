"""The only reader and writer of DICOM: headers, stored pixels and Hounsfield units (HU) of single-frame CT slices.

A slice is a file of its own or a member of a zip archive. This package re-exports the public names of `file` (bytes),
`header` (tags), `pixels` (stored values and HU) and `series` (slices that belong together). The others are imported by
their own names: `sources` (where the slices are), `archive` (members of a zip archive), `description` (what a file of
any kind says of itself), `enhanced` (files of many frames), and for compressed pixels
`compressed` (fragments to pixels), `codestream` (an image's own header) and `decoder` (a process that decodes). Results
are written by `report` (Structured Reports) and `key_image` (secondary captures), which share `results`. Nothing here
imports torch.
"""

from src.dicom.file import MAX_BYTES, REASONS, UnreadableDicom, read_file
from src.dicom.header import MAX_PIXELS, Header, read_header
from src.dicom.pixels import clipped_hounsfield_of, hounsfield_of, parse_stored, read_hounsfield, read_stored
from src.dicom.series import PassedOver, find_series

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "REASONS",
    "Header",
    "PassedOver",
    "UnreadableDicom",
    "clipped_hounsfield_of",
    "find_series",
    "hounsfield_of",
    "parse_stored",
    "read_file",
    "read_header",
    "read_hounsfield",
    "read_stored",
]
