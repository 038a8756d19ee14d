/**
 * The face of formats/: pure codecs, bytes in, records out. No file system but for opening a .deb by its path, no network.
 */

export * from './contract.ts';
export * from './deb822.ts';
export * from './debian-version.ts';
export * from './relations.ts';
export * from './unit-metadata.ts';
