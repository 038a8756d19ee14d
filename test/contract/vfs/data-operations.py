"""Operations on the data of files for data-operations.test.ts: one line of JSON a request, answered with the bytes that were read or the
name of the errno."""
import base64, ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
KEEP, PUNCH, ZERO = 1, 2, 16
fds = {}
def fallocate(fd, mode, at, length):
    if libc.fallocate(fd, mode, at, length) != 0: raise OSError(ctypes.get_errno(), 'fallocate')
def write(fd, at, data):
    while data:
        n = os.pwrite(fd, data, at); data = data[n:]; at += n
def read(fd, at, length):
    parts = []
    while length > 0:
        part = os.pread(fd, length, at)
        if not part: break
        parts.append(part); at += len(part); length -= len(part)
    return b''.join(parts)
def run(op):
    kind, fd, at, length = op['kind'], fds.get(op.get('fd')), op.get('at', 0), op.get('length', 0)
    data = base64.b64decode(op.get('data', ''))
    if kind == 'open':
        if op['fd'] in fds: os.close(fds.pop(op['fd']))
        fds[op['fd']] = os.open(op['path'], os.O_RDWR | (os.O_APPEND if op.get('append') else 0) | (os.O_TRUNC if op.get('truncate') else 0))
    elif kind == 'close':
        for one in fds.values(): os.close(one)
        fds.clear()
    elif kind == 'read': return read(fd, at, length)
    elif kind == 'readpath':
        with open(op['path'], 'rb') as f: return f.read()
    elif kind == 'write': write(fd, at, data)
    elif kind == 'append': os.write(fd, data)
    elif kind == 'truncate': os.ftruncate(fd, length)
    elif kind == 'truncatepath': os.truncate(op['path'], length)
    elif kind == 'mapread':
        size = os.fstat(fd).st_size
        if at >= size: return b''
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as m: return m[at:at + length]
    elif kind == 'mapwrite':
        with mmap.mmap(fd, at + len(data)) as m:
            m[at:at + len(data)] = data
            if op.get('sync'): m.flush()
    elif kind == 'allocate': fallocate(fd, 0, at, length)
    elif kind == 'punch': fallocate(fd, KEEP | PUNCH, at, length)
    elif kind == 'zero': fallocate(fd, ZERO | (KEEP if op.get('keep') else 0), at, length)
    elif kind == 'copy':
        to = op['to']
        while length > 0:
            n = os.copy_file_range(fd, fds[op['target']], length, at, to)
            if n == 0: break
            at += n; to += n; length -= n
    elif kind == 'fsync': os.fsync(fd)
    elif kind == 'size': return str(os.fstat(fd).st_size).encode()
    return b''
for line in sys.stdin:
    try: answer = {'data': base64.b64encode(run(json.loads(line))).decode()}
    except OSError as e: answer = {'error': errno.errorcode[e.errno]}
    print(json.dumps(answer), flush=True)
