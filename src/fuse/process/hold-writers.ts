/**
 * stratad's part of a freeze while programs write without rest: it opens their files through the mount, by the numbers of their nodes, and syncs them, which takes
 * the locks that the writers need; strata-fs answers when it has frozen the private layer. The kernel's workers do the syncs and threads the opening, so
 * stratad itself never waits for a mount, and a strata-fs that dies meanwhile keeps nobody waiting but these: who takes over answers.
 */
import { close, fstat, readdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { StrataError } from '../../base/index.ts';
import {
  beginSync,
  dirtyPages,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDONLY,
  openNode,
  syncMount,
} from '../../sys/index.ts';
import type { ChangedFile } from '../../vlfs/contract.ts';
import type { FreezeOutcome, WriteBarrier } from '../loop/freeze-mount.ts';

/** Rounds in which further files may turn out to be written. */
const ROUNDS = 8;
/** For the answers to what was synced. */
const ANSWER_MS = 5000;

export interface Freezing {
  id: string;
  /** Syncs of these nodes are not answered from now on. Gives a mountpoint. */
  hold(nodes: number[]): Promise<string | null>;
  freeze(barrier: WriteBarrier | null): Promise<FreezeOutcome>;
  mountpoint(): Promise<string | null>;
  /** Ends a hold that the freeze did not end. True: what a mapping changed was written back meanwhile. */
  letGo(): Promise<boolean>;
}

/**
 * Freezes, with the writers held of files that change while they are copied. False: it is done, but what a program stored through a mapping meanwhile may or may not be
 * in it. Throws BUSY when writers cannot be held.
 */
export async function freezeWithWriters(freezing: Freezing): Promise<boolean> {
  const { id, hold, freeze } = freezing;
  const written = new Map<number, number>();
  const first = await freeze(null);
  if (first.unseen) return await freezeUnseen(freezing);
  let { changed } = first;
  for (let round = 0; changed.length > 0; round++) {
    if (round === ROUNDS) throw busy(id);
    for (const { node, ino } of changed) written.set(node, ino);
    const mountpoint = await hold([...written.keys()]);
    const files = mountpoint === null ? [] : await openFiles(mountpoint, written);
    try {
      const outcome = await freezeHolding(files, freezing);
      if (outcome === 'exact') return true;
      if (outcome === 'inexact') return false;
      changed = outcome;
    } finally {
      for (const { fd } of files) close(fd, () => {});
    }
  }
  return true;
}

function busy(id: string): StrataError {
  return new StrataError('BUSY', `files of ${id} are written through memory maps without rest`, {
    hint: 'stop what writes for a moment, and repeat the command',
  });
}

async function freezeHolding(
  files: readonly OpenNode[],
  { freeze, letGo }: Freezing,
): Promise<ChangedFile[] | 'exact' | 'inexact'> {
  const threads = readdirSync('/proc/self/task').map(Number);
  const syncs = files.length === 0 ? null : beginSync(files.map(({ fd }) => fd));
  if (typeof syncs === 'number') throw new StrataError('BUSY', `writers cannot be held (errno ${-syncs})`);
  try {
    const nodes = files.map(({ node }) => node);
    const { changed, mapped } = await freeze(nodes.length === 0 ? null : { nodes, threads });
    if (changed.length > 0) return changed;
    if (mapped.length === 0) return 'exact';
    // What is clean now was not stored to since it was synced, before the freeze.
    const isDirty = files.some(({ node, fd }) => mapped.includes(node) && dirtyPages(fd) !== 0);
    const wroteBack = await letGo();
    return isDirty || wroteBack ? 'inexact' : 'exact';
  } finally {
    await syncs?.ended(ANSWER_MS);
  }
}

/** Of a mount whose kernel opens files without telling: all that mappings changed is written back before, and what is written back afterwards may be of either time. */
async function freezeUnseen({ id, freeze, mountpoint, letGo }: Freezing): Promise<boolean> {
  const at = await mountpoint();
  if (at !== null) await writeBack(at);
  for (let round = 0; round < ROUNDS; round++) {
    const { changed } = await freeze({ nodes: [], threads: [] });
    if (changed.length > 0) continue;
    if (at !== null) await writeBack(at);
    return !(await letGo());
  }
  throw busy(id);
}

/** Writes back what mappings of a mount changed. */
async function writeBack(mountpoint: string): Promise<void> {
  const root = await open(mountpoint, O_RDONLY);
  try {
    await syncMount(root.fd);
  } finally {
    await root.close();
  }
}

interface OpenNode {
  node: number;
  fd: number;
}

/** Those of the nodes that can be opened and are what they are said to be. */
async function openFiles(mountpoint: string, wanted: ReadonlyMap<number, number>): Promise<OpenNode[]> {
  const root = await open(mountpoint, O_RDONLY);
  try {
    const opened = await Promise.all(
      [...wanted].map(async ([node, ino]) => {
        const fd = await openNode(root.fd, node, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0) return null;
        const stat = await promisify(fstat)(fd).catch(() => null);
        if (stat?.ino === ino) return { node, fd };
        close(fd, () => {});
        return null;
      }),
    );
    return opened.filter((one) => one !== null);
  } finally {
    await root.close();
  }
}
