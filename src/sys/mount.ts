/** mount(2), umount2(2) and the new mount API (fsopen, fsconfig, fsmount, move_mount; glibc 2.36). */
import { AT_FDCWD, O_CLOEXEC, O_DIRECTORY, O_PATH, RESOLVE_NO_SYMLINKS } from './constants.ts';
import { close, openat2 } from './files.ts';
import { cstr, cstr2, libc, orErrno, terminated } from './libc.ts';

export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_REMOUNT = 32;
export const MS_BIND = 4096;
export const MS_REC = 16384;
export const MS_PRIVATE = 1 << 18;
export const MNT_FORCE = 1;
export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

const c = {
  mount: libc.func(
    'int mount(const void *source, const void *target, const void *type, unsigned long flags, const void *data)',
  ),
  umount2: libc.func('int umount2(const void *target, int flags)'),
  fsopen: libc.func('int fsopen(const void *type, unsigned int flags)'),
  fsconfig: libc.func('int fsconfig(int fd, unsigned int cmd, const void *key, const void *value, int aux)'),
  fsmount: libc.func('int fsmount(int fd, unsigned int flags, unsigned int attributes)'),
  moveMount: libc.func(
    'int move_mount(int fromFd, const void *from, int toFd, const void *to, unsigned int flags)',
  ),
};

export function mount(source: string, target: string, type: string, flags: number, data = ''): number {
  return orErrno(c.mount(terminated(source), terminated(target), terminated(type), flags, terminated(data)));
}

export function umount(target: string, flags = 0): number {
  return orErrno(c.umount2(cstr(target), flags));
}

export function fsopen(type: string): number {
  return orErrno(c.fsopen(cstr(type), 1 /* FSOPEN_CLOEXEC */));
}

export function fsconfigString(fd: number, key: string, value: string): number {
  return orErrno(c.fsconfig(fd, 1 /* FSCONFIG_SET_STRING */, cstr(key), cstr2(value), 0));
}

export function fsconfigFlag(fd: number, key: string): number {
  return orErrno(c.fsconfig(fd, 0 /* FSCONFIG_SET_FLAG */, cstr(key), null, 0));
}

export function fsconfigCreate(fd: number): number {
  return orErrno(c.fsconfig(fd, 6 /* FSCONFIG_CMD_CREATE */, null, null, 0));
}

/** attributes: MOUNT_ATTR_RDONLY 1. */
export function fsmount(fd: number, attributes = 0): number {
  return orErrno(c.fsmount(fd, 1 /* FSMOUNT_CLOEXEC */, attributes));
}

/**
 * Calls `work` with a descriptor of a directory to mount on, and a path that leads to it whatever happens to its names meanwhile; else a negative errno. -ELOOP: there is a link in `path`,
 * which would let whoever can change it choose the place.
 */
export function onMountpoint(path: string, work: (fd: number, target: string) => number): number {
  const fd = openat2(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
  if (fd < 0) return fd;
  try {
    return work(fd, `/proc/self/fd/${fd}`);
  } finally {
    close(fd);
  }
}

/** Attaches a detached mount (from fsmount) at a path without links. */
export function attachMount(mountFd: number, target: string): number {
  // MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
  return onMountpoint(target, (fd) => orErrno(c.moveMount(mountFd, cstr(''), fd, cstr2(''), 0x4 | 0x40)));
}
