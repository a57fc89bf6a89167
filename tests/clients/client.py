"""A client of /dev/dma_heap in Python, with nothing but its standard library."""
import ctypes
import fcntl
import mmap
import os
import struct

ALLOC = 0xC0184800
SYNC = 0x40086200
SET_NAME = 0x40086201

assert "system" in os.listdir("/dev/dma_heap")
heap = os.open("/dev/dma_heap/system", os.O_RDWR | os.O_CLOEXEC)
request = bytearray(struct.pack("QIIQ", 5000, 0, os.O_RDWR | os.O_CLOEXEC, 0))
fcntl.ioctl(heap, ALLOC, request)
length, fd, _, _ = struct.unpack("QIIQ", request)
assert length == 5000
assert os.lseek(fd, 0, os.SEEK_END) == 8192
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ioctl(fd, ctypes.c_ulong(SET_NAME), ctypes.c_char_p(b"python")) == 0
with open(f"/proc/self/fdinfo/{fd}") as info:
    assert "name:\tpython\n" in info.read()
view = mmap.mmap(fd, 8192)
fcntl.ioctl(fd, SYNC, struct.pack("Q", 3))
view[:6] = b"driftz"
fcntl.ioctl(fd, SYNC, struct.pack("Q", 7))
again = mmap.mmap(fd, 4096)
assert again[:6] == b"driftz"
try:
    fcntl.ioctl(fd, SYNC, struct.pack("Q", 8))
except OSError as error:
    assert error.errno == 22
else:
    raise SystemExit("an unknown flag was accepted")
print("python client ok")
