/** The face of sys/: the system calls Node lacks. Every call returns >= 0 or a negative errno and takes latin1 names. */
export * from './aio.ts';
export * from './capabilities.ts';
export * from './constants.ts';
export * from './directory.ts';
export * from './errno-name.ts';
export * from './events.ts';
export * from './files.ts';
export * from './hold.ts';
export { addressOf } from './libc.ts';
export * from './loop-device.ts';
export * from './lzma.ts';
export * from './mmap.ts';
export * from './mount.ts';
export * from './mount-fd.ts';
export * from './process.ts';
export * from './stat.ts';
export * from './writeback.ts';
export * from './xattr.ts';
