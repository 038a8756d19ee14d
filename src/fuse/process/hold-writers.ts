/**
 * stratad's part of a freeze while programs write without rest: it opens their files through the mount, by the numbers of their nodes, and syncs them, which takes
 * the locks that the writers need; strata-fs answers when it has frozen the private layer. The kernel's workers do the syncs and threads the opening, so
 * stratad itself never waits for a mount, and a strata-fs that dies meanwhile keeps nobody waiting but these: who takes over answers.
 */
import { close, fstat, readdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { StrataError } from '../../base/index.ts';
import { beginSync, O_CLOEXEC, O_NONBLOCK, O_RDONLY, openNode } from '../../sys/index.ts';
import type { ChangedFile } from '../../vlfs/contract.ts';
import type { WriteBarrier } from '../loop/freeze-mount.ts';

/** Rounds in which further files may turn out to be written. */
const ROUNDS = 8;
/** For the answers to what was synced. */
const ANSWER_MS = 5000;

export interface Freezing {
  id: string;
  /** Syncs of these nodes are not answered from now on. Gives a mountpoint. */
  hold(nodes: number[]): Promise<string | null>;
  /** Gives the files that changed meanwhile; none: it is done. */
  freeze(barrier: WriteBarrier | null): Promise<ChangedFile[]>;
}

/** Freezes, with the writers held of files that change while they are copied. Throws BUSY when they cannot be held. */
export async function freezeWithWriters({ id, hold, freeze }: Freezing): Promise<void> {
  const written = new Map<number, number>();
  let changed = await freeze(null);
  for (let round = 0; changed.length > 0; round++) {
    if (round === ROUNDS)
      throw new StrataError('BUSY', `files of ${id} are written through memory maps without rest`, {
        hint: 'stop what writes for a moment, and repeat the command',
      });
    for (const { node, ino } of changed) written.set(node, ino);
    const mountpoint = await hold([...written.keys()]);
    const files = mountpoint === null ? [] : await openFiles(mountpoint, written);
    try {
      changed = await freezeHolding(files, freeze);
    } finally {
      for (const { fd } of files) close(fd, () => {});
    }
  }
}

async function freezeHolding(files: readonly OpenNode[], freeze: Freezing['freeze']): Promise<ChangedFile[]> {
  if (files.length === 0) return freeze(null);
  const threads = readdirSync('/proc/self/task').map(Number);
  const syncs = beginSync(files.map(({ fd }) => fd));
  if (typeof syncs === 'number') throw new StrataError('BUSY', `writers cannot be held (errno ${-syncs})`);
  try {
    return await freeze({ nodes: files.map(({ node }) => node), threads });
  } finally {
    await syncs.ended(ANSWER_MS);
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
