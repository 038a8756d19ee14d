/**
 * /dev/fuse: mount(2) of a connection, its removal, further mountpoints by bind mount, and passthrough backing files. The descriptor is
 * non-blocking. The process that serves a mount must never look inside it; mount(2) and umount2(2) themselves are safe.
 */
import { writeFileSync } from 'node:fs';
import { StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { FUSE_DEV_IOC_BACKING_CLOSE, FUSE_DEV_IOC_BACKING_OPEN } from '../abi/constants.ts';
import { BACKING_MAP } from '../abi/layout.ts';
import type { BackingDevice } from '../server/backing-table.ts';
import { MAX_WRITE_BYTES } from '../server/buffers.ts';

const READ_AHEAD_BYTES = MAX_WRITE_BYTES;
/** Shown by findmnt as source and type. */
const SOURCE = 'strata';
const SUBTYPE = 'strata';

function failure(what: string, errno: number, hint: string): StrataError {
  const code = errno === -sys.E.BUSY ? 'BUSY' : errno === -sys.E.NOENT ? 'NOT_FOUND' : 'IO';
  return new StrataError(code, `cannot ${what}: ${sys.errnoName(errno)}`, { hint });
}

/** Mounts a new connection at an existing directory (a latin1 path without links) and returns its descriptor, which `announce` gets before the mount is made. */
export function mountFuse(mountpoint: string, readOnly: boolean, announce: (fd: number) => void): number {
  const fd = sys.openat(sys.AT_FDCWD, '/dev/fuse', sys.O_RDWR | sys.O_NONBLOCK | sys.O_CLOEXEC);
  if (fd < 0) throw failure('open /dev/fuse', fd, 'load the kernel module fuse, and run as root');
  const options = `fd=${fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,subtype=${SUBTYPE}`;
  announce(fd);
  const flags = readOnly ? sys.MS_RDONLY : 0;
  const errno = sys.onMountpoint(mountpoint, (_, target) =>
    sys.mount(SOURCE, target, 'fuse', flags, options),
  );
  if (errno === 0) return fd;
  sys.close(fd);
  throw failure(`mount at ${mountpoint}`, errno, 'the mountpoint must be an existing directory');
}

/**
 * Lets the kernel read ahead a whole request of what it reads through the page cache of a mount that was just made. Its own default is an eighth of
 * that, and each request costs a round trip. Where sysfs is read-only it stays at the default.
 */
export function setReadAhead(mountpoint: string): void {
  const device = sys.deviceAt(mountpoint);
  if (device < 0) return;
  const name = `${sys.majorOf(device)}:${sys.minorOf(device)}`;
  try {
    writeFileSync(`/sys/class/bdi/${name}/read_ahead_kb`, String(READ_AHEAD_BYTES / 1024));
  } catch {}
}

/** Shows an existing mount at a second directory. */
export function bindMount(from: string, to: string, readOnly: boolean): void {
  const errno = sys.onMountpoint(from, (_, source) =>
    sys.onMountpoint(to, (_, target) => sys.mount(source, target, 'none', sys.MS_BIND, '')),
  );
  if (errno < 0) throw failure(`mount at ${to}`, errno, 'the mountpoint must be an existing directory');
  if (!readOnly) return;
  const flags = sys.MS_BIND | sys.MS_REMOUNT | sys.MS_RDONLY;
  const set = sys.onMountpoint(to, (_, target) => sys.mount('none', target, 'none', flags, ''));
  if (set === 0) return;
  unmount(to, true);
  throw failure(`make the mount at ${to} read-only`, set, 'choose another directory');
}

/** Removes the topmost mount at a directory; lazily: at once for new walks, when unused for the rest. BUSY when it is in use. */
export function unmount(mountpoint: string, lazily: boolean): void {
  const errno = sys.umount(mountpoint, (lazily ? sys.MNT_DETACH : 0) | sys.UMOUNT_NOFOLLOW);
  if (errno === 0 || errno === -sys.E.INVAL || errno === -sys.E.NOENT) return;
  throw failure(`unmount ${mountpoint}`, errno, 'end the programs that use it, or unmount with force');
}

/**
 * Passthrough backing files of a connection. Needs CAP_SYS_ADMIN. The kernel writes to them with the privileges that the thread had when it gave
 * them: without CAP_FSETID a write ends set-user-id bits, also those which the file got while it was open.
 */
export function createBackingDevice(fuseFd: number): BackingDevice {
  const map = new Uint8Array(BACKING_MAP.size);
  const view = new DataView(map.buffer);
  const unprivileged = sys.withoutFsetid();
  return {
    open(fd, privileged) {
      view.setInt32(BACKING_MAP.fd, fd, true);
      const give = () => sys.ioctlBuffer(fuseFd, FUSE_DEV_IOC_BACKING_OPEN, map);
      return privileged ? give() : unprivileged(give);
    },
    close(backingId) {
      view.setInt32(BACKING_MAP.fd, backingId, true);
      sys.ioctlBuffer(fuseFd, FUSE_DEV_IOC_BACKING_CLOSE, map);
    },
  };
}
