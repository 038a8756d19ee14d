/** Parameters of a file system under construction that are descriptors (overlayfs layers, Linux 6.13), and what it says when it refuses. */
import { cstr, libc, orErrno } from './libc.ts';

const c = {
  fsconfig: libc.func('int fsconfig(int fd, unsigned int cmd, const void *key, const void *value, int aux)'),
  read: libc.func('long read(int fd, void *out, unsigned long size)'),
};

export function fsconfigFd(fd: number, key: string, value: number): number {
  return orErrno(c.fsconfig(fd, 5 /* FSCONFIG_SET_FD */, cstr(key), null, value));
}

const message = Buffer.alloc(512);

/** The kernel's messages about a file system under construction, such as `overlayfs: ...`; '' when there are none. */
export function fsMessages(fd: number): string {
  const lines: string[] = [];
  for (let i = 0; i < 8; i++) {
    const got = Number(c.read(fd, message, message.length));
    if (got <= 0) break;
    lines.push(
      message
        .latin1Slice(0, got)
        .replace(/^[ewi] /, '')
        .trim(),
    );
  }
  return lines.join('; ');
}
