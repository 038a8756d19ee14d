/**
 * Shared mappings: of whole files for reading, for files that never change in place (tree indexes), and of anonymous files (memfd) for
 * memory that outlives the process. A mapping lives as long as its ArrayBuffer: it is unmapped after the garbage collector has taken that.
 */
import koffi from 'koffi';
import { cstr, libc, orErrno } from './libc.ts';

const c = {
  mmap: libc.func(
    'void *mmap(void *at, unsigned long size, int protection, int flags, int fd, int64_t offset)',
  ),
  munmap: libc.func('int munmap(void *at, unsigned long size)'),
  memfd: libc.func('int memfd_create(const void *name, unsigned int flags)'),
};

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MFD_CLOEXEC = 1;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

const mappings = new FinalizationRegistry<{ pointer: unknown; size: number }>(({ pointer, size }) => {
  c.munmap(pointer, size);
});

/** Maps the first `size` bytes (> 0) of an open file for reading; writing into the result faults. Or a negative errno. The file
 * must not be truncated while it is mapped. `fd` may be closed afterwards. */
export function mapFile(fd: number, size: number): ArrayBuffer | number {
  return map(fd, size, PROT_READ);
}

/** As mapFile, for reading and writing: what is written is in the file at once. The file must be at least `size` long. */
export function mapShared(fd: number, size: number): ArrayBuffer | number {
  return map(fd, size, PROT_READ | PROT_WRITE);
}

/** A new anonymous file of length 0; or a negative errno. */
export function memfdCreate(name: string): number {
  return orErrno(c.memfd(cstr(name), MFD_CLOEXEC));
}

function map(fd: number, size: number, protection: number): ArrayBuffer | number {
  const pointer = c.mmap(null, size, protection, MAP_SHARED, fd, 0);
  if (pointer === null || BigInt.asUintN(64, koffi.address(pointer)) === MAP_FAILED) return orErrno(-1);
  const bytes = koffi.view(pointer, size);
  mappings.register(bytes, { pointer, size });
  return bytes;
}
