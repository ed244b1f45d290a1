"""A file system in memory, spoken to the kernel over /dev/fuse by hand, for the specs of mounts that hang.

    fuse_fs.py MOUNTPOINT COMMAND...

Mounts itself, runs the command, and ends with it, with its exit status. To be started in a mount namespace of its own (unshare), so that no mount outlives it. SIGSTOP is
all that it takes to let it hang: requests then wait in the kernel, as those of a server that is gone. SIGCONT, and it answers them.
"""
import ctypes
import errno
import os
import select
import signal
import stat
import struct
import sys
import time

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
WRITE_MAX = 1 << 20
ROOT = 1

LOOKUP, FORGET, GETATTR, SETATTR, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE = 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16
STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, ACCESS, CREATE = 17, 18, 20, 25, 26, 27, 28, 29, 30, 34, 35
INTERRUPT, DESTROY, BATCH_FORGET, RENAME2 = 36, 38, 42, 45


class Node:
    def __init__(self, number, mode):
        now = time.time_ns()
        self.number, self.mode, self.links = number, mode, 1
        self.atime = self.mtime = self.ctime = now
        self.data = bytearray()
        self.children = {} if stat.S_ISDIR(mode) else None


class Failure(Exception):
    def __init__(self, error):
        self.error = error


class FileSystem:
    def __init__(self):
        self.nodes = {ROOT: Node(ROOT, stat.S_IFDIR | 0o700)}
        self.next_number = ROOT + 1

    def attributes(self, node):
        def parts(ns):
            return divmod(ns, 10 ** 9)
        (asec, ans), (msec, mns), (csec, cns) = parts(node.atime), parts(node.mtime), parts(node.ctime)
        size = len(node.data)
        return struct.pack('<6Q10I', node.number, size, (size + 511) // 512, asec, msec, csec, ans, mns, cns, node.mode, node.links, os.getuid(), os.getgid(), 0, 4096, 0)

    # Nothing may be cached: every call has to come here, or a mount that hangs would still answer some.
    def entry(self, node):
        return struct.pack('<4Q2I', node.number, 0, 0, 0, 0, 0) + self.attributes(node)

    def child(self, parent, name):
        node = self.nodes[parent].children.get(name)
        if node is None:
            raise Failure(errno.ENOENT)
        return node

    def make(self, parent, name, mode):
        children = self.nodes[parent].children
        if name in children:
            raise Failure(errno.EEXIST)
        node = Node(self.next_number, mode)
        self.next_number += 1
        self.nodes[node.number] = children[name] = node
        return node

    def answer(self, opcode, number, body):
        """The reply's body; None: no reply."""
        if opcode == INIT:
            major, minor, readahead, flags = struct.unpack_from('<4I', body)
            wanted = flags & (1 << 0 | 1 << 5 | 1 << 22)  # asynchronous reads, large writes, max_pages
            return struct.pack('<4I2H2I2H8I', 7, min(minor, 31), readahead, wanted, 64, 48, WRITE_MAX, 1, WRITE_MAX // 4096, 0, *[0] * 8)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return None
        if opcode in (RELEASE, RELEASEDIR, FLUSH, FSYNC, FSYNCDIR, ACCESS, DESTROY):
            return b''
        node = self.nodes[number]
        if opcode == LOOKUP:
            return self.entry(self.child(number, body[:-1]))
        if opcode == GETATTR:
            return struct.pack('<Q2I', 0, 0, 0) + self.attributes(node)
        if opcode == SETATTR:
            valid, _, _, size, _, atime, mtime, _, ans, mns, _, mode = struct.unpack_from('<2I6Q4I', body)
            if valid & 1:
                node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
            if valid & 8:
                del node.data[size:]
                node.data.extend(bytes(size - len(node.data)))
            if valid & 16:
                node.atime = time.time_ns() if valid & 128 else atime * 10 ** 9 + ans
            if valid & 32:
                node.mtime = time.time_ns() if valid & 256 else mtime * 10 ** 9 + mns
            return struct.pack('<Q2I', 0, 0, 0) + self.attributes(node)
        if opcode == MKDIR:
            mode, _ = struct.unpack_from('<2I', body)
            return self.entry(self.make(number, body[8:-1], stat.S_IFDIR | stat.S_IMODE(mode)))
        if opcode == MKNOD:
            return self.entry(self.make(number, body[16:-1], struct.unpack_from('<I', body)[0]))
        if opcode == CREATE:
            _, mode = struct.unpack_from('<2I', body)
            return self.entry(self.make(number, body[16:-1], stat.S_IFREG | stat.S_IMODE(mode))) + struct.pack('<Q2I', 0, 0, 0)
        if opcode in (OPEN, OPENDIR):
            return struct.pack('<Q2I', 0, 0, 0)
        if opcode in (UNLINK, RMDIR):
            name = body[:-1]
            gone = self.child(number, name)
            if gone.children:
                raise Failure(errno.ENOTEMPTY)
            # The node itself stays: it may still be open.
            gone.links -= 1
            del node.children[name]
            return b''
        if opcode in (RENAME, RENAME2):
            old, new = body[8 if opcode == RENAME else 16:-1].split(b'\0')
            if opcode == RENAME2 and struct.unpack_from('<Q2I', body)[1] != 0:
                raise Failure(errno.EINVAL)
            moved = self.child(number, old)
            target = self.nodes[struct.unpack_from('<Q', body)[0]].children
            if new in target:
                target[new].links -= 1
            del node.children[old]
            target[new] = moved
            return b''
        if opcode == LINK:
            linked = self.nodes[struct.unpack_from('<Q', body)[0]]
            if body[8:-1] in node.children:
                raise Failure(errno.EEXIST)
            node.children[body[8:-1]] = linked
            linked.links += 1
            return self.entry(linked)
        if opcode == READ:
            _, offset, size = struct.unpack_from('<2QI', body)
            return bytes(node.data[offset:offset + size])
        if opcode == WRITE:
            _, offset, size = struct.unpack_from('<2QI', body)
            if offset > len(node.data):
                node.data.extend(bytes(offset - len(node.data)))
            node.data[offset:offset + size] = body[40:40 + size]
            node.mtime = time.time_ns()
            return struct.pack('<2I', size, 0)
        if opcode == READDIR:
            _, offset, size = struct.unpack_from('<2QI', body)
            out = b''
            for place, (name, child) in enumerate(list(node.children.items())):
                if place < offset:
                    continue
                one = struct.pack('<2Q2I', child.number, place + 1, len(name), stat.S_IFMT(child.mode) >> 12) + name
                one += bytes(-len(one) % 8)
                if len(out) + len(one) > size:
                    break
                out += one
            return out
        if opcode == STATFS:
            return struct.pack('<5Q10I', 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0, *[0] * 6)
        raise Failure(errno.ENOSYS)

    def serve(self, device, until):
        poll = select.poll()
        poll.register(device, select.POLLIN)
        poll.register(until, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if until in ready:
                return
            try:
                request = os.read(device, WRITE_MAX + 65536)
            except OSError as failure:
                if failure.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # the request was withdrawn
                    continue
                raise
            _, opcode, unique, number = struct.unpack_from('<2I2Q', request)
            error, body = 0, b''
            try:
                body = self.answer(opcode, number, request[40:])
            except Failure as failure:
                error = failure.error
            except KeyError:
                error = errno.ESTALE
            if body is None:
                continue
            try:
                os.write(device, struct.pack('<IiQ', 16 + len(body), -error, unique) + body)
            except OSError as failure:
                if failure.errno != errno.ENOENT:
                    raise


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main():
    point, command = sys.argv[1], sys.argv[2:]
    die_with_parent()
    device = os.open('/dev/fuse', os.O_RDWR)
    options = f'fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}'
    if LIBC.mount(b'hicache-spec', point.encode(), b'fuse.hicache-spec', 0, options.encode()) != 0:
        number = ctypes.get_errno()
        sys.exit(f'mounting on {point}: {os.strerror(number)}')
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os.close(device)
        os.execvp(command[0], command)
    # The command's line to the specs is the command's alone.
    channel = os.environ.get('NODE_CHANNEL_FD')
    if channel is not None:
        os.close(int(channel))
    child = os.pidfd_open(pid)
    FileSystem().serve(device, child)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xff)


main()
