/**
 * What the control plane does with files of a mount that strata-fs serves, without ever waiting for it on the main thread: opening one by the number of its
 * node, in a thread, and fsync(2) of many at once, by the kernel's own workers (io_submit).
 */
import { addressOf, libc, orErrno } from './libc.ts';

const openByHandle = libc.func('int open_by_handle_at(int mountFd, void *handle, int flags)');
const call = libc.func('syscall', 'long', ['long', 'long', 'size_t', 'size_t', 'size_t', 'size_t']);

/** The numbers of the calls differ between architectures. */
const SYS =
  process.arch === 'x64'
    ? { setup: 206, destroy: 207, getevents: 208, submit: 209 }
    : { setup: 0, destroy: 1, submit: 2, getevents: 4 };
/** FILEID_INO64_GEN: a node's number and generation, as FUSE makes its handles. */
const HANDLE_TYPE = 0x81;
const HANDLE_BYTES = 12;
const IOCB_BYTES = 64;
const IOCB_CMD_FSYNC = 2;
const EVENT_BYTES = 32;

/** Opens the node of a FUSE mount for reading, in a thread; a negative number when that is not possible. `mountFd`: any descriptor of the mount. */
export function openNode(mountFd: number, node: number, flags: number): Promise<number> {
  const handle = new DataView(new ArrayBuffer(8 + HANDLE_BYTES));
  handle.setUint32(0, HANDLE_BYTES, true);
  handle.setInt32(4, HANDLE_TYPE, true);
  handle.setUint32(8, Math.floor(node / 2 ** 32), true);
  handle.setUint32(12, node % 2 ** 32, true);
  const bytes = new Uint8Array(handle.buffer);
  return new Promise((resolve) => {
    openByHandle.async(mountFd, bytes, flags, (error: unknown, fd: number) =>
      resolve(error === null ? fd : -1),
    );
  });
}

const syncfs = libc.func('int syncfs(int fd)');

/** syncfs(2) of the file system of a descriptor, in a thread. Errors do not count. */
export function syncMount(fd: number): Promise<void> {
  return new Promise((resolve) => syncfs.async(fd, () => resolve()));
}

/** fsync(2) of files that goes on in the kernel. */
export interface AsyncSync {
  /** Waits, for `ms` at most, until all have ended. */
  ended(ms: number): Promise<boolean>;
}

/** Begins to sync all of these files; a negative errno. */
export function beginSync(fds: readonly number[]): AsyncSync | number {
  const context = Buffer.allocUnsafeSlow(128).fill(0);
  const set = orErrno(Number(call(SYS.setup, fds.length, addressOf(context), 0, 0, 0)));
  if (set < 0) return set;
  const id = context.readBigUInt64LE(0);
  const blocks = Buffer.alloc(Math.max(128, fds.length * IOCB_BYTES));
  const pointers = Buffer.alloc(Math.max(128, fds.length * 8));
  for (const [i, fd] of fds.entries()) {
    blocks.writeUInt16LE(IOCB_CMD_FSYNC, i * IOCB_BYTES + 16);
    blocks.writeUInt32LE(fd, i * IOCB_BYTES + 20);
    pointers.writeBigUInt64LE(BigInt(addressOf(blocks)) + BigInt(i * IOCB_BYTES), i * 8);
  }
  const begun = orErrno(Number(call(SYS.submit, id, fds.length, addressOf(pointers), 0, 0)));
  let left = Math.max(0, begun);
  const events = Buffer.alloc(Math.max(128, fds.length * EVENT_BYTES));
  const noTime = Buffer.alloc(128);
  const end = (): void => {
    // Waits for what has not ended, so in a thread.
    call.async(SYS.destroy, id, 0, 0, 0, 0, () => {});
  };
  if (begun < fds.length) {
    end();
    return begun < 0 ? begun : -11;
  }
  return {
    async ended(ms) {
      const until = performance.now() + ms;
      for (;;) {
        const got = Number(call(SYS.getevents, id, 0, fds.length, addressOf(events), addressOf(noTime)));
        left -= Math.max(0, got);
        if (left <= 0 || performance.now() >= until) break;
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      end();
      // Kept until here: the kernel was told where they are.
      return left <= 0 && blocks.length + pointers.length > 0;
    },
  };
}
