/**
 * The face of formats/: pure codecs, bytes in, records out. No file system but for opening a .deb by its path, no network.
 */

export { type ArMember, readAr } from './ar.ts';
export { collect } from './byte-reader.ts';
export { type Compression, type DecompressOptions, decompress, detectCompression } from './compression.ts';
export * from './contract.ts';
export { type OpenDebOptions, openDeb } from './deb.ts';
export * from './deb822.ts';
export * from './debian-version.ts';
export { type ElfDynamic, isElf, parseElfDynamic, type ReadAt } from './elf.ts';
export type { ErofsChild, ErofsInode, ErofsOptions } from './erofs/contract.ts';
export { writeErofs } from './erofs/write-erofs.ts';
export * from './relations.ts';
export { normalisePath } from './tar-paths.ts';
export { type ReadTarOptions, readTar } from './tar-reader.ts';
export { writeTar } from './tar-writer.ts';
export * from './unit-metadata.ts';
