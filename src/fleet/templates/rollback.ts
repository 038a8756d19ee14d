/** Rollback: a new generation with an earlier one's content, so that nothing is lost and another rollback undoes it. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { asStrataError, type Progress, StrataError } from '../../base/index.ts';
import { type FleetContext, templateState } from '../context.ts';
import type { UpdateResult } from '../contract.ts';
import { pinGenerations } from '../gc/pins.ts';
import { commitTemplate } from '../state/commit.ts';
import { removeTree, syncDirectory, writeNewFile } from '../state/files.ts';
import { dependents } from './definitions.ts';
import { type GenerationRecord, listGenerations, readGeneration, readGenerationLdf } from './generations.ts';
import { changesBetween } from './resolve-definition.ts';
import { makeStageDir, type StagedGeneration } from './stage.ts';
import { elapsed, templateLock } from './templates.ts';
import { setHeldBack, updateFleet, updateOwnLayers } from './update.ts';

export async function rollbackTemplate(
  context: FleetContext,
  options: { template: string; generation?: number | undefined },
  progress: Progress,
): Promise<UpdateResult> {
  const started = performance.now();
  const name = options.template;
  const result = await context.locks.with([templateLock(name)], async (): Promise<UpdateResult> => {
    const { definition } = templateState(context, name);
    const current = definition.record.generation;
    const target = options.generation ?? current - 1;
    const there = listGenerations(context.paths, name).filter((n) => n < current);
    if (target === current || !there.includes(target)) {
      throw new StrataError(
        target === current ? 'USAGE' : 'NOT_FOUND',
        target === current
          ? `template ${name} is at generation ${current} already`
          : options.generation === undefined && there.length === 0
            ? `template ${name} has no generation to go back to`
            : `template ${name} has no generation ${target} before the present one (${current})`,
        {
          hint: there.length > 0 ? `there are ${there.slice(-10).join(', ')}` : 'it has not been changed yet',
        },
      );
    }
    const old = readGeneration(context.paths, name, target);
    pinGenerations([{ owner: name, generation: target }, ...old.configs]);
    try {
      await context.repositories.ensure(old.units, progress);
    } catch (error) {
      throw unitsGone(context, name, old, error);
    }
    const staged = stageCopy(context, name, old, current + 1);
    try {
      const updated = await commitTemplate(context, staged);
      setHeldBack(context, name, null);
      const changes = changesBetween(definition.record.units, old.units);
      return {
        templates: [{ name, from: current, to: current + 1, changes }],
        appliances: { updated, held_back: [] },
        elapsed_ms: 0,
      };
    } finally {
      removeTree(staged.stageDir);
    }
  });
  const users = dependents(context, name);
  if (users.length > 0) {
    const more = await updateFleet(context, { templates: users, upgrade: 'none' }, progress);
    result.templates.push(...more.templates);
    result.appliances.updated += more.appliances.updated;
    result.appliances.held_back.push(...more.appliances.held_back);
  }
  await context.locks.with([templateLock(name)], () =>
    updateOwnLayers(context, new Set([name]), result, progress),
  );
  return { ...result, elapsed_ms: elapsed(started) };
}

/** gc removes units that only old generations use; where no repository offers them any more, there is no way back to these. */
function unitsGone(context: FleetContext, name: string, old: GenerationRecord, cause: unknown): StrataError {
  const error = asStrataError(cause);
  const isGone = (record: GenerationRecord) =>
    record.units.filter((id) => context.repositories.local(id) === null);
  const missing = isGone(old);
  if (error.code !== 'NOT_FOUND' || missing.length === 0) return error;
  const current = templateState(context, name).definition.record.generation;
  const whole = listGenerations(context.paths, name).filter(
    (n) => n < current && isGone(readGeneration(context.paths, name, n)).length === 0,
  );
  const more = missing.length > 1 ? ` and ${missing.length - 1} more` : '';
  return new StrataError(
    'NOT_FOUND',
    `template ${name} cannot go back to generation ${old.generation}: its unit ${missing[0]}${more} is not on this host any more, and no repository offers it`,
    {
      hint:
        whole.length > 0
          ? `generations that are whole: ${whole.slice(-10).join(', ')}`
          : 'import the unit again, then roll back',
      cause,
    },
  );
}

function stageCopy(
  context: FleetContext,
  name: string,
  old: GenerationRecord,
  generation: number,
): StagedGeneration {
  const stageDir = makeStageDir(context, name);
  const dir = join(stageDir, 'gen');
  mkdirSync(dir, { mode: 0o755 });
  const record: GenerationRecord = {
    ...old,
    generation,
    reason: 'rollback',
    createdAt: new Date().toISOString(),
  };
  const ldfText = readGenerationLdf(context.paths, name, old.generation);
  writeNewFile(join(dir, 'stack.json'), `${JSON.stringify(record, null, 1)}\n`);
  writeNewFile(join(dir, 'ldf'), ldfText);
  syncDirectory(dir);
  syncDirectory(stageDir);
  return { owner: name, stageDir, record, ldfText };
}
