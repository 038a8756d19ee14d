/**
 * Merging one VLFS into another, three-way: what the child changed since both were alike is brought into a fresh private layer that is to stand above all that the parent
 * has. The parent's own files are only read, so nothing has happened until that layer is put in its place.
 */
import { nameToText } from '../../base/index.ts';
import type { DiffEntry, MergeChoice, MergeConflict, VlfsSpec } from '../contract.ts';
import type { Core } from '../core.ts';
import type { AdoptFacts } from '../exchange/adopt.ts';
import { closeCore, openCore } from '../open-core.ts';
import { splitPath } from '../split-path.ts';
import { applyMerge } from './apply.ts';
import { planMerge, type Sides } from './plan.ts';

export interface MergeInput {
  child: VlfsSpec;
  /** What the child showed when both were alike. */
  childBase: VlfsSpec;
  parent: VlfsSpec;
  parentBase: VlfsSpec;
  /** The parent with the fresh private layer; null: only tell what would be done. */
  target: VlfsSpec | null;
  choice: MergeChoice;
  /** What the child has marked as nonclonable stays with it: the parent is a clone of it. */
  leavesMarked?: boolean;
}

export interface MergeOutcome {
  /** What the parent gets, by path. */
  changes: Pick<DiffEntry, 'path' | 'change'>[];
  conflicts: MergeConflict[];
  /** For a layer that comes under a private one later. */
  facts: Omit<AdoptFacts, 'root'>;
}

/** Does nothing to the target when a conflict is left. Throws when a side cannot be read, or the target not be written. */
export async function mergeVlfs(input: MergeInput): Promise<MergeOutcome> {
  const opened: Core[] = [];
  const look = (spec: VlfsSpec): Core => {
    const core = openCore(spec, { inspect: true });
    opened.push(core);
    return core;
  };
  try {
    const sides: Sides = {
      child: look(input.child),
      childBase: look(input.childBase),
      parent: look(input.parent),
      parentBase: look(input.parentBase),
    };
    const { prefer, ours, theirs } = input.choice;
    const inside = (paths: string[]): string[] => paths.map((path) => splitPath(path).join('/'));
    const choice = { prefer, ours: inside(ours), theirs: inside(theirs) };
    const plan = planMerge(sides, choice, input.leavesMarked);
    const isOpen = plan.conflicts.some(({ taken }) => taken === null);
    if (!isOpen && input.target !== null) await apply(sides, input.target, plan);
    const printed = (path: string): string => `/${nameToText(path as never)}`;
    const changes = [
      ...[...plan.puts].map(([path, change]) => ({ path: printed(path), change })),
      ...[...plan.removes].map((path) => ({ path: printed(path), change: 'deleted' as const })),
    ];
    return {
      changes: changes.sort((a, b) => (a.path < b.path ? -1 : 1)),
      conflicts: plan.conflicts.map((conflict) => ({ ...conflict, path: printed(conflict.path) })),
      facts: { removes: [...plan.removes], choice },
    };
  } finally {
    for (const core of opened) closeCore(core);
  }
}

async function apply(sides: Sides, target: VlfsSpec, plan: ReturnType<typeof planMerge>): Promise<void> {
  const core = openCore(target);
  try {
    await applyMerge(sides, core, plan);
  } finally {
    closeCore(core);
  }
}
