/**
 * A block device whose writes are remembered: a FUSE file system with the file `disk` (a disk image, for a loop device) and the file `position`,
 * whose size is the number of bytes of the log. Every WRITE and FSYNC that reaches `disk` is appended to the log in the order in which it is
 * carried out (write-log.ts). Single-threaded, so what the log holds before an FSYNC is what that FSYNC made durable.
 * Run as: node logged-disk-server.ts MOUNTPOINT IMAGE LOG. Ends when it is unmounted.
 */
import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { createFuseBuffers } from '../../src/fuse/server/buffers.ts';
import { createFuseServer } from '../../src/fuse/server/server.ts';
import * as sys from '../../src/sys/index.ts';
import type { Attr, EntryOut, VfsOperations } from '../../src/vlfs/contract.ts';
import { SYNC, writeHeader } from './write-log.ts';

const [mountpoint, imageFile, logFile] = process.argv.slice(2) as [string, string, string];
const image = openSync(imageFile, 'r+');
const log = openSync(logFile, 'wx');
const imageBytes = fstatSync(image).size;
let position = 0;

const ROOT = 1;
const DISK = 2;
const POSITION = 3;
const DAY_MS = 24 * 3600 * 1000;

function append(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(log, bytes, at);
  position += bytes.length;
}

function attr(node: number, out: Attr): number {
  const isRoot = node === ROOT;
  const size = node === DISK ? imageBytes : node === POSITION ? position : 0;
  const mode = isRoot ? sys.S_IFDIR | 0o755 : sys.S_IFREG | 0o600;
  const zero = { atimeSec: 0, atimeNsec: 0, mtimeSec: 0, mtimeNsec: 0, ctimeSec: 0, ctimeNsec: 0 };
  const blocks = Math.ceil(size / 512);
  Object.assign(out, zero, {
    ino: node,
    size,
    blocks,
    mode,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
  });
  return 0;
}

const operations: Partial<VfsOperations> = {
  init() {},
  destroy() {},
  forget() {},
  lookup(_caller, parent, name, out: EntryOut) {
    const node = parent !== ROOT ? 0 : name === 'disk' ? DISK : name === 'position' ? POSITION : 0;
    if (node === 0) return -sys.E.NOENT;
    Object.assign(out, { nodeId: node, generation: 0, entryValidMs: DAY_MS, attrValidMs: 0 });
    return attr(node, out.attr);
  },
  getattr: (_caller, node, _fh, out) => attr(node, out),
  attrValidMs: (node) => (node === POSITION ? 0 : DAY_MS),
  // The loop driver's writes touch the times of the file.
  setattr: (_caller, node, _change, out) => attr(node, out),
  open(_caller, _node, _flags, out) {
    Object.assign(out, {
      fh: 1,
      backingFd: -1,
      backingReadOnly: false,
      directIo: false,
      keepCache: true,
      keepsBacking: false,
    });
    return 0;
  },
  read(_caller, node, _fh, offset, into) {
    return node === DISK ? readSync(image, into, 0, into.length, offset) : 0;
  },
  write(_caller, node, _fh, offset, from) {
    if (node !== DISK) return -sys.E.ACCES;
    append(writeHeader(offset, from.length));
    append(from);
    for (let at = 0; at < from.length; ) at += writeSync(image, from, at, from.length - at, offset + at);
    return from.length;
  },
  fsync(_caller, node) {
    if (node === DISK) append(writeHeader(SYNC, 0));
    return 0;
  },
  flush: () => 0,
  release: () => 0,
  statfs(_caller, _node, out) {
    Object.assign(out, {
      blocks: 1,
      bfree: 0,
      bavail: 0,
      files: 3,
      ffree: 0,
      bsize: 4096,
      namelen: 255,
      frsize: 4096,
    });
    return 0;
  },
};
const ops = new Proxy(operations, {
  get: (known, name) => known[name as keyof VfsOperations] ?? (() => -sys.E.NOSYS),
}) as VfsOperations;

const fuse = openSync('/dev/fuse', 'r+');
const options = `fd=${fuse},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions`;
const mounted = sys.mount('strata-logged-disk', mountpoint, 'fuse', 0, options);
if (mounted < 0) throw new Error(`cannot mount at ${mountpoint}: ${sys.errnoName(mounted)}`);
process.stdout.write('ready\n');

const buffers = createFuseBuffers();
const server = createFuseServer({
  ops,
  buffers,
  backingDevice: null,
  onException: (opcode, error) => console.error(opcode, error),
});
for (;;) {
  let length: number;
  try {
    length = readSync(fuse, buffers.request);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENODEV') break;
    // A request that was taken back before it was read.
    if (code === 'ENOENT' || code === 'EINTR' || code === 'EAGAIN') continue;
    throw error;
  }
  const reply = server.handle(length);
  if (reply <= 0) continue;
  try {
    writeSync(fuse, buffers.reply, 0, reply);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
closeSync(log);
