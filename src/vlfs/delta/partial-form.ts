/**
 * The form on disk of a partial file: a private inode with all attributes and the logical size, whose blocks are those of a file of a layer except
 * where its map says that they are its own (docs/formats/private-layer.md). All of it is in extended attributes of the inode, so it moves, is linked and
 * deleted with it. `trusted.overlay.metacopy` tells the kernel's overlayfs: with no block of its own such a file is overlayfs' metadata-only
 * copy; once it has some, its redirect leads nowhere, so that overlayfs refuses it and never shows wrong bytes.
 */
import { isAbsolute, relative, resolve } from 'node:path';
import { nameFromText, nameToText } from '../../base/index.ts';
import { E, fgetxattr, fremovexattr, fsetxattr } from '../../sys/index.ts';
import { BLOCK, type BlockMap, decodeMap, encodeMap } from './block-map.ts';

export const PARTIAL_XATTR = 'trusted.strata.partial';
/** On private/: the units whose files partial files need, as `UNIT NUL DIRECTORY NUL` with the directory relative to private/. */
export const BASES_XATTR = 'trusted.strata.bases';
const METACOPY = 'trusted.overlay.metacopy';
const REDIRECT = 'trusted.overlay.redirect';
/** A name that no layer has: overlayfs finds no data there and answers EIO. */
const NOWHERE = '/.strata-partial';
/** All attributes of an inode share one block on ext4. */
const MOST_BASES_BYTES = 2048;
/** A longer path has no room beside the other attributes. */
const LONGEST_REDIRECT = 1024;
const VERSION = 1;
const HEAD_BYTES = 22;
const META = 1;

/** Attributes that a whole copy of a partial file must not have. */
export function isMarkOfPartial(name: string): boolean {
  return name === PARTIAL_XATTR || name === METACOPY || name === REDIRECT;
}

export interface PartialForm {
  /** The unit and the path in it of the file below. */
  unit: string;
  path: string;
  /** Its size. */
  baseSize: number;
  /** The space it takes, in units of BLOCK. */
  baseBlocks: number;
  /** Blocks from here on are the file's own: nothing of the file below shows there any more. */
  limit: number;
  /** Nothing but attributes was changed. */
  meta: boolean;
  map: BlockMap;
}

/** Blocks that a size takes. */
export function blocksOf(size: number): number {
  return Math.ceil(size / BLOCK);
}

export function encodePartial(form: PartialForm): Uint8Array {
  const unit = nameFromText(form.unit);
  const head = Buffer.alloc(HEAD_BYTES);
  head[0] = VERSION;
  head[1] = form.meta ? META : 0;
  head.writeUInt32LE(form.baseSize % 2 ** 32, 2);
  head.writeUInt32LE(Math.floor(form.baseSize / 2 ** 32), 6);
  head.writeUInt32LE(form.limit, 10);
  head.writeUInt16LE(unit.length, 14);
  head.writeUInt16LE(form.path.length, 16);
  head.writeUInt32LE(form.baseBlocks, 18);
  const runs: number[] = [];
  encodeMap(form.map, runs);
  return Buffer.concat([head, Buffer.from(unit + form.path, 'latin1'), Buffer.from(runs)]);
}

/** Null when the attribute is damaged. */
export function decodePartial(value: Uint8Array): PartialForm | null {
  if (value.length < HEAD_BYTES || value[0] !== VERSION) return null;
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.length);
  const baseSize = bytes.readUInt32LE(2) + bytes.readUInt32LE(6) * 2 ** 32;
  const limit = bytes.readUInt32LE(10);
  const unitEnd = HEAD_BYTES + bytes.readUInt16LE(14);
  const pathEnd = unitEnd + bytes.readUInt16LE(16);
  if (pathEnd > bytes.length || !Number.isSafeInteger(baseSize) || limit > blocksOf(baseSize)) return null;
  const unit = nameToText(bytes.latin1Slice(HEAD_BYTES, unitEnd) as never);
  const path = bytes.latin1Slice(unitEnd, pathEnd);
  const map = decodeMap(bytes, pathEnd, limit);
  if (unit === '' || path === '' || map === null) return null;
  const baseBlocks = bytes.readUInt32LE(18);
  return { unit, path, baseSize, baseBlocks, limit, meta: (bytes[1]! & META) !== 0, map };
}

/** Writes the form; 0 or a negative errno (-ENOSPC: the inode has no room for so large a map). */
export function storePartial(fd: number, form: PartialForm): number {
  return fsetxattr(fd, PARTIAL_XATTR, encodePartial(form));
}

/** A new metadata-only copy is overlayfs' too. */
export function markMetacopy(fd: number): number {
  return fsetxattr(fd, METACOPY, new Uint8Array(0));
}

/** Before the first block of its own. */
export function hideFromOverlayfs(fd: number): number {
  return fsetxattr(fd, REDIRECT, Buffer.from(NOWHERE, 'latin1'));
}

/** Where overlayfs finds the content of a metadata-only copy that gets another name. */
export function redirectOf(form: PartialForm): { name: string; value: Uint8Array } {
  const shows = form.meta && form.path.length <= LONGEST_REDIRECT;
  return { name: REDIRECT, value: Buffer.from(shows ? `/${form.path}` : NOWHERE, 'latin1') };
}

/** The file has all of its content: it is an ordinary one from now on. */
export function dropPartial(fd: number): number {
  fremovexattr(fd, METACOPY);
  fremovexattr(fd, REDIRECT);
  return fremovexattr(fd, PARTIAL_XATTR);
}

/** The units that partial files of a private layer need, by id, with their trees. `rootFd`: private/, at `privateDir`. */
export function readBases(rootFd: number, privateDir: string): Map<string, string> {
  const value = fgetxattr(rootFd, BASES_XATTR);
  const bases = new Map<string, string>();
  if (typeof value === 'number') return bases;
  const parts = Buffer.from(value).toString('latin1').split('\0');
  for (let i = 0; i + 1 < parts.length; i += 2) {
    const dir = nameToText(parts[i + 1] as never);
    bases.set(nameToText(parts[i] as never), isAbsolute(dir) ? dir : resolve(privateDir, dir));
  }
  return bases;
}

/** Notes one more unit, before the first file that needs it. 0 or a negative errno. */
export function writeBases(rootFd: number, privateDir: string, bases: ReadonlyMap<string, string>): number {
  let text = '';
  for (const [id, dir] of bases) text += `${nameFromText(id)}\0${nameFromText(relative(privateDir, dir))}\0`;
  if (text.length > MOST_BASES_BYTES) return -E.NOSPC;
  return fsetxattr(rootFd, BASES_XATTR, Buffer.from(text, 'latin1'));
}
