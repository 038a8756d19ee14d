/**
 * Stages one generation: resolved units are fetched, composed, configured, and written with their LDF into a directory beside their
 * place, everything on the disk. Changes nothing that exists; the caller commits the staged generation by the journal or throws it away.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { LIMITS, type Progress, StrataError, type UnitId } from '../../base/index.ts';
import { openTreeIndex, type ScanOptions, writeTreeIndex } from '../../layer/index.ts';
import { AT_FDCWD, newStat, statAt } from '../../sys/index.ts';
import { type FrozenId, frozenDir } from '../clone/frozen.ts';
import { mergeFrozen } from '../clone/merge-frozen.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { TemplateTimings } from '../contract.ts';
import { pinGenerations } from '../gc/pins.ts';
import { type LayerDirs, mergeLayerOver } from '../merge-layers/layer-merge.ts';
import { isThere, removeTree, syncDirectory, syncFileSystem, writeNewFile } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { inState, type Owner, ownerDir } from '../state/paths.ts';
import { type ComposedUnit, checkConflicts, orderUnits, stackOf } from './compose.ts';
import { makeConfigLayer, stageFormerConfig } from './configuration.ts';
import {
  type ConfigRef,
  configPaths,
  type Definition,
  type GenerationRecord,
  ownConfig,
  readConfigFile,
} from './generations.ts';

export interface StageInput {
  owner: Owner;
  /** For messages: `template web`. */
  what: string;
  generation: number;
  ldfText: string;
  ids: UnitId[];
  /** Names of explicit layers. */
  explicit: ReadonlySet<string>;
  previous: Definition | null;
  /** Directly referenced templates, in LDF order. */
  refs: Definition[];
  configure: boolean;
  recommends: boolean;
  reason: string;
  progress: Progress;
  /** The private layer of the appliance in `dir`, with its frozen ones, to merge over the config layer (freeze) instead of a configuration run. */
  freeze?: { dir: string; frozen: readonly { id: FrozenId; isOwn: boolean }[] };
}

export interface StagedGeneration {
  owner: Owner;
  /** Holds `gen/`; to be removed after the commit. */
  stageDir: string;
  record: GenerationRecord;
  ldfText: string;
}

/** Where staging spent its time. */
export type StageTimings = Omit<TemplateTimings, 'resolve_ms'>;

/** Directory for staging, in the family's own directory so that a rename suffices. */
export function makeStageDir(context: FleetContext, owner: Owner): string {
  const family = owner.startsWith('@') ? context.paths.appliances : context.paths.templates;
  const dir = join(family, `.tmp-${operationId()}`);
  mkdirSync(dir, { mode: 0o700 });
  return dir;
}

/** Config layers of referenced templates, each once, in order. */
export function configsOfRefs(refs: Definition[]): ConfigRef[] {
  const seen = new Map<string, ConfigRef>();
  for (const ref of refs) {
    for (const config of ref.record.configs) if (!seen.has(config.owner)) seen.set(config.owner, config);
  }
  return [...seen.values()];
}

/** Throws UNSATISFIABLE, CONFLICT, FETCH, CHECKSUM, SCRIPT_FAILED, NO_SPACE; then nothing is left. */
export async function stageGeneration(
  context: FleetContext,
  input: StageInput,
): Promise<StagedGeneration & { timings: StageTimings }> {
  if (input.ids.length > LIMITS.stackLayers) {
    throw new StrataError('LIMIT', `${input.what} needs more than ${LIMITS.stackLayers} layers`);
  }
  pinGenerations(configsOfRefs(input.refs));
  const begin = performance.now();
  const units = await context.repositories.ensure(input.ids, input.progress);
  const mirrored = performance.now();
  input.progress({ phase: 'compose', message: `composing ${units.length} layers of ${input.what}` });
  const composed = orderUnits(input.ids.map((id, i): ComposedUnit => ({ id, unit: units[i]! })));
  checkConflicts(composed, knownGood(input), input.what);
  const composedAt = performance.now();
  context.onStep('composed');
  const stageDir = makeStageDir(context, input.owner);
  try {
    const dir = join(stageDir, 'gen');
    mkdirSync(dir, { mode: 0o755 });
    const order = composed.map(({ id }) => id);
    const own = await stageConfig(context, input, order, dir);
    context.onStep('configured');
    const refConfigs = configsOfRefs(input.refs);
    const record: GenerationRecord = {
      format: 1,
      generation: input.generation,
      units: order,
      configs: own === null ? refConfigs : [own, ...refConfigs],
      refs: input.refs.map((ref) => ({ template: ref.owner, generation: ref.record.generation })),
      recommends: input.recommends,
      configure: input.configure,
      reason: input.reason,
      createdAt: new Date().toISOString(),
    };
    writeStaged(stageDir, record, input.ldfText);
    context.onStep('staged');
    const timings = {
      mirror_ms: mirrored - begin,
      compose_ms: composedAt - mirrored,
      configure_ms: performance.now() - composedAt,
    };
    return { owner: input.owner, stageDir, record, ldfText: input.ldfText, timings };
  } catch (error) {
    removeTree(stageDir);
    throw error;
  }
}

