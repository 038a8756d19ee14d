/** mount(2), umount2(2) and the new mount API (fsopen, fsconfig, fsmount, move_mount; glibc 2.36). */
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

/** Attaches a detached mount (from fsmount) at a path. */
export function attachMount(mountFd: number, target: string): number {
  return orErrno(c.moveMount(mountFd, cstr(''), -100, cstr2(target), 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
}
