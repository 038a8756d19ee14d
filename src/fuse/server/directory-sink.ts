/**
 * The directory records of one READDIR or READDIRPLUS reply, written straight into the reply buffer. It never writes beyond the
 * size the kernel asked for, and counts nothing: an entry that does not fit was not added, so its lookup must not be counted.
 */
import type { Name } from '../../base/index.ts';
import type { DirectorySink, EntryOut } from '../../vlfs/contract.ts';
import { DIRENT, DIRENTPLUS, direntSize, ENTRY_OUT, OUT_HEADER } from '../abi/layout.ts';
import { getU64, putU64 } from './buffers.ts';
import { putEntry } from './encode.ts';

export interface ReplyDirectorySink extends DirectorySink {
  plus: boolean;
  /** Entries get no validity (a relayer is under way). */
  shortLived: boolean;
  /** Starts a reply of at most `size` bytes. */
  begin(plus: boolean, size: number): void;
  /** Bytes written since begin. */
  length(): number;
}

export function createDirectorySink(reply: Buffer, view: DataView): ReplyDirectorySink {
  let at: number = OUT_HEADER.size;
  let end: number = OUT_HEADER.size;

  function putDirent(name: Name, ino: number, type: number, next: number): void {
    putU64(view, at + DIRENT.ino, ino);
    putU64(view, at + DIRENT.off, next);
    view.setUint32(at + DIRENT.namelen, name.length, true);
    view.setUint32(at + DIRENT.type, type, true);
    reply.latin1Write(name, at + DIRENT.name);
    const used = DIRENT.name + name.length;
    const padded = direntSize(DIRENT.name, name.length);
    for (let i = used; i < padded; i++) reply[at + i] = 0;
    at += padded;
  }

  return {
    plus: false,
    shortLived: false,
    begin(plus, size) {
      this.plus = plus;
      at = OUT_HEADER.size;
      end = Math.min(OUT_HEADER.size + size, reply.length);
    },
    length: () => at - OUT_HEADER.size,
    add(name, ino, type, next) {
      if (at + direntSize(DIRENT.name, name.length) > end) return false;
      putDirent(name, ino, type, next);
      return true;
    },
    hasRoomFor(name) {
      return at + direntSize(DIRENTPLUS.name, name.length) <= end;
    },
    addPlus(name: Name, next: number, type: number, entry: EntryOut) {
      if (at + direntSize(DIRENTPLUS.name, name.length) > end) return;
      if (this.shortLived) entry.entryValidMs = 0;
      at += putEntry(view, at, entry);
      putDirent(name, entry.attr.ino, type, next);
    },
  };
}

/** Calls `each` for every node id of a READDIRPLUS reply of `length` bytes (to take their lookups back). */
export function eachPlusNode(view: DataView, length: number, each: (node: number) => void): void {
  const end = OUT_HEADER.size + length;
  let at: number = OUT_HEADER.size;
  while (at + DIRENTPLUS.name <= end) {
    const node = getU64(view, at + ENTRY_OUT.nodeid);
    if (node > 0) each(node);
    at += direntSize(DIRENTPLUS.name, view.getUint32(at + DIRENTPLUS.dirent + DIRENT.namelen, true));
  }
}
