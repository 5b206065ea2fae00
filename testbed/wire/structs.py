"""The fixed layouts that more than one module of this room packs or unpacks; all big-endian."""

from struct import Struct

U32 = Struct(">I")
U64 = Struct(">Q")
FILE_HEADER = Struct(">II")  # magic, version
SECTION = Struct(">BI")  # type (or the footer's mark), section_id
IDS = Struct(">II")  # instance_id, version_id
COMMAND = Struct(">BHH")  # type, command, length of the payload
MESSAGE = Struct(">HH")  # type, length of the payload
XBZRLE = Struct(">BH")  # encoding, length
MAPPED_RAM = Struct(">IQQQ")  # version, page size, offsets in the file of bitmap and pages
MULTIFD_INIT = Struct(">II16sB39s")  # magic, version, uuid, id, reserved
MULTIFD_PACKET = Struct(">IIIIIIQI28s256s")  # magic, version, flags, ..., reserved, block
MULTIFD_DEVICE_STATE = Struct(">III256sII")  # magic, version, flags, idstr, ...
TLS = Struct(">BHH")  # type, version, length

MAGIC = 0x5145564D
MULTIFD_MAGIC = 0x11223344
MULTIFD_VERSION = 1
MULTIFD_IDSTR_BYTES = 256
VERSION = 3
XBZRLE_ENCODING = 1
BITMAP_END_MARK = 0x0123456789ABCDEF
"""After the bits of a RECV_BITMAP message. Source: QEMU `migration/ram.c`."""
