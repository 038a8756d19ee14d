/** Commits of staged generations: journal, memory, catalog, appliances that follow. The caller holds the locks of the objects. */
import { mkdirSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { type FleetContext, templateState } from '../context.ts';
import { followTemplate } from '../templates/follow.ts';
import type { Definition } from '../templates/generations.ts';
import { parseLdf } from '../templates/ldf.ts';
import { commitSteps, type StagedGeneration } from '../templates/stage.ts';
import { isThere, syncFileSystem } from './files.ts';
import type { JournalStep } from './journal.ts';
import { COMMIT } from './locks.ts';
import { inState, ownerDir } from './paths.ts';

export function definitionOf(staged: StagedGeneration): Definition {
  return {
    owner: staged.owner,
    record: staged.record,
    ldfText: staged.ldfText,
    ldf: parseLdf(staged.ldfText, `LDF of ${staged.owner}`),
  };
}

/** Lays a staged generation out as a whole new object directory: generations/N, current, ldf. */
export function layOutObject(staged: StagedGeneration, objectDir: string): void {
  mkdirSync(join(objectDir, 'generations'), { recursive: true, mode: 0o755 });
  const n = staged.record.generation;
  renameSync(join(staged.stageDir, 'gen'), join(objectDir, 'generations', String(n)));
  symlinkSync(`generations/${n}`, join(objectDir, 'current'));
  symlinkSync('current/ldf', join(objectDir, 'ldf'));
}

/** A new template appears. Throws EXISTS. */
export async function commitNewTemplate(context: FleetContext, staged: StagedGeneration): Promise<void> {
  await context.locks.with([COMMIT], async () => {
    const dir = ownerDir(context.paths, staged.owner);
    if (isThere(dir)) throw new StrataError('EXISTS', `template ${staged.owner} exists already`);
    const object = join(staged.stageDir, 'object');
    layOutObject(staged, object);
    syncFileSystem(object);
    const steps: JournalStep[] = [
      { do: 'rename', from: inState(context.paths, object), to: inState(context.paths, dir) },
      { do: 'remove', path: inState(context.paths, staged.stageDir) },
    ];
    const id = await context.journal.commit('template-create', steps);
    context.templates.set(staged.owner, { definition: definitionOf(staged), heldBack: null });
    context.journal.finish(id);
  });
}

/**
 * A template's next generation becomes current and its appliances follow. Returns how many. `more`: further steps of the same command, `rows`: appliances as
 * they are after these.
 */
export async function commitTemplate(
  context: FleetContext,
  staged: StagedGeneration,
  more: JournalStep[] = [],
  rows: CatalogRow[] = [],
): Promise<number> {
  return context.locks.with([COMMIT], async () => {
    const state = templateState(context, staged.owner);
    const from = state.definition.record.generation;
    const steps = [...commitSteps(context, staged), ...more];
    const id = await context.journal.commit(staged.record.reason, steps, [
      { kind: 'follow', template: staged.owner, from, to: staged.record.generation },
    ]);
    context.templates.set(staged.owner, { definition: definitionOf(staged), heldBack: state.heldBack });
    try {
      if (rows.length > 0) context.catalog.put(rows);
      return await followTemplate(context, staged.owner, from);
    } finally {
      context.journal.finish(id);
    }
  });
}
