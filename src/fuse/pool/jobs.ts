/**
 * What the blocking pool executes: slow jobs of a VLFS, and notifies that wait for kernel locks. A job runs in slices, so that a
 * long copy does not keep a short fsync waiting. Descriptors belong to the VLFS, which keeps them open until the job is done.
 */
import * as sys from '../../sys/index.ts';
import type { SlowJob } from '../../vlfs/contract.ts';

/** A job as it travels to a pool thread: without callbacks. */
export type PoolJob =
  | Exclude<SlowJob, { kind: 'steps' | 'follow' }>
  /** What no name leads to is freed by its last descriptor: that may take as long as deleting a large file. */
  | { kind: 'close'; fds: number[] }
  /** Writes notify messages, each of which begins with its length, to a FUSE descriptor. */
  | { kind: 'notify'; fuseFd: number; messages: Uint8Array<ArrayBuffer> };

/** Bytes of one step of a copy. */
const SLICE_BYTES = 64 << 20;
const BUFFER_BYTES = 1 << 20;
/** Notifies written before other work gets a turn. */
const NOTIFY_SLICE = 2048;

const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
/** Allocated by the first copy that needs it. */
let buffer: Buffer | null = null;

/** copy_file_range does not work between these files. */
function cannotCopyInKernel(errno: number): boolean {
  return [sys.E.XDEV, sys.E.INVAL, sys.E.NOSYS, sys.E.OPNOTSUPP, sys.E.BADF].includes(-errno as never);
}

/** One slice through memory; bytes copied, 0 at the end of the source, or a negative errno. */
function copyThroughMemory(
  from: number,
  fromOffset: number,
  to: number,
  toOffset: number,
  size: number,
): number {
  buffer ??= Buffer.alloc(BUFFER_BYTES);
  const got = sys.pread(from, buffer, Math.min(size, BUFFER_BYTES), fromOffset);
  if (got <= 0) return got;
  for (let done = 0; done < got; ) {
    const wrote = sys.pwrite(to, buffer.subarray(done, got), got - done, toOffset + done);
    if (wrote < 0) return done > 0 ? done : wrote;
    done += wrote;
  }
  return got;
}

/** Copies [offset, offset + size) of one file; fewer bytes at the end of the source. Returns bytes copied or a negative errno. */
async function copyRange(
  from: number,
  fromOffset: number,
  to: number,
  toOffset: number,
  size: number,
): Promise<number> {
  let inKernel = true;
  let done = 0;
  while (done < size) {
    const slice = Math.min(SLICE_BYTES, size - done);
    let n = inKernel
      ? sys.copyFileRange(from, fromOffset + done, to, toOffset + done, slice)
      : copyThroughMemory(from, fromOffset + done, to, toOffset + done, slice);
    if (inKernel && n < 0 && cannotCopyInKernel(n)) {
      inKernel = false;
      n = copyThroughMemory(from, fromOffset + done, to, toOffset + done, slice);
    }
    if (n === -sys.E.INTR) continue;
    if (n < 0) return done > 0 ? done : n;
    if (n === 0) break;
    done += n;
    if (done < size) await breathe();
  }
  return done;
}

/** The whole file: shared blocks where the file system can, else its data without its holes. 0 or a negative errno. */
export async function copyData(from: number, to: number, sizeBytes: number): Promise<number> {
  if (sizeBytes === 0) return 0;
  if (sys.ficlone(to, from) === 0) return 0;
  let at = 0;
  while (at < sizeBytes) {
    const data = sys.lseek(from, at, sys.SEEK_DATA);
    if (data === -sys.E.NXIO) break;
    const begin = data < 0 ? at : data;
    const hole = data < 0 ? sizeBytes : sys.lseek(from, begin, sys.SEEK_HOLE);
    const end = Math.min(hole < 0 ? sizeBytes : hole, sizeBytes);
    if (begin >= sizeBytes) break;
    // A part is no success: what stopped the copy (a full disk) stops its continuation too, and is told then.
    const copied = await copyRange(from, begin, to, begin, end - begin);
    if (copied < 0) return copied;
    // A source that ended early keeps its length by the truncation below.
    if (copied === 0) break;
    at = begin + copied;
  }
  return sys.ftruncate(to, sizeBytes);
}

/** Pieces of a file to the same places of another. 0 or a negative errno. */
export async function fill(from: number, to: number, pieces: number[], clone: boolean): Promise<number> {
  if (clone && sys.ficlone(to, from) === 0) return 0;
  for (let i = 0; i + 1 < pieces.length; i += 2) {
    const end = pieces[i]! + pieces[i + 1]!;
    for (let at = pieces[i]!; at < end; ) {
      const copied = await copyRange(from, at, to, at, end - at);
      if (copied <= 0) return copied === 0 ? -sys.E.IO : copied;
      at += copied;
    }
    await breathe();
  }
  return 0;
}

async function notify(fuseFd: number, messages: Uint8Array<ArrayBuffer>): Promise<number> {
  const view = new DataView(messages.buffer);
  let written = 0;
  for (let at = 0; at < messages.length; ) {
    const length = view.getUint32(at, true);
    const errno = sys.write(fuseFd, messages.subarray(at, at + length), length);
    // ENOENT: the kernel does not hold this name. ENOTDIR, ESTALE: nor this directory.
    if (errno === -sys.E.NODEV || errno === -sys.E.NOTCONN) return errno;
    at += length;
    if (++written % NOTIFY_SLICE === 0) await breathe();
  }
  return 0;
}

/** Runs a job to its end. Returns its result: 0, a count, or a negative errno. */
export async function runPoolJob(job: PoolJob): Promise<number> {
  switch (job.kind) {
    case 'fsync':
      return job.dataOnly ? sys.fdatasync(job.fd) : sys.fsync(job.fd);
    case 'syncfs':
      return sys.syncfs(job.fd);
    case 'write-out':
      return sys.writeOut(job.fds);
    case 'fallocate':
      return sys.fallocate(job.fd, job.mode, job.offset, job.length);
    case 'truncate':
      return sys.ftruncate(job.fd, job.sizeBytes);
    case 'close':
      for (const fd of job.fds) sys.close(fd);
      return 0;
    case 'copy-data':
      return await copyData(job.fromFd, job.toFd, job.sizeBytes);
    case 'copy-range':
      return await copyRange(job.fromFd, job.fromOffset, job.toFd, job.toOffset, job.sizeBytes);
    case 'scan': {
      // Loaded by the first appliance that is checked at open.
      const { judgeForOpen } = await import('../../scan/index.ts');
      return await judgeForOpen(job.fd, job.digest, job.file);
    }
    case 'fill':
      return await fill(job.fromFd, job.toFd, job.pieces, job.clone);
    case 'notify':
      return await notify(job.fuseFd, job.messages);
  }
}