/** Units that were composed with each other before: those of the present generation, or of one referenced template. */
function knownGood(input: StageInput): Set<UnitId> {
  if (input.previous) return new Set(input.previous.record.units);
  return new Set(input.refs[0]?.record.units ?? []);
}

function writeStaged(stageDir: string, record: GenerationRecord, ldfText: string): void {
  const dir = join(stageDir, 'gen');
  const hasTree = isThere(join(dir, 'config'));
  writeNewFile(join(dir, 'stack.json'), `${JSON.stringify(record, null, 1)}\n`, !hasTree);
  writeNewFile(join(dir, 'ldf'), ldfText, !hasTree);
  if (hasTree) {
    syncFileSystem(dir);
    return;
  }
  syncDirectory(dir);
  syncDirectory(stageDir);
}

/** Makes the own config layer below `dir` when the former one does not serve; null when there is none. */
async function stageConfig(
  context: FleetContext,
  input: StageInput,
  order: UnitId[],
  dir: string,
): Promise<ConfigRef | null> {
  const former = input.previous ? ownConfig(input.previous.record, input.owner) : null;
  const made: ConfigRef = { owner: input.owner, generation: input.generation };
  if (input.freeze) {
    await stageFrozen(context, input, input.freeze, former, dir);
  } else {
    if (!input.configure) return former;
    const base = former ? input.previous!.record : (input.refs[0]?.record ?? null);
    const stack = stackOf(context.paths, context.repositories, {
      units: order,
      configs: configsOfRefs(input.refs),
    });
    const isMade = await makeConfigLayer(context, {
      what: input.what,
      name: input.owner.replace('@', ''),
      before: base?.units ?? input.previous?.record.units ?? [],
      after: order,
      explicit: input.explicit,
      previousStatus: base === null ? null : readConfigFile(context.paths, base, 'var/lib/dpkg/status'),
      former,
      stack,
      stageDir: dir,
      progress: input.progress,
    });
    if (!isMade) return former;
  }
  await writeTreeIndex(join(dir, 'config.index'), join(dir, 'config'), {
    overlay: true,
    ...(former !== null ? { knownDigest: digestsOf(configPaths(context.paths, former)) } : {}),
  });
  return made;
}

/** Digests of files that a staged config layer has in common with the former one: the same inode at the same path. */
function digestsOf(former: { tree: string; index: string }): NonNullable<ScanOptions['knownDigest']> {
  const index = openTreeIndex(former.index);
  const tree = Buffer.from(former.tree).toString('latin1');
  const was = newStat();
  return (path, { dev, ino }) => {
    const entry = index.find(path);
    if (entry < 0 || statAt(AT_FDCWD, `${tree}/${path}`, was) < 0) return null;
    return was.dev === dev && was.ino === ino ? index.digest(entry) : null;
  };
}

async function stageFrozen(
  context: FleetContext,
  input: StageInput,
  freeze: NonNullable<StageInput['freeze']>,
  former: ConfigRef | null,
  dir: string,
): Promise<void> {
  const made = await stageFormerConfig(context, former, dir);
  if (freeze.frozen.length === 0) {
    await mergeLayerOver(layerIn(freeze.dir), made, input.owner, 'copy');
    return;
  }
  // What is frozen never changes, so its files can be shared; what is private is copied.
  const all = join(dir, 'all');
  mkdirSync(all, { mode: 0o700 });
  const layers = freeze.frozen.map(({ id, isOwn }) => ({
    id,
    dir: frozenDir(context.paths, id),
    withoutMarked: !isOwn,
  }));
  await mergeFrozen({ layers: [{ id: '', dir: freeze.dir }, ...layers], to: all, firstIsPrivate: true });
  await mergeLayerOver(layerIn(all), made, input.owner, 'link');
  removeTree(all);
}

function layerIn(dir: string): LayerDirs {
  return { tree: join(dir, 'private'), whiteouts: join(dir, 'whiteouts') };
}

/** Journal steps that make a staged generation the current one of an owner that exists. */
export function commitSteps(context: FleetContext, staged: StagedGeneration): JournalStep[] {
  const dir = inState(context.paths, ownerDir(context.paths, staged.owner));
  const n = staged.record.generation;
  return [
    {
      do: 'rename',
      from: inState(context.paths, join(staged.stageDir, 'gen')),
      to: `${dir}/generations/${n}`,
    },
    { do: 'link', path: `${dir}/current`, target: `generations/${n}` },
    { do: 'link', path: `${dir}/ldf`, target: 'current/ldf' },
    { do: 'remove', path: inState(context.paths, staged.stageDir) },
  ];
}
