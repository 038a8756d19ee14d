/**
 * Whether two files show the same bytes, without reading more than is needed: not what has a digest, and of two files that show the same file of a layer below their own
 * blocks, only those blocks.
 */
import { StrataError } from '../../base/index.ts';
import { close, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, openat, pread } from '../../sys/index.ts';
import { openShared } from '../copy-up/shared-content.ts';
import type { Core, Node } from '../core.ts';
import { BLOCK } from '../delta/block-map.ts';
import { basesOf, type PartialSource, partialSource } from '../delta/outside.ts';
import { readPartial } from '../delta/partial-io.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import type { Unit } from '../stack/stack.ts';

/** A file, open for reading. `closeSource` closes it. */
export interface Source {
  fd: number;
  partial: PartialSource | null;
}

const READING = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
const basesOfFrozen = new WeakMap<Unit, ReadonlyMap<string, string>>();

/** Throws IO when the file, or what a partial one shows, cannot be opened. */
export function openSource(core: Core, node: Node): Source {
  const fd = openFile(core, node);
  if (fd < 0) throw new StrataError('IO', `a file of appliance ${core.name} cannot be read (errno ${-fd})`);
  try {
    return { fd, partial: partialSource(fd, basesFor(core, node)) };
  } catch (error) {
    close(fd);
    throw error;
  }
}

function openFile(core: Core, node: Node): number {
  if (!node.priv) return node.unit!.frozen?.open(node.entry, READING) ?? openShared(node.unit!, node.entry);
  const dirfd = node.parent === null ? -1 : directoryFd(core, node.parent);
  return dirfd < 0 ? dirfd : openat(dirfd, node.name, READING);
}

function basesFor(core: Core, node: Node): ReadonlyMap<string, string> {
  if (node.priv) return core.bases;
  const unit = node.unit!;
  if (unit.frozen === null) return new Map();
  const bases = basesOfFrozen.get(unit) ?? basesOf(unit.treeDir);
  basesOfFrozen.set(unit, bases);
  return bases;
}

export function closeSource({ fd, partial }: Source): void {
  close(fd);
  if (partial !== null) close(partial.baseFd);
}

/** Whether two regular files of this size have the same content. A file that cannot be read is like no other. */
export function sameContent(left: Core, a: Node, right: Core, b: Node, sizeBytes: number): boolean {
  if (sizeBytes === 0) return true;
  const digest = digestOf(a);
  if (digest !== null && digestOf(b) !== null) return digest === digestOf(b);
  const open: Source[] = [];
  try {
    open.push(openSource(left, a));
    open.push(openSource(right, b));
    const [one, two] = open as [Source, Source];
    return differingBlocks(one, a, two, b, sizeBytes).every(([from, to]) => sameRange(one, two, from, to));
  } catch (error) {
    if (error instanceof StrataError) return false;
    throw error;
  } finally {
    for (const source of open) closeSource(source);
  }
}

/** Of software and config layers. */
function digestOf({ priv, unit, entry }: Node): string | null {
  return priv || unit === null ? null : unit.index.digest(entry);
}

/** Where the two can differ, as bytes [from, to). */
function differingBlocks(one: Source, a: Node, two: Source, b: Node, size: number): [number, number][] {
  const isSameBelow =
    one.partial !== null && two.partial !== null
      ? below(one.partial) === below(two.partial)
      : one.partial !== null
        ? showsFile(one.partial, b)
        : two.partial !== null && showsFile(two.partial, a);
  if (!isSameBelow) return [[0, size]];
  return [one, two].flatMap(({ partial }): [number, number][] => {
    if (partial === null) return [];
    const { map, limit } = partial.partial.form;
    const runs = map.runs.map(({ from, to }): [number, number] => [from * BLOCK, Math.min(to * BLOCK, size)]);
    return [...runs, [Math.min(limit * BLOCK, size), size]];
  });
}

function below({ partial }: PartialSource): string {
  return `${partial.form.unit}\0${partial.form.path}`;
}

function showsFile({ partial }: PartialSource, { priv, unit, entry }: Node): boolean {
  if (priv || unit === null || unit.id !== partial.form.unit) return false;
  const { index } = unit;
  return [entry, index.hardLinkLeader(entry)].some((one) => index.path(one) === partial.form.path);
}

const CHUNK_BYTES = 1 << 20;
const chunks = [Buffer.allocUnsafeSlow(CHUNK_BYTES), Buffer.allocUnsafeSlow(CHUNK_BYTES)] as const;

function sameRange(one: Source, two: Source, from: number, to: number): boolean {
  for (let at = from; at < to; ) {
    const want = Math.min(CHUNK_BYTES, to - at);
    const got = [one, two].map((source, i) => readAt(source, chunks[i]!.subarray(0, want), at));
    if (got[0] !== want || got[1] !== want) return false;
    if (!chunks[0].subarray(0, want).equals(chunks[1].subarray(0, want))) return false;
    at += want;
  }
  return true;
}

/** Fills the buffer; how much there was. */
function readAt({ fd, partial }: Source, into: Buffer, offset: number): number {
  for (let done = 0; ; ) {
    const rest = into.subarray(done);
    if (rest.length === 0) return done;
    const got =
      partial === null
        ? pread(fd, rest, rest.length, offset + done)
        : readPartial(partial, partial.partial, offset + done, rest);
    if (got <= 0) return done;
    done += got;
  }
}
