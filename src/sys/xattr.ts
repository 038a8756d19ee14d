/**
 * Extended attributes by descriptor, and by a name in a directory (through /proc/self/fd/DIRFD/NAME, never following a symlink in
 * the last place). O_PATH descriptors have no f*xattr: use the *PathFd forms.
 */
import { cstr, cstr2, libc, orErrno } from './libc.ts';

const c = {
  fget: libc.func('long fgetxattr(int fd, const void *name, void *out, unsigned long size)'),
  fset: libc.func(
    'int fsetxattr(int fd, const void *name, const void *value, unsigned long size, int flags)',
  ),
  flist: libc.func('long flistxattr(int fd, void *out, unsigned long size)'),
  fremove: libc.func('int fremovexattr(int fd, const void *name)'),
  lget: libc.func('long lgetxattr(const void *path, const void *name, void *out, unsigned long size)'),
  lset: libc.func(
    'int lsetxattr(const void *path, const void *name, const void *value, unsigned long size, int flags)',
  ),
  llist: libc.func('long llistxattr(const void *path, void *out, unsigned long size)'),
  lremove: libc.func('int lremovexattr(const void *path, const void *name)'),
  get: libc.func('long getxattr(const void *path, const void *name, void *out, unsigned long size)'),
  set: libc.func(
    'int setxattr(const void *path, const void *name, const void *value, unsigned long size, int flags)',
  ),
  list: libc.func('long listxattr(const void *path, void *out, unsigned long size)'),
  remove: libc.func('int removexattr(const void *path, const void *name)'),
};

/** XATTR_SIZE_MAX and XATTR_LIST_MAX are both 64 KiB. */
const buffer = Buffer.alloc(65536);

function copied(length: number): Uint8Array | number {
  return length < 0 ? length : new Uint8Array(buffer.subarray(0, length));
}

export function fgetxattr(fd: number, name: string): Uint8Array | number {
  return copied(orErrno(Number(c.fget(fd, cstr(name), buffer, buffer.length))));
}

export function fsetxattr(fd: number, name: string, value: Uint8Array, flags = 0): number {
  return orErrno(c.fset(fd, cstr(name), value, value.length, flags));
}

/** NUL-terminated names one after the other, or a negative errno. */
export function flistxattr(fd: number): Uint8Array | number {
  return copied(orErrno(Number(c.flist(fd, buffer, buffer.length))));
}

export function fremovexattr(fd: number, name: string): number {
  return orErrno(c.fremove(fd, cstr(name)));
}

function at(dirfd: number, name: string): string {
  return `/proc/self/fd/${dirfd}/${name}`;
}

export function getxattrAt(dirfd: number, name: string, attribute: string): Uint8Array | number {
  return copied(orErrno(Number(c.lget(cstr(at(dirfd, name)), cstr2(attribute), buffer, buffer.length))));
}

export function setxattrAt(
  dirfd: number,
  name: string,
  attribute: string,
  value: Uint8Array,
  flags = 0,
): number {
  return orErrno(c.lset(cstr(at(dirfd, name)), cstr2(attribute), value, value.length, flags));
}

export function listxattrAt(dirfd: number, name: string): Uint8Array | number {
  return copied(orErrno(Number(c.llist(cstr(at(dirfd, name)), buffer, buffer.length))));
}

export function removexattrAt(dirfd: number, name: string, attribute: string): number {
  return orErrno(c.lremove(cstr(at(dirfd, name)), cstr2(attribute)));
}

function self(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

/** Of an O_PATH descriptor that is not a symlink. */
export function getxattrPathFd(fd: number, attribute: string): Uint8Array | number {
  return copied(orErrno(Number(c.get(cstr(self(fd)), cstr2(attribute), buffer, buffer.length))));
}

export function setxattrPathFd(fd: number, attribute: string, value: Uint8Array, flags = 0): number {
  return orErrno(c.set(cstr(self(fd)), cstr2(attribute), value, value.length, flags));
}

export function listxattrPathFd(fd: number): Uint8Array | number {
  return copied(orErrno(Number(c.list(cstr(self(fd)), buffer, buffer.length))));
}

export function removexattrPathFd(fd: number, attribute: string): number {
  return orErrno(c.remove(cstr(self(fd)), cstr2(attribute)));
}

/** The names in a list as listxattr gives it. */
export function splitXattrList(list: Uint8Array): string[] {
  return list.length === 0
    ? []
    : Buffer.from(list.buffer, list.byteOffset, list.length - 1)
        .toString('latin1')
        .split('\0');
}
