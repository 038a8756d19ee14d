/**
 * Reading and changing a partial file: each byte is the file's own where the map says so, else the one below. New data is written before the map
 * names it, and the map is written before the answer, so a killed process loses nothing; a block that is changed in part is filled
 * from below first. `fd` is the partial file, open for writing where something is written.
 */
import {
  copyFileRange,
  E,
  fallocate,
  fstat,
  ftruncate,
  lseek,
  newStat,
  pread,
  pwrite,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../sys/index.ts';
import { BLOCK, claim, drop, gaps, hasBlock, runAt, settle, smallestGaps } from './block-map.ts';
import type { Partial } from './partial-file.ts';
import { blocksOf, encodePartial, hideFromOverlayfs, storePartial } from './partial-form.ts';

/** The files of a partial file that is open. */
export interface PartialFds {
  fd: number;
  /** The file below. */
  baseFd: number;
}

const PUNCH_HOLE = 0x02;
const ZERO_RANGE = 0x10;
const KEEP_SIZE = 0x01;
/** What the map may take of the inode's attributes. */
const MOST_FORM_BYTES = 2560;
/** Gaps between runs that are filled at once when the map is full. */
const FILL_GAPS = 48;

const stat = newStat();
const block = Buffer.allocUnsafeSlow(BLOCK);

/** Where the stretch that begins at `offset` ends, and whether the file has it itself. */
const stretch = { own: false, end: 0 };

function stretchAt({ form }: Partial, offset: number): void {
  const at = Math.floor(offset / BLOCK);
  stretch.own = true;
  stretch.end = Number.MAX_SAFE_INTEGER;
  if (at >= form.limit) return;
  const { runs } = form.map;
  let i = runAt(form.map, at);
  const run = runs[i];
  if (run === undefined || run.from > at) {
    stretch.own = false;
    stretch.end = (run === undefined ? form.limit : Math.min(run.from, form.limit)) * BLOCK;
    return;
  }
  let { to } = run;
  for (i++; i < runs.length && runs[i]!.from === to; i++) to = runs[i]!.to;
  if (to < form.limit) stretch.end = to * BLOCK;
}

/** Bytes read, fewer at the end of the file, or a negative errno. */
export function readPartial(fds: PartialFds, partial: Partial, offset: number, into: Uint8Array): number {
  if (fstat(fds.fd, stat) < 0) return -E.IO;
  const length = Math.min(into.length, stat.size - offset);
  for (let done = 0; done < length; ) {
    stretchAt(partial, offset + done);
    const size = Math.min(length - done, stretch.end - offset - done);
    const part = into.subarray(done, done + size);
    const got = pread(stretch.own ? fds.fd : fds.baseFd, part, size, offset + done);
    if (got === -E.INTR) continue;
    if (got < 0) return done > 0 ? done : got;
    // The file below ends inside its last block.
    if (got < size) part.fill(0, got);
    done += size;
  }
  return Math.max(length, 0);
}

/** Whether a job copies blocks of [from, to) just now. */
export function isFilling({ filling }: Partial, from: number, to: number): boolean {
  return filling !== null && filling.from * BLOCK < to && filling.to * BLOCK > from;
}

/** Bytes written, or a negative errno. */
export function writePartial(fds: PartialFds, partial: Partial, offset: number, from: Uint8Array): number {
  if (from.length === 0) return 0;
  const { form } = partial;
  const end = offset + from.length;
  const begun = beginChange(fds, partial);
  if (begun < 0) return begun;
  const filled = fillEdges(fds, partial, offset, end);
  if (filled < 0) return filled;
  let done = 0;
  let failed = 0;
  while (done < from.length) {
    const put = pwrite(fds.fd, done === 0 ? from : from.subarray(done), from.length - done, offset + done);
    if (put === -E.INTR) continue;
    if (put <= 0) {
      failed = put === 0 ? -E.IO : put;
      break;
    }
    done += put;
  }
  if (failed < 0) {
    // A last block that is written in part only, and not filled, does not count.
    const last = Math.floor((offset + done) / BLOCK);
    if (last < form.limit && !hasBlock(form.map, last) && last !== Math.floor(offset / BLOCK))
      done = last * BLOCK - offset;
    if (done <= 0 || (last === Math.floor(offset / BLOCK) && !hasBlock(form.map, last))) return failed;
  }
  const claimed = own(fds, partial, Math.floor(offset / BLOCK), blocksOf(offset + done));
  return claimed < 0 ? claimed : done;
}

/** The first change of content: from here on the kernel's overlayfs must not take the file for a metadata-only copy. */
function beginChange({ fd }: PartialFds, partial: Partial): number {
  if (!partial.metaOnDisk) return 0;
  const hidden = hideFromOverlayfs(fd);
  if (hidden < 0) return hidden;
  partial.metaOnDisk = false;
  partial.form.meta = false;
  return 0;
}

/** Blocks [from, to) have their data: the map says so, on disk too. */
function own(fds: PartialFds, partial: Partial, from: number, to: number): number {
  const { form } = partial;
  const end = Math.min(to, form.limit);
  if (from >= end || !claim(form.map, from, end)) return 0;
  return store(fds, partial);
}

function store(fds: PartialFds, partial: Partial): number {
  const { form } = partial;
  partial.changes++;
  for (;;) {
    if (form.map.runs.length < 2 || encodePartial(form).length <= MOST_FORM_BYTES) {
      const stored = storePartial(fds.fd, form);
      const full = stored === -E.NOSPC || stored === -E.TOOBIG || stored === -E.RANGE;
      if (!full || form.map.runs.length < 2) return stored;
    }
    const filled = fillSmallGaps(fds, partial);
    if (filled < 0) return filled;
  }
}

/** Fewer runs: the smallest gaps between them are copied from below. */
function fillSmallGaps({ fd, baseFd }: PartialFds, { form }: Partial): number {
  for (const [from, to] of smallestGaps(form.map, FILL_GAPS)) {
    const end = Math.min(to * BLOCK, form.baseSize);
    for (let at = from * BLOCK; at < end; ) {
      const copied = copyFileRange(baseFd, at, fd, at, end - at);
      if (copied === 0) return -E.IO;
      if (copied < 0) {
        const byHand = fillBlock({ fd, baseFd }, form.baseSize, Math.floor(at / BLOCK), end);
        if (byHand < 0) return byHand;
        at = (Math.floor(at / BLOCK) + 1) * BLOCK;
      } else at += copied;
    }
    claim(form.map, from, to);
  }
  // Runs that differ only in being settled are joined too.
  joinKinds(form.map.runs);
  return 0;
}

function joinKinds(runs: { from: number; to: number; settled: boolean }[]): void {
  let kept = 0;
  for (let i = 1; i < runs.length; i++) {
    const last = runs[kept]!;
    const run = runs[i]!;
    if (last.to === run.from && last.settled === run.settled) last.to = run.to;
    else runs[++kept] = run;
  }
  if (runs.length > 0) runs.length = kept + 1;
}

/** The first and the last block of [from, to), where they are changed in part and not the file's own yet. */
function fillEdges(fds: PartialFds, { form }: Partial, from: number, to: number): number {
  if (fstat(fds.fd, stat) < 0) return -E.IO;
  const { size } = stat;
  const first = Math.floor(from / BLOCK);
  const last = Math.floor(to / BLOCK);
  if (from % BLOCK !== 0 && first < form.limit && !hasBlock(form.map, first)) {
    const filled = fillBlock(fds, form.baseSize, first, size);
    if (filled < 0) return filled;
  }
  if (to % BLOCK === 0 || last >= form.limit || hasBlock(form.map, last)) return 0;
  return last === first && from % BLOCK !== 0 ? 0 : fillBlock(fds, form.baseSize, last, size);
}

/** Copies one block from below, as far as the file reaches. */
function fillBlock({ fd, baseFd }: PartialFds, baseSize: number, at: number, size: number): number {
  const offset = at * BLOCK;
  const length = Math.min(BLOCK, size - offset);
  if (length <= 0) return 0;
  const got = offset < baseSize ? pread(baseFd, block, length, offset) : 0;
  if (got < 0) return got;
  block.fill(0, got, length);
  const put = pwrite(fd, block, length, offset);
  return put < 0 ? put : put < length ? -E.IO : 0;
}

/** ftruncate. What is cut off never comes back. */
export function truncatePartial(fds: PartialFds, partial: Partial, size: number): number {
  const { form } = partial;
  if (fstat(fds.fd, stat) < 0) return -E.IO;
  const begun = beginChange(fds, partial);
  if (begun < 0) return begun;
  form.limit = Math.min(form.limit, blocksOf(stat.size));
  if (size >= stat.size) {
    const stored = store(fds, partial);
    return stored < 0 ? stored : ftruncate(fds.fd, size);
  }
  const last = Math.floor(size / BLOCK);
  if (size % BLOCK !== 0 && last < form.limit && !hasBlock(form.map, last)) {
    const filled = fillBlock(fds, form.baseSize, last, stat.size);
    const kept = filled < 0 ? filled : own(fds, partial, last, last + 1);
    if (kept < 0) return kept;
  } else {
    const stored = store(fds, partial);
    if (stored < 0) return stored;
  }
  const cut = ftruncate(fds.fd, size);
  if (cut < 0) return cut;
  form.limit = Math.min(form.limit, blocksOf(size));
  drop(form.map, form.limit, Number.MAX_SAFE_INTEGER);
  return store(fds, partial);
}

/** fallocate: space, holes and zeros. */
export function fallocatePartial(
  fds: PartialFds,
  partial: Partial,
  mode: number,
  offset: number,
  length: number,
): number {
  const { form } = partial;
  if ((mode & ~KEEP_SIZE) !== 0 && (mode & (PUNCH_HOLE | ZERO_RANGE)) === 0) return -E.OPNOTSUPP;
  const begun = beginChange(fds, partial);
  if (begun < 0) return begun;
  if ((mode & (PUNCH_HOLE | ZERO_RANGE)) === 0) {
    const stored = store(fds, partial);
    return stored < 0 ? stored : fallocate(fds.fd, mode, offset, length);
  }
  if (fstat(fds.fd, stat) < 0) return -E.IO;
  const end = offset + length;
  // What lies behind the end of the file is not there to be kept.
  const to = end >= stat.size ? blocksOf(end) : Math.floor(end / BLOCK);
  const filled = fillEdges(fds, partial, offset, end);
  if (filled < 0) return filled;
  const zeroed = fallocate(fds.fd, mode, offset, length);
  if (zeroed < 0) return zeroed;
  settle(form.map, Math.min(blocksOf(offset), form.limit), Math.min(to, form.limit));
  claim(form.map, Math.min(Math.floor(offset / BLOCK), form.limit), Math.min(blocksOf(end), form.limit));
  return store(fds, partial);
}

/** SEEK_DATA and SEEK_HOLE. */
export function seekPartial(fds: PartialFds, partial: Partial, offset: number, whence: number): number {
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return lseek(fds.fd, offset, whence);
  if (fstat(fds.fd, stat) < 0) return -E.IO;
  const { size } = stat;
  if (offset >= size) return -E.NXIO;
  for (let at = offset; at < size; ) {
    stretchAt(partial, at);
    const { own, end } = stretch;
    // The rest of the last block below is part of it.
    if (!own && at >= partial.form.baseSize) {
      if (whence === SEEK_DATA) return at;
      at = end;
      continue;
    }
    const found = lseek(own ? fds.fd : fds.baseFd, at, whence);
    if (found >= 0 && found < Math.min(end, size)) {
      // The end of the file below is no hole.
      if (own || whence === SEEK_DATA || found < partial.form.baseSize) return found;
    }
    if (found < 0 && found !== -E.NXIO) return found;
    if (end >= size) break;
    at = end;
  }
  return whence === SEEK_HOLE ? size : -E.NXIO;
}

/** Space that reads find in the file: its own, and what it shows of the file below, in units of 512 bytes. */
export function blocksShown({ form }: Partial, ownBlocks: number): number {
  const shown = gaps(form.map, 0, form.limit).reduce((sum, [from, to]) => sum + to - from, 0);
  return ownBlocks + Math.min(form.baseBlocks, shown) * (BLOCK / 512);
}
