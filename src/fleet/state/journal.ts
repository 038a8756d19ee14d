/**
 * The intent journal: one command's changes as a list of idempotent steps in ROOT/journal/ID.json. Everything a command makes
 * is first staged (and synced) beside its place; writing the record is the moment of commit; then the steps are done and the
 * record is removed. Keeps true: a record found at open is rolled forward, so kill -9 anywhere leaves before or after. At most one
 * record exists at a time (the caller holds the commit lock), and its removal is durable before the command is acknowledged, so a power
 * cut never repeats a command over what was done after it.
 */
import { randomBytes } from 'node:crypto';
import { renameSync, rmSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { StrataError } from '../../base/index.ts';
import {
  isThere,
  keepOrder,
  makeDirectory,
  namesIn,
  readJsonIfThere,
  removeTree,
  replaceFile,
  replaceLink,
  syncAside,
  syncDirectory,
} from './files.ts';

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
  | { kind: 'merged'; name: string; before: string[] };

export interface JournalRecord {
  format: 1;
  op: string;
  steps: JournalStep[];
  followUps: FollowUp[];
}

export interface Journal {
  /** Commits: record, steps, parents synced. The record stays until `finish`. While a record cannot be completed (a full disk), no other
   * begins: the next opening completes it. */
  commit(op: string, steps: JournalStep[], followUps?: FollowUp[]): Promise<string>;
  /**
   * As commit, but what the steps change is not on the disk yet: the record is, which does them again after a power cut. To be followed by `settle`, under the same
   * commit lock, which may be after the command was acknowledged.
   */
  commitFirst(op: string, steps: JournalStep[]): Promise<string>;
  /** Brings what commitFirst did to the disk, aside, and finishes it. */
  settle(id: string): Promise<void>;
  /** The command is complete, follow-ups included. */
  finish(id: string): void;
  /** Rolls records of a killed process forward; gives them back, oldest first, still unfinished. */
  recover(): Promise<{ id: string; record: JournalRecord }[]>;
}

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

  /** `synced`: what is written is on the disk, but for the names in `touched`; else it is among them. */
  function apply(step: JournalStep, touched: Set<string>, synced: boolean): void {
    if (step.do === 'rename' || step.do === 'replace') {
      const from = inRoot(step.from);
      const to = inRoot(step.to);
      touched.add(dirname(from));
      touched.add(dirname(to));
      if (!isThere(from)) return;
      if (step.do === 'replace' && isThere(to)) {
        touched.add(dirname(inRoot(step.trash)));
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
      touched.add(dirname(step.from));
      touched.add(dirname(to));
      return;
    }
    const path = inRoot(step.path);
    touched.add(dirname(path));
    if (step.do === 'link') replaceLink(path, step.target);
    else if (step.do === 'write') {
      replaceFile(path, step.text, { sync: synced, syncParent: false });
      if (!synced) touched.add(path);
    } else removeTree(path);
  }

  async function applyAll(record: JournalRecord, synced = true): Promise<Set<string>> {
    const touched = new Set<string>();
    for (const [at, step] of record.steps.entries()) {
      apply(step, touched, synced);
      if (at % BREATH === BREATH - 1) await breathe();
      onStep(step.do);
    }
    if (!synced) return touched;
    for (const parent of touched) if (isThere(parent)) syncDirectory(parent);
    onStep('synced');
    return touched;
  }

  let stuck: string | null = null;

  /** Writes the record and does its steps. Gives what is not on the disk yet. */
  async function carryOut(
    record: JournalRecord,
    synced: boolean,
  ): Promise<{ id: string; left: Set<string> }> {
    const { op } = record;
    const id = `${Date.now().toString(36).padStart(9, '0')}-${randomBytes(4).toString('hex')}`;
    if (stuck !== null) {
      throw new StrataError('IO', `an earlier command (${stuck}) could not be completed on disk`, {
        hint: 'free some space, then: strata daemon restart',
      });
    }
    onStep('before-record');
    replaceFile(join(dir, `${id}.json`), JSON.stringify(record));
    onStep('record');
    try {
      return { id, left: await applyAll(record, synced) };
    } catch (error) {
      stuck = `${op}, journal/${id}.json`;
      throw error;
    }
  }

  const unsettled = new Map<string, Set<string>>();

  const journal: Journal = {
    async commit(op, steps, followUps = []) {
      return (await carryOut({ format: 1, op, steps, followUps }, true)).id;
    },
    async commitFirst(op, steps) {
      // What is staged for the steps.
      keepOrder(root);
      const { id, left } = await carryOut({ format: 1, op, steps, followUps: [] }, false);
      unsettled.set(id, left);
      return id;
    },
    async settle(id) {
      onStep('before-settle');
      try {
        // Files before the directories that name them.
        for (const path of [...(unsettled.get(id) ?? [])].reverse()) await syncAside(path);
      } catch (error) {
        stuck = `journal/${id}.json`;
        throw error;
      }
      unsettled.delete(id);
      journal.finish(id);
    },
    finish(id) {
      onStep('before-finish');
      rmSync(join(dir, `${id}.json`), { force: true });
      syncDirectory(dir);
      onStep('finished');
    },
    async recover() {
      const found: { id: string; record: JournalRecord }[] = [];
      for (const name of namesIn(dir).sort()) {
        if (name.startsWith('.tmp-')) rmSync(join(dir, name), { force: true });
        if (!name.endsWith('.json') || name.startsWith('.')) continue;
        const record = readJsonIfThere(join(dir, name)) as JournalRecord | null;
        if (record === null) continue;
        if (record.format !== 1 || !Array.isArray(record.steps) || !Array.isArray(record.followUps)) {
          throw new StrataError('BAD_FORMAT', `${join(dir, name)} is not a journal record of this version`, {
            hint: 'use the version of Strata that wrote it to recover this state root',
          });
        }
        await applyAll(record);
        found.push({ id: name.slice(0, -'.json'.length), record });
      }
      return found;
    },
  };
  return journal;
}
