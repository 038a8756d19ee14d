/** Loop devices that end with the process: freed when their last descriptor or mount is gone (struct loop_config of linux/loop.h). */
import { AT_FDCWD, E, O_CLOEXEC, O_RDONLY, O_RDWR } from './constants.ts';
import { close, ioctl, ioctlBuffer, openat } from './files.ts';

const LOOP_CTL_GET_FREE = 0x4c82;
const LOOP_CONFIGURE = 0x4c0a;
const LO_FLAGS_READ_ONLY = 1;
const LO_FLAGS_AUTOCLEAR = 4;
const CONFIG_BYTES = 304;
const FLAGS_AT = 60;
/** Others may take a free device before we do. */
const TRIES = 64;

export interface LoopDevice {
  /** Keeps the device until it is closed; a mount of it does so too. */
  fd: number;
  path: string;
}

/** Makes a device that shows an open file, for reading only. Or a negative errno. */
export function loopDevice(fileFd: number): LoopDevice | number {
  const control = openat(AT_FDCWD, '/dev/loop-control', O_RDWR | O_CLOEXEC);
  if (control < 0) return control;
  try {
    const config = Buffer.alloc(CONFIG_BYTES);
    config.writeUInt32LE(fileFd, 0);
    config.writeUInt32LE(LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR, FLAGS_AT);
    let result = -E.BUSY;
    for (let i = 0; i < TRIES && result === -E.BUSY; i++) {
      const number = ioctl(control, LOOP_CTL_GET_FREE, 0);
      if (number < 0) return number;
      const path = `/dev/loop${number}`;
      const fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
      if (fd < 0) return fd;
      result = ioctlBuffer(fd, LOOP_CONFIGURE, config);
      if (result >= 0) return { fd, path };
      close(fd);
    }
    return result;
  } finally {
    close(control);
  }
}
