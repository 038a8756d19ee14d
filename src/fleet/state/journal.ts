/**
 * The intent journal: one command's changes as a list of idempotent steps in ROOT/journal/ID.json. Everything a command makes
 * is first staged (and synced) beside its place; writing the record is the moment of commit; then the steps are done and the
 * record is removed. Keeps true: a record found at open is rolled forward, so kill -9 anywhere leaves before or after. Records exist only while
 * the commit lock is held, and are rolled forward, and removed, in their order; a removal is on the disk before what is done after it, so a power
 * cut never repeats a command over that.
 */
import { randomBytes } from 'node:crypto';
import { renameSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import { keepsOrder } from '../../sys/index.ts';
import {
  isThere,
  makeDirectory,
  removeTree,
  replaceFile,
  replaceLink,
  syncAside,
  syncDirectory,
  syncFileSystem,
  writeOutAside,
} from './files.ts';
import {
  FILE,
  NOTE,
  readRecord,
  recordNames,
  removeParts,
  removeRecord,
  type StagedRecord,
  stageRecord,
} from './journal-records.ts';

/** Steps between two turns of the event loop. */
const BREATH = 256;

/** Paths are relative to the state root, but for `take`. */
export type JournalStep =
  /** Done already when `from` is missing. */
  | { do: 'rename'; from: string; to: string }
  /** What stands at `to` goes to `trash`, then `from` takes its place. */
  | { do: 'replace'; from: string; to: string; trash: string }
  /** Moves a tree from outside (an absolute path) to `to`, unless that is there: done already, and what stands at `from` now is something new. */
  | { do: 'take'; from: string; to: string }
  | { do: 'link'; path: string; target: string }
  | { do: 'write'; path: string; text: string }
  | { do: 'remove'; path: string };

/** Work that belongs to the command but happens after its files have changed; repeated at recovery, so idempotent. */
export type FollowUp =
  | { kind: 'follow'; template: string; from: number; to: number }
  /** A merged frozen layer took the place of others in a mounted appliance. */
  | { kind: 'merged'; name: string; before: string[] }
  /**
   * The appliance shows other frozen layers, in one step with what belongs to them: `fresh`, a directory of frozen/ with a fresh private layer, or else the newest layer, which was
   * merged beside. `before`: its layers until then.
   */
  | { kind: 'exchange'; name: string; before: string[]; fresh: string | null };

export interface JournalRecord {
  format: 1;
  op: string;
  steps: JournalStep[];
  followUps: FollowUp[];
}

export interface Journal {
  /** Commits: record, steps, parents synced. The record stays until `finish`. While a record cannot be completed (a full disk), no other
   * begins: the next opening completes it. What is unsettled is settled first. */
  commit(op: string, steps: JournalStep[], followUps?: FollowUp[]): Promise<string>;
  /**
   * As commit, but waits for no disk where the file system keeps order: a kill at any moment leaves before or after, and so does a power cut, after which it is there if anything is
   * that was changed later; else the record is on the disk. Nothing that is staged may have content. To be followed by `settle`, under the same commit lock, which may be
   * after the command was acknowledged.
   */
  commitFirst(op: string, steps: JournalStep[]): Promise<void>;
  /**
   * The same in two parts: all is made ready that can be. `there`: steps that write what is there already when the steps before them are done, and that are done again
   * only when this process is killed, or a power cut takes what was not written out.
   */
  prepareFirst(op: string, steps: JournalStep[], there?: ReadonlySet<JournalStep>): PreparedCommit;
  /** Writes out what commitFirst did since the last call, aside, and finishes it. Gives what waits until all is on the disk, for which no lock is needed. */
  settle(): Promise<() => Promise<void>>;
  /** The command is complete, follow-ups included. */
  finish(id: string): void;
  /** Rolls records of a killed process forward; gives them back, oldest first, still unfinished. */
  recover(): Promise<{ id: string; record: JournalRecord }[]>;
}

/** Either of the two is called, once. */
export interface PreparedCommit {
  commit(): Promise<void>;
  discard(): void;
}

/** What steps changed: directories, and files that they wrote. */
interface Touched {
  parents: Set<string>;
  files: Set<string>;
}

interface Ready {
  id: string;
  staged: StagedRecord;
  /** Everything is to be on the disk. */
  synced: boolean;
  there?: ReadonlySet<JournalStep> | undefined;
}

const NONE: ReadonlySet<JournalStep> = new Set();

/** `onStep` is called at every boundary between two changes on disk (crash tests kill there). */
export function openJournal(root: string, onStep: (name: string) => void = () => {}): Journal {
  const dir = join(root, 'journal');
  makeDirectory(dir, 0o700);

  function inRoot(path: string): string {
    const clean = normalize(path);
    if (clean.startsWith('..') || clean.startsWith('/')) {
      throw new StrataError('BAD_FORMAT', `the journal names a path outside the state root: ${path}`);
    }
    return join(root, clean);
  }

  /** `synced`: what is written is on the disk, but for the names in `touched`. */
  function apply(step: JournalStep, { parents, files }: Touched, synced: boolean): void {
    if (step.do === 'rename' || step.do === 'replace') {
      const from = inRoot(step.from);
      const to = inRoot(step.to);
      parents.add(dirname(from));
      parents.add(dirname(to));
      if (!isThere(from)) return;
      if (step.do === 'replace' && isThere(to)) {
        parents.add(dirname(inRoot(step.trash)));
        renameSync(to, inRoot(step.trash));
        onStep('replaced');
      }
      renameSync(from, to);
      return;
    }
    if (step.do === 'take') {
      const to = inRoot(step.to);
      if (isThere(to) || !isThere(step.from)) return;
      renameSync(step.from, to);
      parents.add(dirname(step.from));
      parents.add(dirname(to));
      return;
    }
    const path = inRoot(step.path);
    parents.add(dirname(path));
    if (step.do === 'link') replaceLink(path, step.target);
    else if (step.do === 'write') {
      replaceFile(path, step.text, { sync: synced, syncParent: false });
      files.add(path);
    } else removeTree(path);
  }

  async function applyAll(
    record: JournalRecord,
    synced = true,
    there: ReadonlySet<JournalStep> = NONE,
  ): Promise<Touched> {
    const touched: Touched = { parents: new Set(), files: new Set() };
    for (const [at, step] of record.steps.entries()) {
      if (step.do === 'write' && there.has(step)) touched.files.add(inRoot(step.path));
      else apply(step, touched, synced);
      if (at % BREATH === BREATH - 1) await breathe();
      onStep(step.do);
    }
    if (!synced) return touched;
    for (const parent of touched.parents) if (isThere(parent)) syncDirectory(parent);
    onStep('synced');
    return touched;
  }

  let stuck: string | null = null;
  let lastMs = 0;

  /** Names sort in the order in which they are made. */
  function newId(): string {
    lastMs = Math.max(Date.now(), lastMs + 1);
    return `${lastMs.toString(36).padStart(9, '0')}-${randomBytes(4).toString('hex')}`;
  }

  function refuseStuck(): void {
    if (stuck === null) return;
    throw new StrataError('IO', `an earlier command (${stuck}) could not be completed on disk`, {
      hint: 'free some space, then: strata daemon restart',
    });
  }

  /** Writes the record and does its steps. Gives what is not on the disk yet. */
  async function carryOut(record: JournalRecord, { id, staged, synced, there }: Ready): Promise<Touched> {
    const { op } = record;
    onStep('before-record');
    try {
      refuseStuck();
      staged.put();
    } catch (error) {
      staged.drop();
      throw error;
    }
    onStep('record');
    try {
      return await applyAll(record, synced, there);
    } catch (error) {
      stuck = `${op}, journal/${id}`;
      throw error;
    }
  }

  /** What is to be written out of records that are not settled, the oldest first. */
  const unsettled = new Map<string, Touched>();
  const isOrdered = keepsOrder(dir);

  const journal: Journal = {
    async commit(op, steps, followUps = []) {
      await journal.settle();
      const record: JournalRecord = { format: 1, op, steps, followUps };
      const id = `${newId()}${FILE}`;
      await carryOut(record, { id, staged: stageRecord(join(dir, id), record), synced: true });
      return id;
    },
    commitFirst: (op, steps) => journal.prepareFirst(op, steps).commit(),
    prepareFirst(op, steps, there) {
      const record: JournalRecord = { format: 1, op, steps, followUps: [] };
      const id = `${newId()}${isOrdered ? NOTE : FILE}`;
      const staged = stageRecord(join(dir, id), record);
      onStep('record-staged');
      return {
        async commit() {
          // What is staged for the steps.
          if (!isOrdered) syncFileSystem(root);
          unsettled.set(id, await carryOut(record, { id, staged, synced: false, there }));
        },
        discard: () => staged.drop(),
      };
    },
    async settle() {
      if (unsettled.size === 0) return async () => {};
      onStep('before-settle');
      try {
        const left = [...unsettled.values()];
        const files = new Set(left.flatMap((one) => [...one.files]));
        if (isOrdered) await Promise.all([...files].map(writeOutAside));
        // Files before the directories that name them.
        else
          for (const path of new Set([...files, ...left.flatMap((one) => [...one.parents])]))
            await syncAside(path);
      } catch (error) {
        stuck = [...unsettled.keys()].map((id) => `journal/${id}`).join();
        throw error;
      }
      for (const id of [...unsettled.keys()]) {
        onStep('before-finish');
        removeRecord(join(dir, id));
        unsettled.delete(id);
      }
      if (!isOrdered) await syncAside(dir);
      onStep('finished');
      return () => syncAside(dir);
    },
    finish(id) {
      onStep('before-finish');
      removeRecord(join(dir, id));
      syncDirectory(dir);
      onStep('finished');
    },
    async recover() {
      const found: { id: string; record: JournalRecord }[] = [];
      removeParts(dir);
      for (const name of recordNames(dir)) {
        const record = readRecord(join(dir, name));
        if (record === null) continue;
        if (record.format !== 1 || !Array.isArray(record.steps) || !Array.isArray(record.followUps)) {
          throw new StrataError('BAD_FORMAT', `${join(dir, name)} is not a journal record of this version`, {
            hint: 'use the version of Strata that wrote it to recover this state root',
          });
        }
        await applyAll(record);
        found.push({ id: name, record });
      }
      return found;
    },
  };
  return journal;
}
