/** Old generations, and the units of mirrored repositories that no generation that stays uses. Units of `dir` repositories are somebody's source. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { parseUnitId, type UnitId } from '../../base/index.ts';
import { namesIn } from '../state/files.ts';
import { generationDir } from '../state/paths.ts';
import { forgetUnitIndexes } from '../templates/compose.ts';
import { type ConfigRef, describeOwner, readGeneration } from '../templates/generations.ts';
import { generationKey } from './pins.ts';
import { changedSince, isStillFree, type References } from './references.ts';
import { breather, type Garbage, type GcRun, takeAway } from './trash.ts';

/** Takes away what `references.candidates` names. Units of those that stay after all are added to `references`. */
export async function collectGenerations(run: GcRun, references: References): Promise<void> {
  const { context } = run;
  const { paths, catalog } = context;
  const refs = new Map<Garbage, ConfigRef>();
  for (const ref of references.candidates) {
    const { owner, generation } = ref;
    const garbage: Garbage = {
      kind: 'generations',
      name: `${describeOwner(owner)}, generation ${generation}`,
      path: generationDir(paths, owner, generation),
      trashDir: owner.startsWith('@') ? paths.appliances : paths.templates,
    };
    refs.set(garbage, ref);
  }
  await takeAway(
    run,
    [...refs.keys()],
    () => {
      const since = changedSince(context, references);
      return (garbage) => isStillFree(refs.get(garbage)!, since);
    },
    (batch) => {
      // The catalog keeps the time of appliances/, which the trash has changed.
      if (batch.some(({ trashDir }) => trashDir === paths.appliances)) catalog.put([]);
    },
  );
  const gone = new Set(run.found);
  for (const [garbage, ref] of refs) {
    if (gone.has(garbage)) continue;
    references.generations.add(generationKey(ref));
    try {
      for (const id of readGeneration(paths, ref.owner, ref.generation).units) references.units.add(id);
    } catch {
      // Deleted with its owner meanwhile.
    }
  }
}

/** `REPO/LAYER_VERSION`, as directories and whiteout sets are called. */
export function unitDirKey(id: UnitId): string {
  const { repo, layer, version } = parseUnitId(id)!;
  return `${repo}/${layer}_${version}`;
}

export async function collectUnits(run: GcRun, references: References): Promise<void> {
  const { context } = run;
  const breathe = breather();
  const used = new Set([...references.units].map(unitDirKey));
  const sources = context.repositories
    .all()
    .filter(({ config }) => config.kind === 'dir')
    .map(({ unitsDir }) => `${unitsDir}/`);
  for (const { config, unitsDir } of context.repositories.all()) {
    if (config.kind === 'dir') continue;
    const candidates: Garbage[] = [];
    for (const name of namesIn(unitsDir)) {
      await breathe();
      const path = join(unitsDir, name);
      if (name.startsWith('.') || !name.includes('_') || used.has(`${config.name}/${name}`)) continue;
      if (references.mounted.has(path) || sources.some((source) => source.startsWith(`${path}/`))) continue;
      if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) continue;
      const title = `${config.name}/${name.replace('_', ' ')}`;
      candidates.push({ kind: 'units', name: title, path, trashDir: unitsDir });
    }
    const unused = () => {
      const since = new Set([...changedSince(context, references).units].map(unitDirKey));
      return ({ path }: Garbage) => !since.has(`${config.name}/${path.slice(unitsDir.length + 1)}`);
    };
    await takeAway(run, candidates, unused, (batch) => {
      if (batch.length === 0) return;
      context.repositories.forget(new Set(batch.map(({ path }) => path)));
      forgetUnitIndexes();
    });
  }
}
