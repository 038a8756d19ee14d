/**
 * A file that holds a file system, opened for reading: by a loop device that is read only and frees itself, and a mount without a place (fsmount), so that nothing is
 * left when this process ends or is killed. No set-user-id, no devices, no programs of it count. Its journal is not replayed: an image that was not unmounted is refused by the kernel.
 */
import { nameFromText, StrataError } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { must } from '../merge-layers/untrusted-tree.ts';
import type { ImageType } from './source.ts';

const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC;

/** RDONLY, NOSUID, NODEV, NOEXEC of linux/mount.h. */
const ATTRIBUTES = 0x1 | 0x2 | 0x4 | 0x8;

/** Calls `use` with a descriptor of the root of the file system in `file`. Throws UNSUPPORTED, BAD_FORMAT. */
export async function withImage<T>(
  file: string,
  type: ImageType,
  use: (rootFd: number) => Promise<T>,
): Promise<T> {
  let device: sys.LoopDevice | null = attach(file);
  let mountFd = -1;
  let rootFd = -1;
  try {
    mountFd = mountDetached(device.path, type, file);
    // From here on the mount holds the device, which goes with it.
    sys.close(device.fd);
    device = null;
    rootFd = must(sys.openat(mountFd, '.', DIRECTORY), `open ${file}`);
    return await use(rootFd);
  } finally {
    if (rootFd >= 0) sys.close(rootFd);
    if (mountFd >= 0) sys.close(mountFd);
    if (device !== null) sys.close(device.fd);
  }
}

function attach(file: string): sys.LoopDevice {
  const path = nameFromText(file);
  const flags = sys.O_RDONLY | sys.O_NONBLOCK | sys.O_CLOEXEC;
  const fd = must(sys.openat(sys.AT_FDCWD, path, flags), `open ${file}`);
  const device = sys.loopDevice(fd);
  sys.close(fd);
  if (typeof device !== 'number') return device;
  throw new StrataError('UNSUPPORTED', `${file} cannot be attached to a loop device`, {
    hint: `${sys.errnoName(-device)}; this needs /dev/loop-control`,
  });
}

function mountDetached(device: string, type: ImageType, file: string): number {
  const fs = sys.fsopen(type);
  if (fs < 0) throw new StrataError('UNSUPPORTED', `this kernel has no ${type} (${sys.errnoName(-fs)})`);
  try {
    sys.fsconfigString(fs, 'source', device);
    sys.fsconfigFlag(fs, 'ro');
    // What an image says to do at an error may be a panic.
    if (type === 'ext4') sys.fsconfigString(fs, 'errors', 'remount-ro');
    // A copy of an image has the same identity as the original, which may be mounted.
    if (type === 'xfs') sys.fsconfigFlag(fs, 'nouuid');
    const made = sys.fsconfigCreate(fs);
    const mounted = made < 0 ? made : sys.fsmount(fs, ATTRIBUTES);
    if (mounted >= 0) return mounted;
    const said = sys.fsMessages(fs);
    throw new StrataError(
      'BAD_FORMAT',
      `the ${type} in ${file} cannot be mounted (${said === '' ? sys.errnoName(-mounted) : said})`,
      { hint: 'an image that was in use must be checked first (e2fsck, xfs_repair, btrfs check)' },
    );
  } finally {
    sys.close(fs);
  }
}
